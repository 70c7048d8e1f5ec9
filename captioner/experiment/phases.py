"""A curriculum: phases of one run, each a run of its own in its own folder."""

import contextlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import distributed as torch_distributed

from captioner import distributed, files
from captioner.errors import InputError
from captioner.evaluation import scoring
from captioner.experiment import config
from captioner.models import directory


def run(cfg: DictConfig, run_dir: Path, train: Callable[[DictConfig, Path], float]) -> float:
    """One `train` after the other, each resumable; the last one's results are the whole's."""
    distributed.join()  # where torchrun started several; those of Lightning are of one phase each
    run_dir = distributed.gather(run_dir)[0]
    parts = read(cfg, run_dir)
    problem = None if cfg.resume else config.in_the_way(run_dir)
    if problem := distributed.gather(problem)[0]:
        raise InputError(problem)
    first = distributed.rank() == 0
    if first:
        files.make_folder(run_dir)
        if not (run_dir / "config.yaml").exists():
            files.write_atomic(run_dir / "config.yaml", config.as_yaml(cfg))
        for folder, own in parts:
            files.make_folder(folder)
            if not (folder / "config.yaml").exists():
                files.write_atomic(folder / "config.yaml", config.as_yaml(own))
    distributed.gather(None)
    for number, (folder, _) in enumerate(parts, 1):
        if (folder / "scores.json").exists():
            continue
        if first:
            print(f"phase {number} of {len(parts)}: {folder.name}")
        try:
            with _as_if_called(f"resume={folder}"):
                train(config.resumed(folder), folder)
        except SystemExit:
            if first:
                print(f"and with the phases after it\n  python train.py resume={run_dir}")
            raise
    last = parts[-1][0]
    if first:
        names = ["predictions.json", "scores.json", *(f"model/{n}" for n in directory.FILES)]
        for name in names:
            if (last / name).exists():  # a language model has no predictions
                files.make_folder((run_dir / name).parent)
                files.write_atomic(run_dir / name, (last / name).read_bytes())
        print(f"the last phase's model and scores are in {run_dir}")
    return scoring.headline(json.loads((last / "scores.json").read_text(encoding="utf-8")))


@contextlib.contextmanager
def _as_if_called(*arguments: str) -> Iterator[None]:
    """The processes that Lightning starts inside are called like this one, with these arguments;
    and what it leaves behind for them is taken away."""
    argv, environment, joined = sys.argv, dict(os.environ), torch_distributed.is_initialized()
    sys.argv = [argv[0], *arguments]
    try:
        yield
    finally:
        sys.argv = argv
        os.environ.clear()
        os.environ.update(environment)
        if torch_distributed.is_initialized() and not joined:
            torch_distributed.destroy_process_group()


def read(cfg: DictConfig, run_dir: Path) -> list[tuple[Path, DictConfig]]:
    """The folder and configuration of each phase. Raises InputError for one that does not fit."""
    found: list[tuple[Path, DictConfig]] = []
    for number, phase in enumerate(config.plain(cfg.phases), 1):
        if not isinstance(phase, dict):
            raise InputError(f"phases: {phase!r} is not a part of a configuration")
        name = phase.pop("name", "phase")
        if not isinstance(name, str) or not re.fullmatch(r"[\w-]+", name):
            raise InputError(f"phases: name={name!r}: give letters, digits, - and _")
        own = config.plain(cfg) | {"phases": None, "resume": None}
        if found:
            own["model"] = {"init_from": str(found[-1][0] / "model")}
            if "init_from" in own["decoder"]:
                own["decoder"]["init_from"] = None
        whole = {key: value for key, value in phase.items() if _has_target(value)}
        own = OmegaConf.to_container(OmegaConf.merge(own, phase)) | whole  # type: ignore[operator]
        folder = run_dir / f"{number}_{name}"
        try:
            made = OmegaConf.merge(
                OmegaConf.structured(config.TrainConfig), own, {"run_dir": str(folder)}
            )
        except OmegaConfBaseException as error:
            raise InputError(f"phases: {name}: {str(error).splitlines()[0]}") from error
        assert isinstance(made, DictConfig)
        found.append((folder, made))
    if not found:
        raise InputError("phases=[]: give one or more, or null")
    return found


def _has_target(value: Any) -> bool:
    return isinstance(value, dict) and "_target_" in value
