"""Checkpoints that survive a kill, and a stop that loses nothing.

    RUN_DIR/checkpoints/manifest.json    the checkpoints, oldest first, with size and SHA-256
    RUN_DIR/checkpoints/00012.ckpt       weights, optimiser, schedule, position: plain tensors
    RUN_DIR/model/                       the best model by validation so far

A checkpoint counts once the manifest names it. File and manifest are each written under a temporary
name, synced and renamed, so there is no moment at which a kill leaves a run without a whole one.
"""

import hashlib
import io
import json
import os
import signal
import time
import zipfile
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from captioner import console, distributed, files
from captioner.errors import InputError, json_field, json_items, printable, read_json
from captioner.training import lightning

KEEP = 2
MANIFEST = "manifest.json"
ENTRY = {"number": int, "file": str, "size": int, "sha256": str}
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


def save(folder: Path, state: dict[str, Any]) -> Path:
    """Write `state`, enter it into the manifest, remove all but the newest KEEP.

    Raises InputError if the disk is full; the older checkpoints stay.
    """
    files.make_folder(folder)
    entries = _manifest(folder)
    number = max((entry["number"] for entry in entries), default=0) + 1
    buffer = io.BytesIO()
    torch.save(state, buffer)
    path = folder / f"{number:05d}.ckpt"
    files.write_atomic(path, buffer.getbuffer())
    entries = [*entries, _entry(path, buffer.getbuffer())][-KEEP:]
    files.write_atomic(folder / MANIFEST, json.dumps(entries, indent=1))
    kept = {entry["file"] for entry in entries}
    for old in folder.iterdir():  # those before, and what a kill left half-written
        if old.suffix in (".ckpt", ".tmp") and old.name not in kept:
            old.unlink()
    return path


def newest(folder: Path) -> Path | None:
    """The newest checkpoint whose checksum is right; None if nothing was saved yet.

    Prints a line for each broken one. Raises InputError if all are broken.
    """
    entries = _manifest(folder)
    for entry in reversed(entries):
        path = folder / Path(entry["file"]).name
        try:
            if files.sha256(path) == entry["sha256"]:
                return path
            reason = f"{printable(path)}: its checksum is wrong"
        except InputError as error:
            reason = str(error)
        console.note(f"{reason}; going back to the one before")
    if entries:
        raise InputError(f"{folder}: no checkpoint is whole; train again in another run_dir")
    return None


def load(path: Path) -> dict[str, Any]:
    """A checkpoint's tensors and numbers; nothing else is read, nothing is executed."""
    return torch.load(path, map_location="cpu", weights_only=True)


def _manifest(folder: Path) -> list[dict[str, Any]]:
    """What the manifest says or, if it is damaged or lost, what the checkpoints themselves do."""
    path, checkpoints = folder / MANIFEST, sorted(folder.glob("[0-9]*.ckpt"))
    if not (path.exists() or checkpoints):
        return []
    try:
        return [
            {key: json_field(entry, key, (kind,), place) for key, kind in ENTRY.items()}
            for place, entry in json_items({MANIFEST: read_json(path)}, MANIFEST, printable(folder))
        ]
    except InputError as error:
        console.note(f"{error}; the checkpoints beside it are looked at")
        return [_entry(p, p.read_bytes()) for p in checkpoints if p.stem.isdigit() and _is_zip(p)]


def _entry(path: Path, data: bytes | memoryview) -> dict[str, Any]:
    sha256 = hashlib.sha256(data).hexdigest()
    return {"number": int(path.stem), "file": path.name, "size": len(data), "sha256": sha256}


def _is_zip(path: Path) -> bool:
    """Whether the checksums of all members are right."""
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None
    except Exception:  # for a broken file zipfile raises nearly anything
        return False


