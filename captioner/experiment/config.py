"""What train.py and eval.py share: the typed top level of conf/, and what may be made out of it.

Hydra's `instantiate` would call anything, so it is not used: optimisers are looked up in
torch.optim by `make_optimizer`, everything of captioner is made by `targets.make`.
"""

import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial, wraps
from inspect import signature
from pathlib import Path
from traceback import clear_frames
from typing import Any, NoReturn

import torch
import yaml  # type: ignore[import-untyped]
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from captioner import files, instantiate, search
from captioner.errors import InputError
from captioner.evaluation.scoring import RESAMPLES
from captioner.experiment import runs
from captioner.metrics.score import USUAL
from captioner.search.constraints import Constraints
from captioner.training.adagrad import Adagrad


@dataclass
class DataConfig:
    """scenes: root holds the embedded data, whose captions can be checked for truth.
    annotations, images: where records.read shall look, if not where it looks by itself.

    limit: only the first n pictures of a split. batch_size: pictures a step; captions: of each.
    workers: threads that read pictures ahead, in each process.
    cache: where features are kept (default: captioner/features in the user's cache folder).
    skip_bad: go on without pictures that cannot be read; they are listed in RUN_DIR/skipped.txt.
    views > 1 with augment: versions of each picture that a frozen encoder's cache holds.
    """

    root: str = MISSING
    scenes: bool = False
    annotations: str | None = None
    images: str | None = None
    train_split: str = "train"
    val_split: str = "val"
    limit: int | None = None
    batch_size: int = 32
    captions: int = 5
    workers: int = 1
    views: int = 1
    augment: Any = None
    cache: str | None = None
    skip_bad: bool = False


@dataclass
class TextConfig:
    """path: a UTF-8 file, a folder (pattern: of its files), or `python`, Python's own modules.

    val_share: how much of it is held out. batch_size: streams, in each process. bptt: tokens after
    which the gradient is cut. prompt: what samples in validation go on from. cache: where encoded
    text is kept (default: captioner/text in the user's cache folder).
    """

    path: str = MISSING
    pattern: str = "*"
    val_share: float = 0.1
    batch_size: int = 32
    bptt: int = 100
    prompt: str = ""
    cache: str | None = None


@dataclass
class ModelConfig:
    """init_from: a model directory whose weights training starts from; its words keep theirs."""

    init_from: str | None = None


@dataclass
class TrainConfig:
    """encoder_lr: of an encoder that trains. ema: of a moving average of the weights, how much each
    step leaves in place (0.999, say); the average is then what is validated and kept. 0: none.
    warmup: share of the steps in which the learning rate rises. schedule: from there on it falls
    along a "cosine", or is "constant". loss: the "mean" over a step's words, or their "sum".
    patience: validations without a better one (of CIDEr, or bits) after which training stops.

    phases: runs one after the other, each in its own folder of the run's: what differs of their
    configurations, and a name. Each starts from the model of the one before; an entry with a
    `_target_` takes the place of the whole.

    checkpoint_minutes: how often the state of the run is saved, besides before each validation and
    after each epoch. timeout: seconds after which a process that hears nothing from the others
    ends. resume: the directory of a run that goes on, with its own configuration.
    """

    data: Any = MISSING
    model: ModelConfig = field(default_factory=ModelConfig)
    encoder: dict[str, Any] = MISSING
    decoder: dict[str, Any] = MISSING
    objective: dict[str, Any] = MISSING
    search: dict[str, Any] = MISSING
    trainer: dict[str, Any] = MISSING
    tokenizer: dict[str, Any] = MISSING
    optimizer: dict[str, Any] = MISSING
    encoder_lr: float = 1e-5
    ema: float = 0.0
    warmup: float = 0.1
    schedule: str = "cosine"
    loss: str = "mean"
    patience: int = 5
    seed: int = 0
    checkpoint_minutes: float = 10.0
    timeout: float = 600.0
    phases: Any = None
    resume: str | None = None
    run_dir: str = "runs/${run_name:}"


@dataclass
class ClipConfig:
    """name: of open_clip's models; weights: one of its tags, or a file."""

    name: str | None = None
    weights: str = "openai"


