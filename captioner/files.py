"""Files that are there whole or not at all, and files that only grow."""

import errno
import hashlib
import os
import secrets
from pathlib import Path
from typing import IO

from captioner.errors import InputError


def write(path: Path, content: bytes | bytearray | memoryview | str) -> None:
    """Writes to a temporary name beside `path`, syncs it to the disk, renames it.

    Text is written as UTF-8. Raises InputError naming the file where that fails: what lay under the
    name before lies there still, and nothing else.
    """
    data = content.encode() if isinstance(content, str) else content
    # A name of its own, since another run may write the same file of a cache.
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise unwritable(path, error) from error


def digest(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def append(path: Path, data: bytes, at: int | None = None) -> None:
    """Adds to the end of a file, or from byte `at` on, and syncs it."""
    try:
        with open(path, "ab") as file:
            if at is not None:
                file.truncate(at)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise unwritable(path, error) from error


def whole_lines(path: Path) -> list[str]:
    """The lines of a file, less one that is cut off or still being written."""
    if not path.exists():
        return []
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def opened(path: Path) -> IO[str]:
    """A file to write to. Raises InputError."""
    try:
        return open(path, "w")
    except OSError as error:
        raise unwritable(path, error) from error


def make_folder(path: Path) -> None:
    """Makes a folder and those above it, where it is not there. Raises InputError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> InputError:
    """What to tell a user whose disk is full, or who may not write there."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return InputError(
        f"{path}: {error.strerror}: {'free space' if full else 'write elsewhere'}, and run it again"
    )


def _sync_folder(folder: Path) -> None:
    """Makes a rename last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