class Files(TorchCheckpointIO):
    """Has Lightning read and write checkpoints of a run by `load` and `save`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options=None) -> None:
        """The hpc_ckpt_N.ckpt of Lightning's SLURM plugin is not written: it would be taken before
        newer ones, and `Checkpoints` has just saved. (ddp_spawn hands weights over in a file.)"""
        if not Path(path).suffix:
            save(Path(path), checkpoint)
        elif not lightning.is_slurm_checkpoint(Path(path)):
            super().save_checkpoint(checkpoint, path, storage_options)

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return load(Path(path))


class Stopped(Exception):
    """A signal stopped the run, after its state was saved."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class Checkpoints(pl.callbacks.Checkpoint):
    """Saves the state of a run so that going on from it is exact, and exports the best model.

    monitor, mode: what is logged of a validation, and whether the best is its max or min. The state
    is saved every `minutes`, before each validation, and after each epoch; always after an
    optimiser's step. On SIGTERM, SIGINT (a second one interrupts at once), SIGUSR1 or SIGUSR2
    received by any process, all save at the same step and raise Stopped. Earlier handlers of the
    last two (Lightning's SLURM plugin, submitit) are called after the save, to requeue the job.
    """

    def __init__(self, folder: Path, model: Path, minutes: float, monitor: str, mode: str):
        self.folder, self.model, self.seconds, self.monitor = folder, model, 60 * minutes, monitor
        self.sign = {"max": 1.0, "min": -1.0}[mode]
        self.best, self.early, self.moment = float("-inf"), False, "step"
        self.signal, self.agreed, self.saved = 0, 0, time.monotonic()
        self.handlers: dict[int, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "early": self.early, "moment": self.moment}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.early = state_dict["best"], state_dict["early"]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        lightning.replace_sigterm_handler(trainer, self._note)
        trainer.should_stop = self.early  # where a run that goes on had ended early

    def on_train_start(self, *args: Any) -> None:
        self.handlers = {number: signal.signal(number, self._note) for number in SIGNALS}

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        self.handlers = {}

    def _note(self, signum: int, frame: Any) -> None:
        if signum == signal.SIGINT == self.signal:
            raise KeyboardInterrupt
        self.signal = signum
        name = signal.Signals(signum).name
        os.write(2, f"\n{name}: saving at the end of this step\n".encode())

    def _agreed(self, pl_module: pl.LightningModule) -> tuple[int, bool]:
        """The signal that any process received, and whether to save, by the clock of rank 0."""
        due = time.monotonic() - self.saved > self.seconds
        row = torch.tensor([self.signal, int(due)], device=pl_module.device)
        rows = distributed.gather_rows(row).tolist()
        return max(signum for signum, _ in rows), bool(rows[0][1])

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        done = batch_idx + 1
        if done == trainer.num_training_batches or done % trainer.val_check_batch == 0:
            return  # the validation or the end of the epoch saves
        if lightning.is_between_micro_batches(trainer):
            return
        signum, due = self._agreed(pl_module)
        if signum or due:
            self.save(trainer, "step")
        self.agreed = signum

    def on_train_batch_start(self, *args: Any) -> None:
        self._stop(self.agreed)  # only now is the last step in metrics.csv

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        lightning.forget_cut_off_validation(trainer)

    def before_validation(self, trainer: pl.Trainer) -> None:
        """Called from inside the first validation step: Lightning repeats a validation that was cut
        off only where its state says that one was under way."""
        if not lightning.is_between_micro_batches(trainer):
            self.save(trainer, "validation")

    def on_validation_batch_end(self, trainer, pl_module, *args: Any) -> None:
        if not lightning.is_between_micro_batches(trainer):  # else the step's end will save
            self._stop(self._agreed(pl_module)[0])

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        score = self.sign * float(trainer.callback_metrics[self.monitor])
        if score > self.best:
            self.best = score
            if trainer.is_global_zero:
                pl_module.eval_model.save(self.model)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.early = trainer.should_stop
        self.save(trainer, "epoch")
        self._stop(self._agreed(pl_module)[0])

    def save(self, trainer: pl.Trainer, moment: str) -> None:
        """The state now, written by rank 0 while the others wait. moment: after a "step", before
        a "validation", after an "epoch"."""
        self.moment = moment
        trainer.save_checkpoint(self.folder)
        self.saved = time.monotonic()

    def _stop(self, signum: int) -> None:
        """Raise Stopped if there was a signal."""
        if not signum:
            return
        handler = self.handlers.get(signum)
        if signum in (signal.SIGUSR1, signal.SIGUSR2) and callable(handler):
            handler(signum, None)
        raise Stopped(signum)