@dataclass
class EvalConfig:
    """Either `model` (with data, split, search), or `predictions` (with references,
    or with data and split).

    model: a model directory, or a list of them, an ensemble; average: log_prob or prob. metrics:
    names of scoring.py; without any, pictures need no references. official: tokenize
    as the official code does, each caption with the next one in view. corpus: CIDEr's document
    frequencies, a caption file or a table, instead of the references'. objects: COCO's instance
    annotations, for chair. training: a caption file, to tell which captions are novel. resamples,
    seed: of the 95 % intervals; 0 for none.
    """

    data: Any = MISSING
    search: dict[str, Any] = MISSING
    wording: Constraints = field(default_factory=Constraints)
    model: Any = None
    average: str = "log_prob"
    split: str = "val"
    predictions: str | None = None
    references: str | None = None
    metrics: list[str] = field(default_factory=lambda: list(USUAL))
    official: bool = False
    corpus: str | None = None
    objects: str | None = None
    training: str | None = None
    clip: ClipConfig = field(default_factory=ClipConfig)
    resamples: int = RESAMPLES
    seed: int = 0
    run_dir: str = "runs/eval_${now:%Y-%m-%d_%H-%M-%S}"


def register() -> None:
    """Makes the schemas known to Hydra, before it composes."""
    OmegaConf.register_new_resolver("run_name", _run_name, use_cache=True, replace=True)
    store = ConfigStore.instance()
    store.store("train_schema", TrainConfig)
    store.store("eval_schema", EvalConfig)
    store.store("base", DataConfig, group="data")
    store.store("text_base", TextConfig, group="data")


def _run_name() -> str:
    """SLURM's job number, which a requeued job keeps; elsewhere, date and time."""
    if "SLURM_JOB_ID" in os.environ:
        return f"slurm_{os.environ['SLURM_JOB_ID']}"
    return time.strftime("%Y-%m-%d_%H-%M-%S")


def command(main: Callable[[DictConfig], Any]) -> Callable[[DictConfig], Any]:
    """A user's error ends the command with its message alone, and exit code 2; in a sweep, only its
    job, and Hydra ends with 1 after the others."""

    @wraps(main)
    def run(config: DictConfig) -> Any:
        try:
            return main(config)
        except MissingMandatoryValue as error:
            message = f"{error.full_key} is not set: give {error.full_key}=..."
        except InputError as error:
            message = str(error)
        except Exception as error:
            if in_sweep():  # Hydra keeps it, and with its frames the model and its batches
                clear_frames(error.__traceback__)
            raise
        if not in_sweep():
            stop(message)
        print(f"error: {message}", file=sys.stderr)
        raise InputError(message)  # a new one, without frames; the other jobs go on

    return run


def stop(message: str) -> NoReturn:
    """Ends the command, and a sweep with all its jobs."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def in_sweep() -> bool:
    """Whether this is a job of a sweep (-m)."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def run_dir(config: DictConfig) -> Path:
    """Where this run, or this job of a sweep, writes."""
    return Path(HydraConfig.get().runtime.output_dir if in_sweep() else config.run_dir)


class SweepTable(Callback):
    """Hydra calls it: after each job of a sweep, one table of them all, as runs.md and runs.csv."""

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if config.hydra.mode != RunMode.MULTIRUN:
            return
        folder = Path(config.hydra.sweep.dir)
        ended = sorted(folder.glob("*/scores.json"), key=lambda path: (len(str(path)), path))
        if found := {path.parent.name: runs.read_run(path.parent) for path in ended}:
            files.write_atomic(folder / "runs.md", runs.markdown(found))
            files.write_atomic(folder / "runs.csv", runs.as_csv(found))


def check_ranges(config: DictConfig) -> None:
    """Raises InputError for a number that is too small, before anything is computed."""
    least = {"batch_size": 1, "captions": 1, "workers": 0, "views": 1, "bptt": 1}
    values = {
        f"data.{name}": (config.data[name], low)
        for name, low in least.items()
        if name in config.data
    }
    values |= {"patience": (config.patience, 0), "encoder_lr": (config.encoder_lr, 0)}
    values["trainer.max_epochs"] = (config.trainer.max_epochs, 1)
    for name, (value, low) in values.items():
        if not isinstance(value, int | float) or value < low:
            raise InputError(f"{name}={value}: give {low} or more")
    if isinstance(interval := config.trainer.get("val_check_interval"), str):
        raise InputError(
            f"trainer.val_check_interval={interval}: give a share of the epoch, or how many batches"
        )
    if config.loss not in ("mean", "sum"):
        raise InputError(f"loss={config.loss}: give mean or sum")
    if config.timeout <= 0:
        raise InputError(f"timeout={config.timeout}: give more than 0 seconds")
    if not 0 <= config.ema < 1:
        raise InputError(f"ema={config.ema}: give 0 <= ema < 1, such as 0.999")
    if not 0 <= config.warmup < 1:
        raise InputError(f"warmup={config.warmup}: give 0 <= warmup < 1, a share of all steps")


