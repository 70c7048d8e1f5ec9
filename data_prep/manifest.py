"""The sizes of all files of a completed preparation, in FOLDER/.manifest/NAME.json.

It is written last, so its existence means that every file was there once; comparing sizes tells
whether they still are, without reading 20 GB.
"""

import json
from pathlib import Path

from captioner import files
from captioner.data.image_folders import OUTSIDE
from captioner.errors import InputError, read_json


def missing(folder: Path, name: str) -> list[str] | None:
    """Return the files that are missing or have another size; None if there is no manifest."""
    try:
        sizes = read_json(_path(folder, name))
    except InputError:
        return None
    if not isinstance(sizes, dict) or any(OUTSIDE.search(file) for file in sizes):
        return None
    return [file for file, size in sizes.items() if not _has(folder / file, size)]


def write(folder: Path, name: str, sizes: dict[str, int]) -> None:
    """Write the manifest of these files. Raises InputError if that fails."""
    path = _path(folder, name)
    files.make_folder(path.parent)
    files.write_atomic(path, json.dumps(sizes, indent=0))


def _path(folder: Path, name: str) -> Path:
    return folder / ".manifest" / f"{name}.json"


def _has(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False
