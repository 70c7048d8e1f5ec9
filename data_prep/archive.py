"""Unpack a zip or tar archive that may be malicious.

Every name is checked before anything is written, and sizes are counted while the bytes are read. A
file gets its name when it is complete, so an interrupted unpacking can be continued: files that are
already there are compared with the archive by their checksum.
"""

import bz2
import gzip
import lzma
import math
import os
import re
import stat
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, NamedTuple

from tqdm import tqdm

from captioner.errors import InputError, open_input
from data_prep import disk

MAX_ENTRIES = 500_000  # COCO's largest archive has 118,287 pictures
MAX_RATIO, MAX_FREE = 20, 2**30  # contents may be MAX_RATIO times the archive, or MAX_FREE bytes

MAX_HEADER = 2**20  # bytes of a tar's headers before each entry, and of what follows its end
MAX_DEPTH, MAX_NAME = 32, 240  # folders of a name, bytes of each

_CHUNK = 2**18
_PACKED: dict[bytes, Any] = {
    b"\x1f\x8b": gzip.open,
    b"BZ": bz2.open,
    b"\xfd7": lzma.open,
}
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class _Entry(NamedTuple):
    """A file or folder in an archive. fault: why it is refused. crc: None in a tar."""

    name: str
    size: int
    folder: bool
    fault: str | None
    crc: int | None
    open: Callable[[], IO[bytes]]


def unpack(
    archive: Path, folder: Path, place: Callable[[str], str | None] = lambda name: name
) -> dict[str, int]:
    """Unpack the files of an archive into a folder. Returns their paths and sizes.

    place: name in the archive -> path inside the folder, or None to leave the file out.

    Raises InputError if the disk is full, if the file is not an archive or is damaged, or if
    anything in it is not a plain file inside the folder: absolute names, drive letters,
    backslashes, "..", links, devices, encryption, names that are equal, differ only in case or are
    both a file and a folder, too long or too deep, more entries or bytes than MAX_ENTRIES,
    MAX_RATIO and MAX_FREE allow, entries with more or fewer bytes than declared.
    """
    with disk.reporting_errors(folder), ExitStack() as stack:
        entries = _checked(archive, _read_entries(archive, stack))
        placed: dict[str, _Entry] = {}
        for entry in entries:
            target = None if entry.folder else place(entry.name)
            if target in placed:
                raise _refusal(archive, entry.name, f"goes where {placed[target].name!r} goes")
            if target is not None:
                placed[target] = entry
        needed = sum(entry.size for name, entry in placed.items() if not (folder / name).exists())
        folder.mkdir(parents=True, exist_ok=True)
        disk.require_space(folder, needed, f"unpacking {archive.name}")
        with tqdm(
            total=sum(entry.size for entry in placed.values()),
            desc=f"unpacking {archive.name}", unit="B", unit_scale=True, disable=None,
        ) as bar:  # fmt: skip
            created = set()
            for name, entry in placed.items():
                path = folder / name
                if path.parent not in created:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    created.add(path.parent)
                if not _is_unpacked(path, entry):
                    _write(archive, entry, path)
                bar.update(entry.size)
        os.sync()  # one call for 100,000 files
    return {name: entry.size for name, entry in placed.items()}


def _write(archive: Path, entry: _Entry, path: Path) -> None:
    part = path.with_name(f"{path.name}.part")
    try:
        with open(part, "wb") as file:
            for chunk in _read(archive, entry):
                file.write(chunk)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _read(archive: Path, entry: _Entry) -> Iterator[bytes]:
    """Yield the bytes of an entry, as many as it declares. zipfile checks the CRC at the end."""
    count = 0
    try:
        with entry.open() as file:
            while count <= entry.size and (chunk := file.read(_CHUNK)):
                count += len(chunk)
                yield chunk[: len(chunk) - max(0, count - entry.size)]
    except InputError:
        raise
    except Exception as error:  # of three libraries, for whatever the bytes make them read
        raise _damage(archive, f"{entry.name!r}: {error}") from error
    if count != entry.size:
        more = "more" if count > entry.size else "less"
        raise _refusal(archive, entry.name, f"holds {more} than the {entry.size:,} bytes it says")


def _is_unpacked(path: Path, entry: _Entry) -> bool:
    """Return whether an earlier, interrupted unpacking has written this file completely."""
    if entry.crc is None or not path.is_file() or path.stat().st_size != entry.size:
        return False
    crc = 0
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc == entry.crc


def _read_entries(archive: Path, stack: ExitStack) -> Iterable[_Entry]:
    file: Any = stack.enter_context(open_input(archive, 2**40))
    try:
        start = file.read(2)
        file.seek(0)
        if start == b"PK":
            return _zip_entries(stack.enter_context(zipfile.ZipFile(file)))
        if start in _PACKED:
            file = stack.enter_context(_PACKED[start](file))
        stream = _Stream(file)
        return _tar_entries(tarfile.TarFile(fileobj=stream), stream)  # type: ignore[arg-type]
    except Exception as error:
        raise InputError(f"{archive}: neither a zip nor a tar archive: {error}") from error


