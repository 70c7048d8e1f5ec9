"""The files of a run directory, and how far its run has come. Other modules get the paths here.

    RUN_DIR/lock               while a process writes here: which one
    RUN_DIR/tokenizer.json     at the start: the vocabulary
    RUN_DIR/skipped.txt        at the start: the bad pictures that are left out, if any, and why
    RUN_DIR/config.yaml        at the start, last: the configuration; a run with it has begun
    RUN_DIR/frequencies.npz    at the start, if captions are rewarded: document frequencies
    RUN_DIR/metrics.csv        every few steps and at validations: logs; tensorboard/ has the same
    RUN_DIR/samples.txt        at some steps and at validations: what a language model writes
    RUN_DIR/checkpoints/       every few minutes, before validations: the state, for resume=RUN_DIR
    RUN_DIR/model/             after a validation that is the best so far: the model
    RUN_DIR/predictions.json   after training: its captions of the validation split
    RUN_DIR/scores.json        after training, last: their scores; a run with it has ended
    RUN_DIR/run.json           at a stop and at the end: trained parameters, seconds spent

A run with several phases (cross-entropy, then self-critical training, say) holds a run directory
for each phase, and a copy of the last one's results. eval.py writes predictions and scores only.
"""

import csv
import io
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from captioner import console, distributed, files, shell
from captioner.errors import InputError, json_field, not_a_file, printable, read_json, read_text
from captioner.experiment.schemas import DataConfig, TextConfig, TrainConfig
from captioner.metrics import score
from captioner.models import directory
from captioner.tokenizers import Tokenizer

PLACES = ("run_dir", "resume", "data.cache", "data.root")
"""Options that do not change what a run computes, only where it reads and writes."""

Results = Mapping[str, Any]
"""Corpus scores (1 is 100 in a table), `perplexity`, `parameters`, `seconds`, and `config`, by
dotted names."""


LARGEST_CONFIG = 2**20  # bytes
UNREADABLE = (OSError, ValueError, OverflowError, RecursionError, yaml.YAMLError)
"""What reading a damaged text, CSV or YAML file raises."""


