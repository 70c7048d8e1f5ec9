"""train.py and eval.py as Hydra's commands: exit codes, and the jobs of a sweep (-m)."""

import atexit
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import wraps
from pathlib import Path
from traceback import clear_frames
from types import NoneType
from typing import Any, NoReturn

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import MissingMandatoryValue

from captioner import console, files, shell
from captioner.errors import UNSAFE, InputError, is_encodable, printable
from captioner.experiment import runs
from captioner.experiment.run_dir import RunDir, ended_runs

PATHS = {f"data.{name}" for name in ("root", "annotations", "images", "cache", "path", "pattern")}
PATHS |= {"run_dir", "resume", "model", "model.init_from", "encoder.weights", "clip.weights"}
PATHS |= {"predictions", "references", "corpus", "objects", "training"}
LISTS = {"metrics", "phases", *(f"constraints.{name}" for name in ("forbid", "endings", "include"))}


def start(main: Callable[[], Any]) -> None:
    """Run a command that Hydra decorated. Paths on its command line need no quotes of Hydra's."""
    try:
        sys.argv[1:] = quoted(sys.argv[1:])
    except InputError as error:
        sys.exit(console.report(error))
    main()


def quoted(arguments: Sequence[str]) -> list[str]:
    """The arguments, with quotes around values that Hydra would refuse, or not take for a path.

    Its own quotes, lists of models and the values of a sweep (-m) stay; ~/ is the home folder, as
    the shell expands it only at the start of a word. Since metrics is a list, metrics.tokenizer
    means metrics_tokenizer. Raises InputError if one is not UTF-8, has control characters
    where no path is meant, or is an option of a list.
    """
    parser = OverridesParser.create()
    sweep = not {"-m", "--multirun"}.isdisjoint(arguments)

    def is_fine(argument: str, key: str, value: str) -> bool:
        try:
            parsed = parser.parse_override(argument)
        except HydraException:
            return sweep and "," in value
        kinds = (str, NoneType, list) if key == "model" else (str, NoneType)
        several = sweep and parsed.is_sweep_override()
        return key not in PATHS or several or isinstance(parsed.value(), kinds)

    words = []
    for argument in arguments:
        key, is_override, value = argument.partition("=")
        if not is_encodable(argument):
            raise InputError(f"{printable(argument)}: a name that is not UTF-8: rename it")
        if UNSAFE.search(argument) and key not in PATHS:  # Hydra would print it
            raise InputError(f"{printable(argument)}: it holds a control character: take it out")
        if not is_override or argument[0] in "-~":
            words.append(argument)
            continue
        if key == "metrics.tokenizer":
            key = "metrics_tokenizer"
        name, _, option = key.rpartition(".")
        if name in LISTS and not option.isdigit():
            raise InputError(f"{printable(argument)}: {name} is a list: give {name}=[...]")
        if key in PATHS and value.startswith("~/"):
            value = os.path.expanduser(value)
        if is_fine(f"{key}={value}", key, value):
            words.append(f"{key}={value}")
        elif key == "model" and re.fullmatch(r"\[.*\]", value):
            models = map(shell.hydra_string, value[1:-1].split(","))
            words.append(f"{key}=[{','.join(models)}]")
        else:
            words.append(shell.override(key, value))
    return words


def command(main: Callable[[DictConfig], float]) -> Callable[[DictConfig], float]:
    """Decorate a command: a user's error ends it with its message alone, and exit code 2.

    In a sweep it ends only its job, and Hydra ends with 1 after the others.
    """

    @wraps(main)
    def run(config: DictConfig) -> float:
        console.prepare_streams()
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
        job_error = InputError(message)  # a new one, without frames; the other jobs go on
        console.report(job_error)
        raise job_error

    return run


def stop(message: str) -> NoReturn:
    """End the command with exit code 2, and a sweep with all its jobs."""
    sys.exit(console.report(InputError(message)))


def in_sweep() -> bool:
    """Whether this is a job of a sweep (-m)."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def run_dir_of(config: DictConfig) -> RunDir:
    """Where this run, or this job of a sweep, writes."""
    return RunDir(HydraConfig.get().runtime.output_dir if in_sweep() else config.run_dir)


def check_resumes_alone(resume: str) -> None:
    """Raise InputError if other values were given with resume=: a run goes on as it began."""
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    if others := [override for override in overrides if not override.startswith("resume=")]:
        raise InputError(
            f"resume={resume} goes on with that run's own configuration: leave out "
            f"{' '.join(others)}, or train anew in another run_dir"
        )


class SweepTable(Callback):
    """After each job of a sweep, writes one table of all jobs, as runs.md and runs.csv.

    Before the first, it locks the sweep's folder until this process ends.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        lock = ExitStack()
        try:
            lock.enter_context(files.locked_folder(Path(config.hydra.sweep.dir)))
        except InputError as error:
            stop(str(error))
        atexit.register(lock.close)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if config.hydra.mode != RunMode.MULTIRUN:
            return
        folder = Path(config.hydra.sweep.dir)
        if results := {run.folder.name: run.results() for run in ended_runs(folder)}:
            files.write_atomic(folder / "runs.md", runs.markdown(results))
            files.write_atomic(folder / "runs.csv", runs.as_csv(results))