class _Stream:
    """The bytes of a tar, of which no more than `left` may be read: tarfile reads headers as a
    whole, however long they say they are."""

    def __init__(self, file: IO[bytes]):
        self.file, self.left = file, float(MAX_HEADER)
        self.tell, self.seek = file.tell, file.seek

    def read(self, size: int) -> bytes:
        self.left -= size
        if self.left < 0:
            raise tarfile.ReadError(f"over {MAX_HEADER:,} bytes of headers or after the end")
        return self.file.read(size)


def _zip_entries(file: zipfile.ZipFile) -> Iterator[_Entry]:
    for info in file.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        fault = None
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            fault = "is a link or a device"
        elif info.flag_bits & 1:
            fault = "is encrypted"
        elif info.compress_type not in _METHODS:
            fault = f"is compressed by method {info.compress_type}, which is not read here"

        def opener(info: zipfile.ZipInfo = info) -> IO[bytes]:
            return file.open(info)

        name = info.orig_filename
        yield _Entry(name, info.file_size, name.endswith("/"), fault, info.CRC, opener)


def _tar_entries(file: tarfile.TarFile, stream: _Stream) -> Iterator[_Entry]:
    for member in file:
        plain = (member.isfile() and not member.issparse()) or member.isdir()
        fault = None if plain else "is a link or a device"

        def opener(member: tarfile.TarInfo = member) -> IO[bytes]:
            source = file.extractfile(member)
            assert source is not None
            return source

        yield _Entry(member.name, member.size, member.isdir(), fault, None, opener)
        stream.left = MAX_HEADER
    while stream.read(_CHUNK):  # the checksum of a tar.gz comes after its last member
        pass
    stream.left = math.inf


def _checked(archive: Path, entries: Iterable[_Entry]) -> list[_Entry]:
    """Return all entries, with normalised names. Raises InputError for a bad one."""
    limit = max(MAX_FREE, MAX_RATIO * archive.stat().st_size)
    listed: list[_Entry] = []
    seen: dict[str, tuple[str, bool]] = {}
    total = 0
    try:
        for entry in entries:
            if entry.fault:
                raise _refusal(archive, entry.name, entry.fault)
            entry = entry._replace(name=_normalised(archive, entry))
            if not entry.name:  # tar's "./"
                continue
            _check_collisions(archive, entry, seen)
            listed.append(entry)
            total += entry.size
            if len(listed) > MAX_ENTRIES:
                raise InputError(f"{archive}: more than {MAX_ENTRIES:,} entries; not unpacked")
            if total > limit:
                fault = f"holds more than {disk.megabytes(limit)} unpacked"
                raise InputError(
                    f"{archive}: {fault}, which no archive of its size should; not unpacked"
                )
    except InputError:
        raise
    except Exception as error:
        raise _damage(archive, str(error)) from error
    return listed


def _normalised(archive: Path, entry: _Entry) -> str:
    """Return the name without "." and double slashes. Raises InputError if it leads outside."""
    name = entry.name
    components = [part for part in name.split("/") if part not in ("", ".")]
    outside = name.startswith("/") or re.match(r"[A-Za-z]:", name) or "\\" in name
    if outside or ".." in components or not (components or entry.folder):
        raise _refusal(archive, name, "is not a path inside the folder")
    if not name.isprintable():
        raise _refusal(archive, name, "has characters that no file name should have")
    longest = max((len(part.encode()) for part in components), default=0)
    if len(components) > MAX_DEPTH or longest > MAX_NAME:
        raise _refusal(archive, name, "is not a path inside the folder: too deep or too long")
    return "/".join(components)


def _check_collisions(archive: Path, entry: _Entry, seen: dict[str, tuple[str, bool]]) -> None:
    """Add an entry and its folders to `seen`, keyed as a file system that ignores case would."""
    components = entry.name.split("/")
    for depth in range(1, len(components) + 1):
        path = "/".join(components[:depth])
        this = path, entry.folder or depth < len(components)
        key = unicodedata.normalize("NFC", path).casefold()
        other = seen.get(key)
        if other is None:
            seen[key] = this
        elif other != this or not this[1]:
            raise _refusal(archive, entry.name, f"collides with {other[0]!r}")


def _refusal(archive: Path, name: str, why: str) -> InputError:
    short = name if len(name) < 100 else f"{name[:80]}..."
    return InputError(f"{archive}: entry {short!r} {why}; nothing in it is to be trusted")


def _damage(archive: Path, fault: str) -> InputError:
    return InputError(f"{archive}: damaged: {fault}; delete it and obtain it again")
