"""Everything that touches private parts of PyTorch Lightning, each as a function with a reason.

No other file does. tests/training/test_lightning.py and test_resume.py check that the installed
Lightning still has these parts, so that an upgrade does not fail in the middle of somebody's run.
"""

import logging
import os
import signal
import subprocess
import traceback
import warnings
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytorch_lightning as pl
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher
from torch import distributed

T = TypeVar("T")


def silence() -> None:
    """Turn off Lightning's advice and the warnings that do not apply here."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        "Found .* module.* in eval mode",  # a frozen encoder
        "You're resuming from a checkpoint that ended before",  # our data modules skip batches
        ".*sync_dist=True.* when logging on epoch",  # all processes log the same number
        ".*treespec, LeafSpec.* is deprecated",
    ):
        warnings.filterwarnings("ignore", message)


def has_raised(error: Exception) -> bool:
    """Whether it was Lightning's own code that raised an error: it refuses an option's value."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_globals["__name__"].startswith(("pytorch_lightning.", "lightning_fabric."))


def starts_scripts(trainer: pl.Trainer) -> bool:
    """Whether the trainer itself starts further processes by calling the script again: with
    trainer.strategy=ddp on several devices, unless SLURM or torchrun start the processes."""
    launcher = trainer.strategy.launcher
    return (
        isinstance(launcher, _SubprocessScriptLauncher)
        and not launcher.cluster_environment.creates_processes_externally
    )


def launch(
    trainer: pl.Trainer,
    function: Callable[..., T],
    *arguments: Any,
    command: Sequence[str] | None = None,
) -> T:
    """Call `function` in all processes of the trainer, which can talk to each other by then.

    Lightning would start them in `fit` only; started here, they share what comes before and after
    too. command: what starts the others; by default the command line of this process. With one,
    what the processes needed to find each other is undone afterwards, for the next launch. If
    `function` raises, the others are killed: they might wait for this process for ever.
    """
    strategy, launcher = trainer.strategy, trainer.strategy.launcher
    if not isinstance(launcher, _SubprocessScriptLauncher):
        return function(*arguments)
    joined, environment = distributed.is_initialized(), dict(os.environ)
    if command is not None:
        launcher._call_children_scripts = partial(_start, launcher, command)  # type: ignore
    strategy._launcher = None  # `fit` must not start them once more

    def connected() -> T:
        strategy.setup_environment()
        return function(*arguments)

    try:
        return launcher.launch(connected)
    except BaseException:
        launcher.kill(signal.SIGKILL)
        launcher.procs.clear()  # or Lightning's observer kills this process for their exit code
        raise
    finally:
        if command is not None and not joined and distributed.is_initialized():
            distributed.destroy_process_group()
            for name in ("MASTER_ADDR", "MASTER_PORT"):
                if name not in environment:
                    os.environ.pop(name, None)


def _start(launcher: _SubprocessScriptLauncher, command: Sequence[str]) -> None:
    """Start the other processes of this node; this one's environment stays as it is."""
    cluster = launcher.cluster_environment
    environment = os.environ | {
        "MASTER_ADDR": cluster.main_address,
        "MASTER_PORT": str(cluster.main_port),
        "NODE_RANK": str(cluster.node_rank()),
        "WORLD_SIZE": str(launcher.num_processes * launcher.num_nodes),
    }
    launcher.procs = [
        subprocess.Popen(command, env=environment | {"LOCAL_RANK": str(rank)})
        for rank in range(1, launcher.num_processes)
    ]


def set_timeout(trainer: pl.Trainer, seconds: float) -> None:
    """Set how long a process waits for the others. (Only the strategy's constructor takes this, and
    trainer.strategy is a name in a configuration.)"""
    if isinstance(trainer.strategy, DDPStrategy):
        trainer.strategy._timeout = timedelta(seconds=seconds)


def replace_sigterm_handler(trainer: pl.Trainer, handler: Callable[[int, Any], None]) -> None:
    """Have `handler` called on SIGTERM in place of Lightning's own, which broadcasts from inside a
    signal handler and ends the run with exit code 0."""
    trainer._signal_connector._sigterm_notifier_fn = handler  # type: ignore


def is_between_micro_batches(trainer: pl.Trainer) -> bool:
    """Whether gradients are being accumulated; no checkpoint holds those."""
    return trainer.fit_loop.epoch_loop._should_accumulate()


def forget_cut_off_validation(trainer: pl.Trainer) -> None:
    """Count only finished batches of validation. Lightning keeps one that was begun before a run
    was stopped, and would then take a validation that is cut off once more for a finished one."""
    total = trainer.fit_loop.epoch_loop.val_loop.batch_progress.total
    total.ready = total.started = total.processed = total.completed  # type: ignore[attr-defined]


def next_batch(trainer: pl.Trainer) -> int:
    """The number of the epoch's batch that a run resumed now begins with."""
    return trainer.fit_loop.epoch_loop.batch_progress.current.ready


def has_loss_scale(trainer: pl.Trainer) -> bool:
    """Whether the precision scales the loss (16-mixed): its scaler skips steps that overflow."""
    return getattr(trainer.precision_plugin, "scaler", None) is not None


def log_step(trainer: pl.Trainer) -> None:
    """Log the step that has just ended now, and not once more when its hooks have ended, so that a
    checkpoint that is saved in these holds its row."""
    connector: Any = trainer._logger_connector
    connector.update_train_step_metrics()
    connector.update_train_step_metrics = lambda: delattr(connector, "update_train_step_metrics")


def steps_logged(checkpoint: dict[str, Any]) -> int:
    """How many steps had their rows in metrics.csv at a checkpoint that does not hold them itself,
    as those of version 0.1 do not."""
    steps = checkpoint["loops"]["fit_loop"]["epoch_loop.state_dict"]["_batches_that_stepped"]
    return steps + (checkpoint["callbacks"]["Checkpoints"]["moment"] != "epoch")


def is_slurm_checkpoint(path: Path) -> bool:
    """Whether this is the extra checkpoint that Lightning writes when SLURM requeues a job."""
    return path.name.startswith("hpc_ckpt")
