"""Checkpoints that survive a kill, and a stop that loses nothing.

    RUN_DIR/checkpoints/manifest.json    the checkpoints, oldest first, with size and SHA-256
    RUN_DIR/checkpoints/00012.ckpt       weights, optimiser, schedule, position: plain tensors
    RUN_DIR/model/                       the best model by validation so far

A checkpoint counts once the manifest names it. File and manifest are each written under a temporary
name, synced and renamed, so there is no moment at which a kill leaves a run without a whole one.
"""

import csv
import hashlib
import io
import json
import os
import signal
import time
import zipfile
from collections.abc import Sequence
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
STATE = {"state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks"}
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
            problem = f"{printable(path)}: its checksum is wrong"
        except ValueError as error:  # an InputError, or a name that no file can have
            problem = str(error)
        console.note(f"{problem}; going back to the one before")
    if entries:
        raise InputError(
            f"{printable(folder)}: no checkpoint is whole; train again in another run_dir"
        )
    return None


def load(path: Path) -> dict[str, Any]:
    """A checkpoint's tensors and numbers; nothing else is read, nothing is executed."""
    return torch.load(path, map_location="cpu", weights_only=True)


def restore(growing: Sequence[Path], checkpoint: Path | None) -> None:
    """Make files to which a run appends what they were at its checkpoint; without one, remove them.

    A checkpoint of version 0.1 holds no files: rows after it are taken out of metrics.csv.
    """
    state: Any = load(checkpoint) if checkpoint else {"files": {}}
    if checkpoint and not (isinstance(state, dict) and STATE <= state.keys()):
        raise InputError(
            f"{printable(checkpoint)}: not the state of a run; train again in another run_dir"
        )
    for path in growing:
        if "files" not in state:
            steps = lightning.steps_logged(state)
            if path.suffix == ".csv" and path.exists():
                header, *rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))
                column, text = header.index("step"), io.StringIO()
                kept = [row for row in rows if int(row[column]) < steps]
                csv.writer(text).writerows([header, *kept])
                files.write_atomic(path, text.getvalue())
        elif path.name in state["files"]:
            files.write_atomic(path, state["files"][path.name])
        else:
            path.unlink(missing_ok=True)


def _manifest(folder: Path) -> list[dict[str, Any]]:
    """The manifest's entries. If it is missing or damaged, it is made anew, which is said, from the
    checkpoints beside it that are whole. Raises InputError if none is."""
    path, name = folder / MANIFEST, printable(folder)
    entries, problem = [], f"{printable(path)}: empty"
    try:
        for place, entry in json_items({MANIFEST: read_json(path)}, MANIFEST, name):
            entries.append({k: json_field(entry, k, (kind,), place) for k, kind in ENTRY.items()})
    except InputError as error:
        entries, problem = [], str(error)
    beside = [file for file in sorted(folder.glob("*.ckpt")) if file.stem.isdecimal()]
    if entries or not beside and not path.exists():
        return entries
    entries = [_entry(file, file.read_bytes()) for file in beside if _is_zip(file)]
    if not entries:
        raise InputError(f"{problem}: no checkpoint is whole; train again in another run_dir")
    console.note(f"{problem}; made anew from {len(entries)} checkpoints that are whole")
    files.write_atomic(path, json.dumps(entries, indent=1))
    return entries


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

    growing: the files to which a run appends. A checkpoint holds their content, so that `restore`
    makes them what they were.
    monitor, mode: what is logged of a validation, and whether the best is its max or min. The state
    is saved every `minutes`, before each validation, and after each epoch; always after an
    optimiser's step. On SIGTERM, SIGINT (a second one interrupts at once), SIGUSR1 or SIGUSR2
    received by any process, all save at the same step and raise Stopped. Earlier handlers of the
    last two (Lightning's SLURM plugin, submitit) are called after the save, to requeue the job.
    """

    def __init__(
        self,
        folder: Path,
        model: Path,
        growing: Sequence[Path],
        minutes: float,
        monitor: str,
        mode: str,
    ):
        self.folder, self.model, self.growing = folder, model, growing
        self.seconds, self.monitor = 60 * minutes, monitor
        self.sign = {"max": 1.0, "min": -1.0}[mode]
        self.best, self.early = float("-inf"), False
        self.signal, self.saved = 0, time.monotonic()
        self.handlers: dict[int, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "early": self.early}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.early = state_dict["best"], state_dict["early"]

    def on_save_checkpoint(self, trainer, pl_module, checkpoint: dict[str, Any]) -> None:
        paths = [path for path in self.growing if path.exists()]
        checkpoint["files"] = {p.name: p.read_bytes().decode(errors="replace") for p in paths}

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

    def after_step(self, trainer: Any, pl_module: pl.LightningModule, number: int) -> None:
        """Called when all else that belongs to the epoch's batch `number` is done."""
        done = number + 1
        if done == trainer.num_training_batches or done % trainer.val_check_batch == 0:
            return  # the validation or the end of the epoch saves
        if lightning.is_between_micro_batches(trainer):
            return
        signum, due = self._agreed(pl_module)
        if signum or due:
            lightning.log_step(trainer)
            self.save(trainer)
        self._stop(signum)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        lightning.forget_cut_off_validation(trainer)

    def before_validation(self, trainer: pl.Trainer) -> None:
        """Called from inside the first validation step: Lightning repeats a validation that was cut
        off only where its state says that one was under way."""
        if not lightning.is_between_micro_batches(trainer):
            self.save(trainer)

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
        self.save(trainer)
        self._stop(self._agreed(pl_module)[0])

    def save(self, trainer: pl.Trainer) -> None:
        """The state now, written by rank 0 while the others wait."""
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
