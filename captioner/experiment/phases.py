"""A curriculum: phases of one run, each a run of its own in its own folder."""

import re
import sys
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from captioner import distributed, shell
from captioner.console import say
from captioner.errors import InputError
from captioner.experiment.run_dir import RunDir
from captioner.experiment.schemas import TrainConfig, plain
from captioner.experiment.trainer import train


def run_phases(config: DictConfig, run: RunDir, script: str) -> float:
    """Run one training after the other, each resumable; the results of the last are the run's.

    script: train.py, by which further processes resume a phase.
    """
    distributed.join()  # if torchrun started several; those of Lightning are of one phase each
    run = distributed.gather(run)[0]
    phases = phase_configs(config, run)
    with run.claimed(new=not config.resume):
        return _run_phases(config, run, phases, script)


def _run_phases(
    config: DictConfig, run: RunDir, phases: Sequence[tuple[RunDir, DictConfig]], script: str
) -> float:
    """The same, in a directory that no other run writes to."""
    first = distributed.rank() == 0
    if first:
        run.write_config(config)
        for phase, phase_config in phases:
            phase.write_config(phase_config)
    distributed.gather(None)
    for number, (phase, _) in enumerate(phases, 1):
        if phase.has_ended():
            continue
        if first:
            say(f"phase {number} of {len(phases)}: {phase.folder.name}")
        try:
            train(
                phase.resumed_config(),
                phase,
                [sys.executable, script, shell.override("resume", phase)],
            )
        except SystemExit:
            if first:
                say(f"and with the phases after it\n  {run.resume_command()}")
            raise
    last, _ = phases[-1]
    if first:
        run.copy_results(last)
        say(f"the last phase's model and scores are in {run}")
    return last.headline()


def phase_configs(config: DictConfig, run: RunDir) -> list[tuple[RunDir, DictConfig]]:
    """The folder and configuration of each phase. Raises InputError for one that does not fit."""
    phases: list[tuple[RunDir, DictConfig]] = []
    for number, changes in enumerate(plain(config.phases), 1):
        if not isinstance(changes, dict):
            raise InputError(f"phases: {changes!r} is not a part of a configuration")
        name = changes.pop("name", "phase")
        if not isinstance(name, str) or not re.fullmatch(r"[\w-]+", name):
            raise InputError(f"phases: name={name!r}: give letters, digits, - and _")
        base = plain(config) | {"phases": None, "resume": None}
        if phases:
            base["model"] = {"init_from": str(phases[-1][0].model)}
        replaced = {k: v for k, v in changes.items() if isinstance(v, dict) and "_target_" in v}
        merged: Any = OmegaConf.to_container(OmegaConf.merge(base, changes))
        phase = RunDir(run.folder / f"{number}_{name}")
        try:
            phase_config = OmegaConf.merge(
                OmegaConf.structured(TrainConfig), merged | replaced, {"run_dir": str(phase)}
            )
        except OmegaConfBaseException as error:
            raise InputError(f"phases: {name}: {str(error).splitlines()[0]}") from error
        assert isinstance(phase_config, DictConfig)
        phases.append((phase, phase_config))
    if not phases:
        raise InputError("phases=[]: give one or more, or null")
    return phases
