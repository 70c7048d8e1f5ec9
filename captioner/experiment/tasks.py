"""What train.py needs to know of a task. There are two: captioners and language models."""

from typing import Any, Protocol

import pytorch_lightning as pl
from omegaconf import DictConfig

from captioner.experiment import caption_task, text_task
from captioner.experiment.run_dir import RunDir
from captioner.training.data import EpochData
from captioner.training.loop import Loop


class Task(Protocol):
    """MONITOR: the logged value by which validations are compared; MODE: "max" or "min" is best."""

    MONITOR: str
    MODE: str

    def prepare(
        self, config: DictConfig, trainer: pl.Trainer, run: RunDir
    ) -> tuple[Loop, EpochData, list[str]]:
        """The model in its training loop, its data, and what is wrong with what was left out."""

    def evaluate(
        self, config: DictConfig, trainer: pl.Trainer, training: Any, data: Any, run: RunDir
    ) -> float:
        """Score the best model, write the scores, return the one by which runs are compared."""


def task_of(config: DictConfig) -> Task:
    """The task that a configuration describes."""
    return text_task if "bptt" in config.data else caption_task
