"""Trains a captioner: python train.py data=flickr8k data.root=DIR [group=choice] [key=value]
A language model: python train.py experiment=charlm data.path=FILE_OR_FOLDER
Goes on with a run that was stopped: python train.py resume=RUN_DIR"""

import csv
import json
import logging
import os
import signal
import sys
import time
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import hydra
import pytorch_lightning as pl
from omegaconf import DictConfig
from pytorch_lightning.callbacks import EarlyStopping, RichProgressBar
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.multiprocessing import ProcessRaisedException

from captioner import distributed, files
from captioner.errors import InputError
from captioner.evaluation import scoring
from captioner.experiment import caption_task, config, phases, runs, text_task
from captioner.training import checkpoints
from captioner.training.loop import Loop

config.register()
for name in ("pytorch_lightning", "lightning_fabric", "lightning.fabric"):
    logging.getLogger(name).setLevel(logging.WARNING)
warnings.filterwarnings("ignore", "Found .* module.* in eval mode")  # the frozen encoder's
warnings.filterwarnings("ignore", "You're resuming from a checkpoint that ended before")  # data.py
warnings.filterwarnings("ignore", "Experiment logs directory .* exists")  # see `_loggers`
warnings.filterwarnings("ignore", ".*sync_dist=True.* when logging on epoch")  # they are joint
warnings.filterwarnings("ignore", ".*treespec, LeafSpec.* is deprecated")  # Lightning's own


class ProgressBar(RichProgressBar):
    """Without the version number that Lightning makes of our logger's folder."""

    def get_metrics(self, *args):
        metrics = super().get_metrics(*args)
        metrics.pop("v_num", None)
        return metrics


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
@config.command
def main(cfg: DictConfig) -> float:
    """One run, from data to scores, all in `run_dir`. Returns val CIDEr (or bits), for sweeps."""
    requeued = int(os.environ.get("SLURM_RESTART_COUNT", 0)) > 0
    run_dir = Path(cfg.resume) if cfg.resume else config.run_dir(cfg)
    if cfg.resume:
        config.check_alone(cfg.resume)
    there = requeued and (run_dir / "config.yaml").exists()
    again = config.in_sweep() and config.begun(run_dir, cfg)  # a sweep may be given twice
    if again and (run_dir / "scores.json").exists():
        return scoring.headline({"corpus": runs.read_run(run_dir)})
    if cfg.resume or there or again:
        cfg = config.resumed(run_dir)
    if cfg.phases is None:
        return _train(cfg, run_dir)
    return phases.run(cfg, run_dir, _train)


def _train(cfg: DictConfig, run_dir: Path) -> float:
    trainer = make_trainer(cfg, run_dir)
    launcher = trainer.strategy.launcher
    if not isinstance(launcher, _SubprocessScriptLauncher):
        return run(cfg, trainer, run_dir)
    if config.in_sweep() and not launcher.cluster_environment.creates_processes_externally:
        ways = (
            f"-m with trainer.strategy={cfg.trainer.strategy}: its processes would each run the "
            "whole sweep. Give trainer.strategy=ddp_spawn; or hydra/launcher=slurm (submitit); or "
            "one process a job, side by side: trainer.devices=1 hydra/launcher=joblib"
        )
        config.stop(ways)
    try:  # started here and not by fit, so that all share the features and the evaluation too
        return launcher.launch(run, cfg, trainer, run_dir)
    except BaseException:
        launcher.kill(signal.SIGKILL)  # they may wait for this process for ever
        launcher.procs.clear()  # or Lightning's observer kills this one for their exit code
        raise


def _task(cfg: DictConfig) -> Any:
    """What is trained: MONITOR and MODE, `make` and `evaluate`."""
    return text_task if "bptt" in cfg.data else caption_task


