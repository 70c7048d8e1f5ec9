"""Files that are complete or absent, files that only grow, and locks."""

import errno
import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from captioner.errors import InputError, os_reason


def write_atomic(path: Path, content: bytes | bytearray | memoryview | str) -> None:
    """Replace a file as a whole: write a temporary file beside it, sync it, rename it.

    Raises InputError naming the file if that fails; then only the old file is there.
    """
    data = content.encode() if isinstance(content, str) else content
    # A random name, since another run may write the same file of a cache.
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    with _writing(path):
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            _sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON as `write_atomic` does, in a folder that is made if missing."""
    make_folder(path.parent)
    write_atomic(path, json.dumps(content, ensure_ascii=False, indent=1))


def append_bytes(path: Path, data: bytes, at: int | None = None) -> None:
    """Write at the end of a file, or from byte `at` on, and sync it. Raises InputError."""
    with _writing(path), open(path, "ab") as file:
        if at is not None:
            file.truncate(at)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, as hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def complete_lines(path: Path) -> list[str]:
    """Return the lines of a file that end in a newline; none if there is no such file."""
    if not path.exists():
        return []
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def files_below(folder: Path) -> list[Path]:
    """Return the files in a folder and in its subfolders, sorted."""
    paths = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names)
    return sorted(path for path in paths if path.is_file())


def open_for_writing(path: Path) -> IO[str]:
    """Open an empty text file. Raises InputError."""
    with _writing(path):
        return open(path, "w")


def try_lock(file: IO[str]) -> bool:
    """Lock an open file until it is closed. Returns False if another process holds the lock.

    Raises InputError if the file system has no locks.
    """
    with _writing(Path(file.name)):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def make_folder(path: Path) -> None:
    """Make a folder and those above it, if missing. Raises InputError."""
    with _writing(path):
        path.mkdir(parents=True, exist_ok=True)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Raise InputError for a full disk, or a place where the user may not write."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        remedy = "free space" if full else "write elsewhere"
        raise InputError(f"{path}: {os_reason(error)}: {remedy}, and run it again") from error


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
