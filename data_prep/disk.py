"""The disk under a data set: free space, a lock, and the system's errors."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from captioner import files
from captioner.errors import InputError, naming_file

reporting_errors = partial(
    naming_file,
    remedy="; put that right and run the command again: it goes on where it stopped",
)


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Create the folder and keep other preparations out. Raises InputError if one is running."""
    with reporting_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / ".lock", "w")
    with file:
        if not files.try_lock(file):
            raise InputError(f"{folder}: another process is at work there; wait until it has ended")
        yield


def megabytes(size: int) -> str:
    """Return a number of bytes as text for a message."""
    return f"{size / 1e6:,.1f} MB"


def require_space(folder: Path, size: int, purpose: str) -> None:
    """Raise InputError, with both figures, unless `size` bytes are free on the folder's disk."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise InputError(
            f"{folder}: {purpose} needs {megabytes(size)}, but {megabytes(free)} are free; "
            "make room or choose a folder on another disk, then run the command again"
        )


def publish(part: Path, path: Path) -> None:
    """Rename a finished file after its bytes have reached the disk."""
    with open(part, "rb") as file:
        os.fsync(file.fileno())
    os.replace(part, path)