class RunDir:
    """The paths in a run directory, and what they say of its run."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.config = self.folder / "config.yaml"
        self.tokenizer = self.folder / "tokenizer.json"
        self.skipped = self.folder / "skipped.txt"
        self.summary = self.folder / "run.json"
        self.frequencies = self.folder / "frequencies.npz"
        self.metrics = self.folder / "metrics.csv"
        self.tensorboard = self.folder / "tensorboard"
        self.samples = self.folder / "samples.txt"
        self.growing = self.metrics, self.samples
        self.checkpoints = self.folder / "checkpoints"
        self.model = self.folder / "model"
        self.predictions = self.folder / "predictions.json"
        self.scores = self.folder / "scores.json"

    def __str__(self) -> str:
        return str(self.folder)

    def resume_command(self) -> str:
        """The command line that goes on with this run."""
        return shell.command("python", "train.py", shell.override("resume", self))

    def has_begun(self) -> bool:
        """Whether a run has begun here."""
        return self.config.exists()

    def has_begun_with(self, config: DictConfig) -> bool:
        """Whether a run has begun here with this very configuration."""
        text = OmegaConf.to_yaml(config, resolve=True)
        return self.config.is_file() and self.config.read_text(encoding="utf-8") == text

    def has_ended(self) -> bool:
        """Whether the run has its scores."""
        return self.scores.exists()

    @contextmanager
    def claimed(self, new: bool = False) -> Iterator[None]:
        """Keep other runs out, from before anything is written until the end of the block.

        new: whether a run is to begin here. The first process takes the folder's lock. Raises
        InputError, in all processes, if another run has it or a new one cannot begin here.
        """
        problem = None
        with ExitStack() as stack:
            if distributed.rank() == 0:
                try:
                    if os.path.exists(self.folder) and not os.path.isdir(self.folder):
                        raise InputError(f"{printable(self)}: not a folder: give another run_dir")
                    stack.enter_context(files.locked_folder(self.folder))
                    if new:
                        self._check_free()
                    self._check_kinds()
                    files.remove_temporary(self.folder, self.model)
                except InputError as error:
                    problem = str(error)
            if problem := distributed.gather(problem)[0]:
                raise InputError(problem)
            yield

    def _check_kinds(self) -> None:
        """Raise InputError if a file is not a regular one, or a folder is none."""
        folders = self.folder, self.checkpoints, self.model, self.tensorboard
        for path in vars(self).values():
            if not isinstance(path, Path) or not path.exists():
                continue
            problem = not_a_file(path.stat())
            if path in folders:
                problem = "" if path.is_dir() else "not a folder"
            if problem:
                raise InputError(f"{printable(path)}: {problem}: move it away, or copy it again")

    def _check_free(self) -> None:
        """Raise InputError if a new run cannot begin here."""
        name = printable(self)
        if self.has_begun():
            go_on = f"go on with it by {shell.command(shell.override('resume', self))}"
            raise InputError(f"{name} holds a run already: {go_on}, or give another run_dir")
        results = self.metrics, self.checkpoints, self.model, self.predictions, self.scores
        if names := [path.name for path in results if path.exists()]:
            raise InputError(
                f"{name} holds {', '.join(names)}, but no {self.config.name}: "
                "move them away, or give another run_dir"
            )

    def resumed_config(self) -> DictConfig:
        """The configuration of the run that goes on here. Raises InputError if there is none."""
        if not self.config.is_file():
            raise InputError(f"{self.config}: no such file, so there is no run to go on with")
        try:
            saved = OmegaConf.create(_config_text(self.config))
            config = OmegaConf.merge(OmegaConf.structured(TrainConfig), saved)
            schema = OmegaConf.structured(TextConfig if "bptt" in config.data else DataConfig)
            config.data = OmegaConf.merge(schema, config.data)
        except InputError:
            raise
        except (OmegaConfBaseException, TypeError, *UNREADABLE) as error:
            raise InputError(f"{self.config}: not the configuration of a run: {error}") from error
        assert isinstance(config, DictConfig)
        config.run_dir = config.resume = str(self)
        return config

    def write_config(self, config: DictConfig) -> None:
        """Mark the run as begun, unless it is already."""
        files.make_folder(self.folder)
        if not self.has_begun():
            files.write_atomic(self.config, OmegaConf.to_yaml(config, resolve=True))

    def write_beginnings(
        self, config: DictConfig, tokenizer: Tokenizer, skipped: Sequence[str]
    ) -> None:
        """Write the vocabulary, the list of bad pictures and the configuration.

        Raises InputError if a run that goes on would have another vocabulary than it began with.
        """
        path = self.tokenizer
        if self.has_begun() and path.exists() and path.read_bytes() != tokenizer.to_json().encode():
            raise InputError(
                f"{path}: the training captions, or texts, have changed since the run began"
            )
        files.write_atomic(path, tokenizer.to_json())
        if skipped:
            files.write_atomic(self.skipped, "".join(f"{line}\n" for line in skipped))
        self.write_config(config)

    def add_time(self, seconds: float, parameters: int) -> None:
        """Add these seconds to those in run.json. A kill loses the seconds of its process."""
        if self.summary.exists():
            try:
                seconds += _numbers(self.summary).get("seconds") or 0
            except InputError as error:
                console.note(f"{error}: the seconds before are not counted")
        files.write_atomic(self.summary, json.dumps({"parameters": parameters, "seconds": seconds}))

    def copy_results(self, other: "RunDir") -> None:
        """Take over the other run's model, predictions (if any: texts have none) and scores."""
        models = (other.model / name for name in directory.FILES)
        for source in (other.predictions, other.scores, *models):
            if source.exists():
                target = self.folder / source.relative_to(other.folder)
                files.make_folder(target.parent)
                files.write_atomic(target, source.read_bytes())

    def headline(self) -> float:
        """The one number by which a run that has ended is compared. Raises InputError."""
        return score.headline({"corpus": _numbers(self.scores, "corpus")})

    def results(self) -> Results:
        """Scores, perplexity, size, time and configuration, or those of an evaluation: scores only.

        Raises InputError naming the file that cannot be read.
        """
        results: dict[str, Any] = _numbers(self.scores, "corpus")
        config: dict[str, Any] = {}
        try:
            if (path := self.metrics).exists():
                table = csv.DictReader(io.StringIO(read_text(path), newline=""))
                rows = [row for row in table if row.get("val/nll")]
                if not rows:
                    raise ValueError("no row of a validation")
                best = max(
                    rows, key=lambda row: float(row.get("val/CIDEr") or -float(row["val/nll"]))
                )
                results["perplexity"] = math.exp(float(best["val/nll"]))
            if (path := self.config).exists():
                flat = _flat(yaml.safe_load(_config_text(path)))
                config = {"config": {k: v for k, v in flat.items() if k not in PLACES}}
        except InputError:
            raise
        except (*UNREADABLE, KeyError, TypeError, AttributeError, csv.Error) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{path}: not readable ({reason}); has the run ended?") from error
        if self.summary.exists():
            results |= _numbers(self.summary)
        return results | config


def ended_runs(folder: Path) -> list[RunDir]:
    """The runs in the folders of this one that have ended, in the order of a sweep's jobs."""
    runs = [RunDir(path) for path in folder.glob("*") if RunDir(path).has_ended()]
    return sorted(runs, key=lambda run: (len(str(run)), str(run)))


def _numbers(path: Path, *keys: str) -> dict[str, Any]:
    """Return the numbers, or None, by name, of the JSON object at these keys. Raises InputError."""
    content, place = read_json(path), printable(path)
    for key in keys:
        content = json_field(content, key, (dict,), place)
    if type(content) is not dict:
        raise InputError(f"{place}: expected an object, got {str(content)[:60]!r}")
    for name in content:
        value = json_field(content, name, (int, float, type(None)), place)
        if value is not None and abs(value) > 2**63:
            raise InputError(f"{place}: {name} is too large")
    return content


def _config_text(path: Path) -> str:
    """The YAML of a configuration. Raises InputError, or a YAMLError, if it is none of ours: a few
    lines with aliases may mean gigabytes."""
    text = read_text(path, LARGEST_CONFIG)
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
        raise InputError(f"{printable(path)}: not the configuration of a run: it has aliases (*)")
    return text


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        nested = isinstance(value, Mapping)
        flat |= _flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat
