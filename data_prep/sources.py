"""What a user has, in whatever folders and archives, brought to where it is wanted."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from captioner.errors import InputError
from data_prep import archive, disk

_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")


def bring(
    sources: list[Path],
    root: Path,
    target: Callable[[str], str | None],
    archives: tuple[str, ...],
) -> None:
    """Link or copy files, and unpack those of archives, into `root`.

    Args:
        sources: files and folders, which are searched with all their subfolders.
        target: the name of a file -> its path inside `root`, or None where it is not wanted. Of
            several files of one name the first is taken.
        archives: how the names of those archives begin, in small letters, that are looked into
            where they lie in a folder; an archive that is given by itself always is.

    Raises:
        InputError: a source does not exist, an archive is refused (see archive.unpack), the disk
            is full.
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
        if not source.exists():
            raise InputError(f"{source}: no such file or folder")
        for path in _files(source):
            if not path.name.lower().endswith(_ARCHIVES):
                plain.append(path)
            elif path == source or path.name.lower().startswith(archives):
                packed.append(path)
    for path in plain:
        if where := place(path.name):
            with disk.errors(root / where):
                _link(path, root / where)
    for path in packed:
        archive.unpack(path, root, place)


def _files(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    paths = (Path(folder, name) for folder, _, names in os.walk(source) for name in names)
    return sorted(path for path in paths if path.is_file())


def _link(source: Path, path: Path) -> None:
    """The same file under another name, or a copy where they are on different disks."""
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