def check_alone(resume: str) -> None:
    """Raises InputError where other values were given with resume=: what goes on cannot change."""
    task = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    if other := [override for override in task if not override.startswith("resume=")]:
        raise InputError(
            f"resume={resume} goes on with that run's own configuration: leave out "
            f"{' '.join(other)}, or train anew in another run_dir"
        )


def begun(run_dir: Path, config: DictConfig) -> bool:
    """Whether this run was begun there, with this very configuration."""
    path = run_dir / "config.yaml"
    return path.is_file() and path.read_text(encoding="utf-8") == as_yaml(config)


def in_the_way(run_dir: Path) -> str | None:
    """Why a new run cannot begin there."""
    if (run_dir / "config.yaml").exists():
        go_on = f"go on with it by resume={run_dir}"
        return f"{run_dir} holds a run already: {go_on}, or give another run_dir"
    if run_dir.exists() and not run_dir.is_dir():
        return f"{run_dir}: not a folder: give another run_dir"
    return None


def as_yaml(config: DictConfig) -> str:
    """What a run directory keeps."""
    return OmegaConf.to_yaml(config, resolve=True)


def resumed(run_dir: Path) -> DictConfig:
    """The configuration of the run that goes on. Raises InputError where there is none."""
    path = run_dir / "config.yaml"
    if not path.is_file():
        raise InputError(f"{path}: no such file, so there is no run to go on with")
    try:
        saved = OmegaConf.merge(OmegaConf.structured(TrainConfig), OmegaConf.load(path))
    except (OmegaConfBaseException, yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not the configuration of a run: {error}") from error
    assert isinstance(saved, DictConfig)
    saved.run_dir = saved.resume = str(run_dir)
    return saved


def device() -> torch.device:
    """Where captions are made: this process's GPU where there is one."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cpu")


def plain(config: Any) -> Any:
    """An OmegaConf node as dicts and lists; anything else as it is."""
    if not OmegaConf.is_config(config):
        return config
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


def make_optimizer(
    config: DictConfig, precision: str = "32-true"
) -> Callable[..., torch.optim.Optimizer]:
    """{_target_: torch.optim.NAME, lr: ..} -> what makes it of parameters.

    Fused where there is such a form and nothing else was asked for: three times as fast on CPUs.
    Not in 16-mixed, whose gradients would then stay scaled until after they are clipped.

    Raises InputError for anything that is not one of torch.optim's own optimisers (or
    captioner.training.adagrad's), and for options that it refuses.
    """
    options = plain(config)
    target = str(options.pop("_target_", None))
    match = re.fullmatch(r"torch\.optim\.(\w+)", target)
    Class = match and getattr(torch.optim, match[1], None)
    if target == "captioner.training.adagrad.Adagrad":
        Class = Adagrad
    if not (isinstance(Class, type) and issubclass(Class, torch.optim.Optimizer)):
        raise InputError(
            f"optimizer._target_={target}: give one of torch.optim's, as torch.optim.Adam"
        )
    if "fused" in signature(Class).parameters and not {"foreach", "differentiable"} & set(options):
        options.setdefault("fused", precision != "16-mixed")
    if options.get("fused") and precision == "16-mixed":
        raise InputError("optimizer.fused=true with trainer.precision=16-mixed: give false")
    try:
        Class([torch.zeros(1, requires_grad=True)], **options)
    except (TypeError, ValueError, RuntimeError) as error:
        given = " ".join(f"optimizer.{key}={value}" for key, value in options.items())
        raise InputError(f"{given}: {target} refuses this: {error}") from error
    return partial(Class, **options)


def cache_folder(given: str | None, kind: str) -> Path:
    """data.cache, or captioner/KIND in the user's cache folder."""
    user_cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(given or f"{user_cache}/captioner/{kind}").expanduser()


def decoder_options(config: DictConfig) -> tuple[dict[str, Any], str | None]:
    """What makes the decoder, and decoder.init_from: the language model that it starts from."""
    options = plain(config)
    return options, options.pop("init_from", None)


def make_strategy(config: DictConfig) -> search.Strategy:
    """The search that `conf/search` describes."""
    return instantiate.instantiate(plain(config), "captioner.search", search.STRATEGIES)


def make_wording(config: DictConfig) -> Constraints:
    """What captions may and must say, as the key `wording` says it."""
    return OmegaConf.to_object(config)  # type: ignore[return-value]
