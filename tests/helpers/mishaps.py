"""Mishaps in training at a chosen place, for the tests of resuming and of several processes.

Written KIND:RANK:EPOCH:BATCH. KIND is a signal's name, `nan`, `raise` or `hang`; with a `group-`
before it, the signal is sent to the whole process group, and with a `val-`, it happens in the
validation of that epoch. RANK is a number, or `all`.
"""

import os
import signal
import time
from pathlib import Path

import torch

from captioner.training.caption_training import CaptionTraining
from captioner.training.language_training import LanguageTraining
from captioner.training.loop import Loop

STEP = Loop.training_step
VALIDATIONS = {kind: kind.validation_step for kind in (CaptionTraining, LanguageTraining)}


def act(kind: str, loss):
    if kind == "nan":
        return loss * torch.nan
    if kind == "raise":
        raise RuntimeError("this process fails")
    if kind == "hang":
        time.sleep(1000)
    if kind.startswith("group-"):
        os.killpg(os.getpgid(0), signal.Signals[kind.removeprefix("group-")])
    else:
        os.kill(os.getpid(), signal.Signals[kind])
    return loss


def install(mishap: str, patch=setattr) -> None:
    kind, rank, epoch, batch = mishap.split(":")

    def here(self, number):
        place = self.current_epoch == int(epoch) and number == int(batch)
        return place and rank in ("all", str(self.global_rank))

    def training_step(self, data, batch_idx):
        loss = STEP(self, data, batch_idx)
        if here(self, batch_idx):
            loss = act(kind, loss)
            if kind == "nan":
                self.sums[-1]["loss"] = self.sums[-1]["loss"] * torch.nan
        return loss

    def validation_step(self, data, batch_idx):
        VALIDATIONS[type(self)](self, data, batch_idx)
        if here(self, batch_idx):
            act(kind.removeprefix("val-"), None)

    if kind.startswith("val-"):
        for loop in VALIDATIONS:
            patch(loop, "validation_step", validation_step)
    else:
        patch(Loop, "training_step", training_step)


def environment(folder: Path, mishap: str | None) -> dict[str, str]:
    """For a command whose process, and those that it starts, shall have the mishap."""
    (folder / "sitecustomize.py").write_text(
        f"from tests.helpers import mishaps\nmishaps.install({mishap!r})\n"
    )
    return os.environ | ({"PYTHONPATH": f"{folder}:{Path(__file__).parents[2]}"} if mishap else {})
