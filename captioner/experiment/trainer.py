"""A training in all its processes: from the data to the scores of the best model."""

import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from omegaconf import DictConfig
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.multiprocessing import ProcessRaisedException

from captioner import distributed
from captioner.console import say
from captioner.errors import InputError
from captioner.experiment import caption_task, text_task
from captioner.experiment.hydra_app import in_sweep, stop
from captioner.experiment.run_dir import RunDir
from captioner.experiment.schemas import check_ranges, plain
from captioner.instantiate import construct
from captioner.training import checkpoints, lightning
from captioner.training.data import EpochData
from captioner.training.loop import Loop
from captioner.training.metrics_file import MetricsFile
from captioner.training.progress import progress_callback


def train(config: DictConfig, run: RunDir, command: Sequence[str] | None = None) -> float:
    """Train and evaluate in all processes of a run, and return the score to compare runs by.

    command: with which the other processes repeat this call; by default this process's own.
    """
    task = text_task if "bptt" in config.data else caption_task
    trainer = _make_trainer(config, run, {"monitor": task.MONITOR, "mode": task.MODE})
    return lightning.launch(trainer, _train_here, config, run, task, trainer, command=command)


def _train_here(config: DictConfig, run: RunDir, task: ModuleType, trainer: Trainer) -> float:
    """What each process does: data and model, training, evaluation of the best model."""
    run = distributed.gather(run)[0]  # the first process's
    with run.claimed(new=not config.resume):
        return _train_alone(config, run, task, trainer)


def _train_alone(config: DictConfig, run: RunDir, task: ModuleType, trainer: Trainer) -> float:
    """The same, in a directory that no other run writes to."""
    start = time.monotonic()
    checkpoint = checkpoints.newest(run.checkpoints) if config.resume else None
    seed_everything(config.seed, verbose=False)
    training, data, skipped = task.prepare(config, trainer, run)
    first = trainer.is_global_zero
    if first:
        run.write_beginnings(config, training.model.tokenizer, skipped)
        training.objective.save_frequencies(run.frequencies)
        checkpoints.restore(run.growing, checkpoint)
    table, name = MetricsFile(run.metrics), run.tensorboard.name
    board = TensorBoardLogger(run.folder, name="", version=name, purge_step=table.next_step())
    trainer.loggers = [table, board]
    parameters = sum(p.numel() for p in training.model.parameters() if p.requires_grad)
    try:
        _fit(trainer, training, data, checkpoint)
    except checkpoints.Stopped as stopped:
        if not first:
            sys.exit(0)  # one exit code for all, that of the first process
        run.add_time(time.monotonic() - start, parameters)
        say(f"stopped by {stopped}; go on with\n  {run.resume_command()}")
        sys.exit(128 + stopped.signum)
    if not run.model.exists():
        raise InputError(
            "no validation took place: raise trainer.max_epochs, or lower "
            f"trainer.check_val_every_n_epoch={config.trainer.check_val_every_n_epoch}, or raise "
            f"trainer.limit_val_batches={config.trainer.limit_val_batches}"
        )
    score = task.evaluate(config, trainer, training, data, run)
    if first:
        run.add_time(time.monotonic() - start, parameters)
    return score


def _make_trainer(config: DictConfig, run: RunDir, best: dict[str, Any]) -> Trainer:
    """Lightning's, with the callbacks of a run; `best` says which validation is."""
    check_ranges(config)
    trainer = construct(
        Trainer,
        plain(config.trainer),
        "trainer",
        default_root_dir=run.folder,
        callbacks=[
            EarlyStopping(**best, patience=config.patience, check_on_train_epoch_end=False),
            checkpoints.Checkpoints(
                run.checkpoints, run.model, run.growing, config.checkpoint_minutes, **best
            ),
            progress_callback(),
        ],
        logger=False,
        plugins=[checkpoints.Files()],
        use_distributed_sampler=False,
        reload_dataloaders_every_n_epochs=1,
        num_sanity_val_steps=0,
    )
    if in_sweep() and lightning.starts_scripts(trainer):
        stop(
            f"-m with trainer.strategy={config.trainer.strategy}: its processes would each run the "
            "whole sweep. Give trainer.strategy=ddp_spawn; or hydra/launcher=slurm (submitit); or "
            "one process a job, side by side: trainer.devices=1 hydra/launcher=joblib"
        )
    lightning.set_timeout(trainer, config.timeout)
    return trainer


def _fit(trainer: Trainer, training: Loop, data: EpochData, checkpoint: Path | None) -> None:
    """Train to the end. Raises Stopped after a signal, with the state saved."""
    try:
        trainer.fit(training, data, ckpt_path=checkpoint, weights_only=True)
    except ProcessRaisedException as error:  # from a process of ddp_spawn
        _, known, message = str(error).partition("captioner.errors.InputError: ")
        if not known:
            raise
        raise InputError(message.strip()) from error
    except (MisconfigurationException, ValueError) as error:
        if not lightning.has_raised(error):
            raise
        raise InputError(f"trainer: {str(error).strip()}") from error
    saver = trainer.checkpoint_callback
    assert isinstance(saver, checkpoints.Checkpoints)
    late = max(distributed.gather(saver.signal))
    if late in (signal.SIGTERM, signal.SIGINT):  # after the last step
        raise checkpoints.Stopped(late)
