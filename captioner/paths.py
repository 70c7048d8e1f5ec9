"""Folders and names as people's machines leave them: links, litter, accents in two forms."""

import os
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from captioner.errors import InputError, os_reason, printable

LITTER = {".ds_store", ".localized", "thumbs.db", "ehthumbs.db", "desktop.ini"}


def _refuse(error: OSError) -> None:
    raise InputError(f"{printable(error.filename)}: {os_reason(error)}")


def files_below(folder: Path, on_error: Callable[[OSError], object] = _refuse) -> list[Path]:
    """Return the files in a folder, in its subfolders and in folders linked there, sorted.

    Each folder is visited once, so that links may form loops; litter is left out. on_error: is told
    of folders that may not be listed; by default it raises InputError.
    """
    paths, waiting, visited = [], [str(folder)], set()
    for start in waiting:
        for parent, folders, names in os.walk(start, onerror=on_error):
            status = os.stat(parent)
            if (status.st_dev, status.st_ino) in visited:
                folders.clear()
                continue
            visited.add((status.st_dev, status.st_ino))
            links = (os.path.join(parent, name) for name in sorted(folders))
            waiting += filter(os.path.islink, links)  # after what is really here
            paths += [Path(parent, name) for name in names]
    return sorted(path for path in paths if not is_litter(path))


def is_below(path: Path, folder: Path) -> bool:
    """Whether a path, where its links lead to, is a folder (likewise) or below it."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def is_litter(path: Path) -> bool:
    """Whether a file is what macOS or Windows leaves in folders; `._NAME` by its first bytes."""
    if path.name.startswith("._") and path.is_file():
        with suppress(OSError), open(path, "rb") as file:
            return file.read(4) == b"\0\5\x16\7"
    return path.name.lower() in LITTER


def composed(name: str) -> str:
    """A name with composed accents (normal form C), by which names are compared."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def same_letters(path: Path) -> Path:
    """The path itself if it exists, else the one that differs only in how accents are composed.

    Names that several files would share stay as they are.
    """
    if str(path).isascii() or os.path.lexists(path):
        return path
    parent = same_letters(path.parent)
    same = []
    with suppress(OSError):  # it may not be there, or not be listed
        same = [name for name in os.listdir(parent) if composed(name) == composed(path.name)]
    return parent / (same[0] if len(same) == 1 else path.name)
