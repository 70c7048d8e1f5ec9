"""Find the pictures that caption files name, in a data set's folders."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from captioner import files
from captioner.data.formats import Entry
from captioner.errors import InputError, first_five, printable

_FLICKR = ("Flicker8k_Dataset", "Flickr8k_Dataset", "flickr30k-images", "flickr30k_images")
_COCO = ("train2014", "val2014", "test2014", "train2017", "val2017", "test2017")
IMAGE_FOLDERS = ("images", "Images", *_FLICKR, *_COCO)
"""Folders searched besides the root: in it, and in one another. Flickr8k misspells its own name."""

OUTSIDE = re.compile(r"^$|^/|^[A-Za-z]:|\\|\0|(^|/)\.\.(/|$)")


def search_folders(base: Path) -> list[Path]:
    """Return the folders that are searched for pictures, of those that exist: `base` first."""
    inner = [base / name for name in IMAGE_FOLDERS]
    inner += [folder / name for folder in inner if folder.is_dir() for name in IMAGE_FOLDERS]
    return [folder for folder in (base, *inner) if folder.is_dir()]


def locate(entries: Sequence[Entry], base: Path) -> list[Path]:
    """Return the path of each entry's picture in the folder `base` or in IMAGE_FOLDERS.

    Folders are listed once: no system call per picture. Raises InputError if pictures are missing,
    in several folders, or outside.
    """
    folders = search_folders(base)
    listings: dict[str, list[tuple[Path, dict[str, bool]]]] = {}
    paths, missing = [], []
    for entry in entries:
        if OUTSIDE.search(entry.name):
            fault = f"{entry.name!r} is not a path inside the image folder"
            raise InputError(f"{entry.where}: {fault}; put the picture there")
        parent, _, name = entry.name.rpartition("/")
        if parent not in listings:
            listings[parent] = _list(folders, parent, base, entry)
        matches = [(folder, links[name]) for folder, links in listings[parent] if name in links]
        if not matches:
            missing.append(entry)
            continue
        if len(matches) > 1:
            fault = f"{entry.name!r} is in {first_five(folder for folder, _ in matches)}"
            raise InputError(f"{entry.where}: {fault}; choose by data.images=")
        ((folder, is_link),) = matches
        if is_link:
            _check_inside(folder / name, base, entry)
        paths.append(folder / name)
    if missing:
        names = first_five(repr(entry.name) for entry in missing)
        raise InputError(
            f"{missing[0].where}: {len(missing)} of {len(entries)} images are missing: {names}; "
            f"looked in {first_five(folders)}; name the folder by data.images="
        )
    return paths


def _list(
    folders: list[Path], parent: str, base: Path, entry: Entry
) -> list[tuple[Path, dict[str, bool]]]:
    """Return path and {name: whether it is a symlink} of each folder's subfolder `parent`."""
    listings = {}
    for folder in folders:
        path = folder / parent
        if not path.is_dir():
            continue
        _check_inside(path, base, entry)
        status = path.stat()
        with os.scandir(path) as entries:
            links = {item.name: item.is_symlink() for item in entries}
        listings[status.st_dev, status.st_ino] = path, links  # once: Images may be images
    return list(listings.values())


def _check_inside(path: Path, base: Path, entry: Entry) -> None:
    """Raise InputError if a symlink leads out of the root, also `images` itself."""
    if not files.is_below(path, base):
        fault = f"{entry.name!r} leads out of {printable(base)}, to {printable(path.resolve())}"
        raise InputError(
            f"{entry.where}: {fault}; put a copy there, or name the folder by data.images="
        )
