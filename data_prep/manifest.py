"""What is in place, file by file, with sizes: FOLDER/.manifest/NAME.json.

It is written last, so where it is, everything was there once; looking at sizes tells whether it
still is, without reading 20 GB.
"""

import json
from pathlib import Path

from captioner import files


def missing(folder: Path, name: str) -> list[str] | None:
    """The files that are gone or have another size now; None where there is no manifest."""
    try:
        sizes = json.loads(_path(folder, name).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return [file for file, size in sizes.items() if not _has(folder / file, size)]


def write(folder: Path, name: str, sizes: dict[str, int]) -> None:
    """Notes that these files are in place. Raises InputError where that cannot be written."""
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
