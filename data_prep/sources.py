"""Collect the files of a data set from the folders and archives that a user has."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from captioner.errors import InputError
from captioner.paths import files_below, is_below
from data_prep import archive, disk

_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")


def collect(
    sources: list[Path], root: Path, target: Callable[[str], str | None], archives: tuple[str, ...]
) -> None:
    """Link or copy files, and unpack those of archives, into `root`.

    sources: files, and folders to search with their subfolders. target: the name of a file -> its
    path inside `root`, or None if it is not needed; of several files with one name the first is
    taken. archives: lower-case prefixes of the names of archives that are opened if found in a
    folder; an archive given as a source is always opened.

    Raises InputError if a source does not exist, an archive is refused (see archive.unpack), or the
    disk is full.
    """
    taken: set[str] = set()

    def place(name: str) -> str | None:
        path = target(name.rpartition("/")[2])
        if path is None or path in taken:
            return None
        taken.add(path)
        return path

    plain, packed = [], []
    for source in sources:
        if not (source.is_file() or source.is_dir()):
            raise InputError(f"{source}: no such file or folder")
        for path in [source] if source.is_file() else files_below(source):
            if not path.name.lower().endswith(_ARCHIVES):
                plain.append(path)
            elif path == source or path.name.lower().startswith(archives):
                packed.append(path)
    for path in plain:
        if destination := place(path.name):
            if not any(is_below(path, source) for source in sources):
                fault = f"leads out of the sources, to {path.resolve()}"
                raise InputError(f"{path}: {fault}: give that as a source too")
            with disk.reporting_errors(root / destination):
                _link(path, root / destination)
    for path in packed:
        archive.unpack(path, root, place)


def _link(source: Path, path: Path) -> None:
    """Link a file to another name, or copy it if that is on another disk."""
    if path.exists() and path.samefile(source):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)
    try:
        os.link(os.path.realpath(source), part)
    except OSError:
        shutil.copyfile(source, part)
    os.replace(part, path)
