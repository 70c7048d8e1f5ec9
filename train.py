"""Trains a captioner: python train.py data=flickr8k data.root=DIR [group=choice] [key=value]
A language model: python train.py experiment=charlm data.path=FILE_OR_FOLDER
Goes on with a run that was stopped: python train.py resume=RUN_DIR"""

import os
import sys
import time
from collections.abc import Sequence

import hydra
from omegaconf import DictConfig

from captioner import distributed
from captioner.experiment import hydra_app, schemas
from captioner.experiment.phases import run_phases
from captioner.experiment.run_dir import RunDir
from captioner.experiment.tasks import Task, task_of
from captioner.experiment.trainer import (
    Trainer,
    check_validated,
    fit,
    make_loggers,
    make_trainer,
    seed_everything,
)
from captioner.training import checkpoints, lightning

schemas.register()
lightning.silence()


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
@hydra_app.command
def main(config: DictConfig) -> float:
    """One run, from data to scores, all in `run_dir`. Returns val CIDEr (or bits
    a character), for sweeps."""
    run = RunDir(config.resume) if config.resume else hydra_app.run_dir_of(config)
    if config.resume:
        hydra_app.check_resumes_alone(config.resume)
    requeued = int(os.environ.get("SLURM_RESTART_COUNT", 0)) > 0 and run.has_begun()
    repeated = hydra_app.in_sweep() and run.has_begun_with(config)  # a sweep may be given twice
    if repeated and run.has_ended():
        return run.headline()
    if config.resume or requeued or repeated:
        config = run.resumed_config()
    if config.phases is None:
        return train(config, run)
    return run_phases(config, run, train)


def train(config: DictConfig, run: RunDir, arguments: Sequence[str] | None = None) -> float:
    """Train in all processes of a run. arguments: the command line with which the other processes
    repeat this call; by default this process's own."""
    task = task_of(config)
    trainer = make_trainer(config, run, task)
    command = arguments and [sys.executable, __file__, *arguments]
    return lightning.launch(trainer, train_here, config, run, task, trainer, command=command)


def train_here(config: DictConfig, run: RunDir, task: Task, trainer: Trainer) -> float:
    """What each process does: data and model, training, evaluation of the best model."""
    start = time.monotonic()
    run = distributed.gather(run)[0]  # the first process's
    if not config.resume:
        run.check_free()
    checkpoint = checkpoints.newest(run.checkpoints) if config.resume else None
    seed_everything(config.seed, verbose=False)
    training, data, skipped = task.prepare(config, trainer, run)
    first = trainer.is_global_zero
    if first:
        run.write_beginnings(config, training.model.tokenizer, skipped)
        training.objective.save_frequencies(run.frequencies)
    trainer.loggers = make_loggers(run, checkpoint, task.MONITOR)
    parameters = sum(p.numel() for p in training.model.parameters() if p.requires_grad)
    try:
        fit(trainer, training, data, checkpoint)
    except checkpoints.Stopped as stopped:
        if not first:
            sys.exit(0)  # one exit code for all, that of the first process
        run.add_time(time.monotonic() - start, parameters)
        print(f"stopped by {stopped}; go on with\n  python train.py resume={run}")
        sys.exit(128 + stopped.signum)
    check_validated(config, run)
    score = task.evaluate(config, trainer, training, data, run)
    if first:
        run.add_time(time.monotonic() - start, parameters)
    return score


if __name__ == "__main__":
    main()