def make_trainer(cfg: DictConfig, run_dir: Path) -> pl.Trainer:
    """Lightning's, with the callbacks of a run."""
    config.check_ranges(cfg)
    task = _task(cfg)
    try:
        trainer = pl.Trainer(
            **config.plain(cfg.trainer),
            default_root_dir=run_dir,
            callbacks=[
                EarlyStopping(
                    task.MONITOR,
                    mode=task.MODE,
                    patience=cfg.patience,
                    check_on_train_epoch_end=False,
                ),
                checkpoints.Checkpoints(run_dir, cfg.checkpoint_minutes, task.MONITOR, task.MODE),
                ProgressBar(),
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
    if isinstance(trainer.strategy, DDPStrategy):
        trainer.strategy._timeout = timedelta(seconds=cfg.timeout)
    return trainer


def run(cfg: DictConfig, trainer: pl.Trainer, run_dir: Path) -> float:
    """What every process does."""
    begun = time.monotonic()
    if isinstance(trainer.strategy.launcher, _SubprocessScriptLauncher):
        trainer.strategy.setup_environment()  # from here on they can talk to each other
    run_dir = distributed.gather(run_dir)[0]
    problem = None if cfg.resume else config.in_the_way(run_dir)
    if problem := distributed.gather(problem)[0]:
        raise InputError(problem)
    checkpoint = checkpoints.newest(run_dir / "checkpoints") if cfg.resume else None
    pl.seed_everything(cfg.seed, verbose=False)
    task = _task(cfg)
    training, data, skipped = task.make(cfg, trainer, run_dir)
    if trainer.is_global_zero:
        _write_beginnings(run_dir, cfg, training.model.tokenizer, skipped)
        training.objective.save(run_dir)
    trainer.loggers = _loggers(run_dir, checkpoint, task.MONITOR)
    try:
        trainer.fit(training, data, ckpt_path=checkpoint, weights_only=True)
        saver = trainer.checkpoint_callback
        assert isinstance(saver, checkpoints.Checkpoints)
        late = max(distributed.gather(saver.signal))
        if late in (signal.SIGTERM, signal.SIGINT):  # after the last step
            raise checkpoints.Stopped(late)
    except checkpoints.Stopped as stopped:
        if trainer.is_global_zero:
            _note_run(run_dir, training, begun)
            print(f"stopped by {stopped}; go on with\n  python train.py resume={run_dir}")
            sys.exit(128 + stopped.signum)
        sys.exit(0)  # one exit code for all, that of the first process
    except ProcessRaisedException as error:  # ddp_spawn's
        _, known, message = str(error).partition("captioner.errors.InputError: ")
        if not known:
            raise
        raise InputError(message.strip()) from error
    if not (run_dir / "model").exists():
        raise InputError(
            "no validation took place: raise trainer.max_epochs, or lower "
            f"trainer.check_val_every_n_epoch={cfg.trainer.check_val_every_n_epoch}, or raise "
            f"trainer.limit_val_batches={cfg.trainer.limit_val_batches}"
        )
    score = task.evaluate(cfg, trainer, training, data, run_dir)
    if trainer.is_global_zero:
        _note_run(run_dir, training, begun)
    return score


def _write_beginnings(run_dir: Path, cfg: DictConfig, tokenizer, skipped: list[str]) -> None:
    """config.yaml, tokenizer.json, skipped.txt. Raises InputError where a run that goes on would
    not have the words it began with."""
    files.make_folder(run_dir)
    path = run_dir / "tokenizer.json"
    if path.exists() and path.read_text(encoding="utf-8") != tokenizer.to_json():
        raise InputError(
            f"{path}: the training captions have changed since the run began, or texts"
        )
    files.write_atomic(path, tokenizer.to_json())
    if skipped:
        files.write_atomic(run_dir / "skipped.txt", "".join(f"{line}\n" for line in skipped))
    if not (run_dir / "config.yaml").exists():
        files.write_atomic(run_dir / "config.yaml", config.as_yaml(cfg))


def _note_run(run_dir: Path, training: Loop, begun: float) -> None:
    """run.json: what trains, and the seconds spent so far; a kill loses those of its process."""
    path = run_dir / "run.json"
    before = json.loads(path.read_text(encoding="utf-8"))["seconds"] if path.exists() else 0.0
    seconds = before + time.monotonic() - begun
    parameters = sum(p.numel() for p in training.model.parameters() if p.requires_grad)
    files.write_atomic(path, json.dumps({"parameters": parameters, "seconds": seconds}))


def _loggers(run_dir: Path, checkpoint: Path | None, monitor: str) -> list[Any]:
    """metrics.csv and TensorBoard; those of a run that goes on, less what comes after it."""
    path, old = run_dir / "metrics.csv", run_dir / "metrics.before.csv"
    step, moment, rows = None, None, []
    if checkpoint is not None:
        state = checkpoints.load(checkpoint)
        step = state["loops"]["fit_loop"]["epoch_loop.state_dict"]["_batches_that_stepped"]
        moment = state["callbacks"]["Checkpoints"]["moment"]
        step += moment != "epoch"  # the number of the first row that is not there yet
    table = CSVLogger(run_dir, name="", version="")
    if distributed.rank() == 0:
        if path.exists() and not old.exists():
            path.rename(old)  # Lightning deletes what it finds
        if step is not None and old.exists():
            with open(old, newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    last = int(row["step"]) == step - 1
                    again = moment == "validation" and last and row.get(monitor)
                    if int(row["step"]) < step and not again:
                        rows.append(row)
        table.experiment.metrics = rows
        table.save()
        old.unlink(missing_ok=True)
    board = TensorBoardLogger(run_dir, name="", version="tensorboard", purge_step=step or 0)
    return [table, board]


if __name__ == "__main__":
    main()
