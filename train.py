"""Trains a captioner: python train.py data=flickr8k data.root=DIR [group=choice] [key=value]
A language model: python train.py experiment=charlm data.path=FILE_OR_FOLDER
Goes on with a run that was stopped: python train.py resume=RUN_DIR"""

import captioner.interrupts  # isort: skip  # noqa: F401
import os

import hydra
from omegaconf import DictConfig

from captioner.experiment import hydra_app, schemas
from captioner.experiment.phases import run_phases
from captioner.experiment.run_dir import RunDir
from captioner.experiment.trainer import train
from captioner.training import lightning

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
    if config.phases is not None:
        return run_phases(config, run, __file__)
    return train(config, run)


if __name__ == "__main__":
    hydra_app.start(main)
