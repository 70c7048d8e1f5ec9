"""The disk under a data set: room, a lock, and the system's errors."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from captioner import files
from captioner.errors import InputError, os_reason


@contextmanager
def errors(path: Path) -> Iterator[None]:
    """Turns the system's errors (disk full, no permission) into an InputError with the file."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{error.filename or path}: {os_reason(error)}; put that right and run the command "
            "again: it goes on where it stopped"
        ) from error


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Makes the folder, and keeps other processes of these commands out of it.

    Raises InputError where one is in it already.
    """
    with errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / ".lock", "w")
    with file:
        if not files.try_lock(file):
            raise InputError(f"{folder}: another process is at work there; wait until it has ended")
        yield


def megabytes(size: int) -> str:
    """A number of bytes, for a message."""
    return f"{size / 1e6:,.1f} MB"


def require(folder: Path, size: int, purpose: str) -> None:
    """Raises InputError, with both figures, where `size` bytes do not fit into the folder."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise InputError(
            f"{folder}: {purpose} needs {megabytes(size)}, but {megabytes(free)} are free; "
            "make room or choose a folder on another disk, then run the command again"
        )


def publish(part: Path, path: Path) -> None:
    """Gives a finished file its name, once its bytes are on the disk."""
    with open(part, "rb") as file:
        os.fsync(file.fileno())
    os.replace(part, path)


def settle() -> None:
    """Waits until everything written is on the disk: one call for 100,000 files."""
    os.sync()
