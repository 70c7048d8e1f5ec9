"""Lightning's trainer as a run uses it: callbacks, loggers, processes, and how a fit may end."""

import csv
import signal
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.loggers import Logger, TensorBoardLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.multiprocessing import ProcessRaisedException

from captioner import distributed
from captioner.errors import InputError
from captioner.experiment.hydra_app import in_sweep, stop
from captioner.experiment.run_dir import RunDir
from captioner.experiment.schemas import check_ranges, plain
from captioner.experiment.tasks import Task
from captioner.training import checkpoints, lightning
from captioner.training.loop import Loop
from captioner.training.progress import progress_callback

__all__ = ["Trainer", "check_validated", "fit", "make_loggers", "make_trainer", "seed_everything"]


def make_trainer(config: DictConfig, run: RunDir, task: Task) -> Trainer:
    """Lightning's, with the callbacks of a run. Raises InputError for options that it refuses."""
    check_ranges(config)
    folders = run.checkpoints, run.model
    best: dict[str, Any] = {"monitor": task.MONITOR, "mode": task.MODE}
    try:
        trainer = Trainer(
            **plain(config.trainer),
            default_root_dir=run.folder,
            callbacks=[
                EarlyStopping(**best, patience=config.patience, check_on_train_epoch_end=False),
                checkpoints.Checkpoints(*folders, config.checkpoint_minutes, **best),
                progress_callback(),
            ],
            logger=False,
            plugins=[checkpoints.Files()],
            use_distributed_sampler=False,
            reload_dataloaders_every_n_epochs=1,
            num_sanity_val_steps=0,
        )
    except InputError:
        raise
    except (MisconfigurationException, ModuleNotFoundError, TypeError, ValueError) as error:
        raise InputError(f"trainer: {error}") from error
    if in_sweep() and lightning.starts_scripts(trainer):
        stop(
            f"-m with trainer.strategy={config.trainer.strategy}: its processes would each run the "
            "whole sweep. Give trainer.strategy=ddp_spawn; or hydra/launcher=slurm (submitit); or "
            "one process a job, side by side: trainer.devices=1 hydra/launcher=joblib"
        )
    lightning.set_timeout(trainer, config.timeout)
    return trainer


def make_loggers(run: RunDir, checkpoint: Path | None, monitor: str) -> list[Logger]:
    """metrics.csv and TensorBoard. A resumed run keeps the rows from before its checkpoint."""
    before, rows, step = run.metrics_before, [], 0
    first = distributed.rank() == 0
    if first and run.metrics.exists() and not before.exists():
        run.metrics.rename(before)  # Lightning deletes the file that lies there
    if checkpoint is not None:
        step, moment = lightning.position_of(checkpoints.load(checkpoint))
        if first and before.exists():
            rows = _rows_before(before, step, monitor if moment == "validation" else None)
    table = lightning.csv_logger(run.folder, rows, write=first)
    if first:
        before.unlink(missing_ok=True)
    name = run.tensorboard.name
    return [table, TensorBoardLogger(run.folder, name="", version=name, purge_step=step)]


def _rows_before(path: Path, step: int, monitor: str | None) -> list[dict[str, Any]]:
    """The rows of earlier steps. monitor: a value whose row at the last step is left out, since the
    validation that logged it will be repeated."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if int(row["step"]) < step]
    return [r for r in rows if not (monitor and int(r["step"]) == step - 1 and r.get(monitor))]


def fit(
    trainer: Trainer, training: Loop, data: pl.LightningDataModule, checkpoint: Path | None
) -> None:
    """Train to the end. Raises Stopped after a signal, with the state saved."""
    try:
        trainer.fit(training, data, ckpt_path=checkpoint, weights_only=True)
    except ProcessRaisedException as error:  # from a process of ddp_spawn
        _, known, message = str(error).partition("captioner.errors.InputError: ")
        if not known:
            raise
        raise InputError(message.strip()) from error
    saver = trainer.checkpoint_callback
    assert isinstance(saver, checkpoints.Checkpoints)
    late = max(distributed.gather(saver.signal))
    if late in (signal.SIGTERM, signal.SIGINT):  # after the last step
        raise checkpoints.Stopped(late)


def check_validated(config: DictConfig, run: RunDir) -> None:
    """Raise InputError if training ended without a model."""
    if not run.model.exists():
        raise InputError(
            "no validation took place: raise trainer.max_epochs, or lower "
            f"trainer.check_val_every_n_epoch={config.trainer.check_val_every_n_epoch}, or raise "
            f"trainer.limit_val_batches={config.trainer.limit_val_batches}"
        )
