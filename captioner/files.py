"""Files that are complete or absent, files that only grow, and locks."""

import errno
import fcntl
import hashlib
import json
import os
import secrets
import socket
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from captioner.errors import InputError, not_a_file, open_input, os_reason, printable


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A context manager that gives a temporary file: at its end, that is synced and becomes `path`.

    Raises InputError naming the file if that fails; then only the old file is there.
    """
    # A random name, since another run may write the same file of a cache; and no longer than names
    # may be, whose limit counts bytes.
    temporary = path.with_name(f"{path.name[:50]}.{secrets.token_hex(4)}.tmp")
    with _writing(path):
        try:
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            _sync_folder(path.parent)
        finally:
            with suppress(OSError):
                temporary.unlink()


def write_atomic(path: Path, content: bytes | bytearray | memoryview | str) -> None:
    """Write a file as a whole, or leave the old one. Raises as `replacing`."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def remove_temporary(*folders: Path) -> None:
    """Remove what a kill left of `write_atomic` in folders that nobody else writes to."""
    for folder in folders:
        for path in folder.glob("*.????????.tmp"):
            path.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON as `write_atomic` does, in a folder that is made if missing."""
    make_folder(path.parent)
    write_atomic(path, json.dumps(content, ensure_ascii=False, indent=1))


def append_bytes(path: Path, data: bytes, at: int | None = None, sync: bool = True) -> None:
    """Write at the end of a file, or from byte `at` on, and sync it. Raises InputError."""
    size_of(path)
    with _writing(path), open(path, "ab") as file:
        if at is not None:
            file.truncate(at)
        file.write(data)
        if sync:
            file.flush()
            os.fsync(file.fileno())


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, as hexadecimal digits. Raises as `open_input`."""
    digest = hashlib.sha256()
    with open_input(path) as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def checksum(*parts: bytes | np.ndarray) -> str:
    """Return the CRC-32 of bytes or arrays, one after the other, as 8 hexadecimal digits.

    It finds damage, not forgery: a SHA-256 takes twice as long.
    """
    value = 0
    for part in parts:
        value = zlib.crc32(part, value)  # type: ignore[arg-type]
    return f"{value:08x}"


def size_of(path: Path) -> int:
    """Return the bytes of a file of our own, 0 if there is none.

    Raises InputError if something else has its name: opening a FIFO would wait for ever.
    """
    with _writing(path):
        if not path.exists():
            return 0
        if not path.is_file():
            kind = "a folder" if path.is_dir() else "not a regular file"
            raise InputError(f"{printable(path)}: {kind}: remove it, and the file is made again")
        return path.stat().st_size


def read_lines(path: Path) -> list[str]:
    """Return the lines of a file of our own, then what follows the last newline, mostly "".

    What is not UTF-8 is replaced: such a line is damaged. Raises InputError.
    """
    if not size_of(path):
        return [""]
    with _writing(path):
        return path.read_bytes().decode(errors="replace").split("\n")


def open_for_writing(path: Path) -> IO[str]:
    """Open an empty text file. Raises InputError."""
    size_of(path)
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


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Make a folder that this process alone writes to: it holds the lock of the file `lock` in it.

    The lock (flock) ends with its process, however that ends; so it does on NFS, where it holds
    between machines (NFSv4: after a machine's crash, until its lease has run out). At the end the
    file is removed, and the folders that were made for it, if they are empty (an empty one may stay
    where several processes make it at once). Raises InputError if another process holds the lock,
    naming it and its machine, or if the file system has no locks.
    """
    new_folders = [parent for parent in (folder, *folder.parents) if not os.path.exists(parent)]
    file = _lock_file(folder / "lock")
    try:
        with _writing(folder / "lock"):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
        yield
    finally:
        with suppress(OSError):
            os.unlink(file.name)
            for parent in new_folders:
                parent.rmdir()
        file.close()


def _lock_file(path: Path) -> IO[str]:
    """The file, open and locked."""
    tries = 100
    while True:
        with _writing(path):
            if path.exists() and (problem := not_a_file(path.stat())):
                raise InputError(f"{printable(path)}: {problem}: remove it")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                file = open(path, "a+")
            except (FileNotFoundError, FileExistsError):
                tries -= 1  # its last holder may just have removed the folder
                if not tries or (os.path.lexists(path.parent) and not path.parent.is_dir()):
                    raise
                continue
        if not try_lock(file):
            time.sleep(0.1)  # until the holder has written who it is
            file.seek(0)
            holder = printable(file.read(200).strip() or "another process")
            file.close()
            raise InputError(
                f"{printable(path.parent)}: in use by {holder}: wait until that has ended, or stop "
                "it, or give another run_dir"
            )
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        file.close()  # its last holder has just removed the file


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
        place = f"{printable(path)}: {os_reason(error)}"
        raise InputError(f"{place}: {remedy}, and run it again") from error


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
