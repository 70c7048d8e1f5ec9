"""How far a training has come: Rich's bar in a terminal, a line every ten seconds in a file."""

import sys
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar

from captioner.console import say
from captioner.progress import INTERVAL, time_left


class ProgressBar(RichProgressBar):
    """Without the version number that Lightning makes of our logger's folder."""

    def get_metrics(self, *args: Any) -> Any:
        metrics = super().get_metrics(*args)
        metrics.pop("v_num", None)
        return metrics


class ProgressLines(pl.callbacks.ProgressBar):
    """Prints every ten seconds how far the training is, and the time left, validations included.

    epoch 2 of 8, step 120 of 1504, loss 3.214, 4:10 left
    epoch 2 of 8, validation: 12 of 63 batches
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_enabled = True

    def disable(self) -> None:  # Lightning does so in every process but the first
        self.is_enabled = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start = self.last = time.monotonic()
        self.first_step = trainer.global_step  # 0, or where a run goes on
        self.steps = int(trainer.estimated_stepping_batches)

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        step, first = trainer.global_step, self.first_step
        loss = trainer.progress_bar_metrics.get("train/loss")
        left = time_left(time.monotonic() - self.start, step - first, self.steps - first)
        shown_loss = f", loss {float(loss):.3f}" if loss is not None else ""
        self._say(trainer, f"step {step} of {self.steps}{shown_loss}, {left} left")

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, *_) -> None:
        total = int(sum(trainer.num_val_batches))
        self._say(trainer, f"validation: {batch_idx + 1} of {total} batches")

    def _say(self, trainer: pl.Trainer, line: str) -> None:
        if self.is_enabled and self.last + INTERVAL <= time.monotonic():
            self.last = time.monotonic()
            epoch = f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}"
            say(f"{epoch}, {line}")


def progress_callback() -> pl.callbacks.ProgressBar:
    """The one that suits stdout."""
    return ProgressBar() if sys.stdout.isatty() else ProgressLines()
