"""Find the pictures that caption files name, in a data set's folders."""

import os
import re
import unicodedata
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from captioner.data.formats import Entry
from captioner.errors import InputError, first_five, printable
from captioner.paths import composed, is_below, same_letters

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

    Folders are listed once: no system call per picture. A name that no file has is that of the one
    file whose name differs only in how accents are composed. Raises InputError if pictures are
    missing, in several folders, or outside.
    """
    folders = search_folders(base)
    if not folders:
        raise InputError(f"{printable(base)}: no such folder: name one by data.images=")
    listings: dict[str, list[Listing]] = {}
    paths, missing = [], []
    for entry in entries:
        if OUTSIDE.search(entry.name):
            fault = f"{entry.name!r} is not a path inside the image folder"
            raise InputError(f"{entry.where}: {fault}; put the picture there")
        parent, _, name = entry.name.rpartition("/")
        if parent not in listings:
            listings[parent] = _list(folders, parent, base, entry)
        matches = [listing for listing in listings[parent] if name in listing.is_link]
        if not matches:
            alike = [(listing, n) for listing in listings[parent] for n in listing.alike(name)]
            equal = [match for match in alike if composed(match[1]) == composed(name)]
            if len(equal) != 1:
                missing.append((entry, [n for _, n in alike]))
                continue
            matches, name = [equal[0][0]], equal[0][1]
        if len(matches) > 1:
            fault = f"{entry.name!r} is in {first_five(listing.folder for listing in matches)}"
            raise InputError(f"{entry.where}: {fault}; choose by data.images=")
        path = matches[0].folder / name
        if matches[0].is_link[name]:
            _check_inside(path, base, entry)
        paths.append(path)
    if missing:
        names = first_five(repr(entry.name) for entry, _ in missing)
        alike_names = first_five(ascii(name) for _, several in missing for name in several)
        raise InputError(
            f"{missing[0][0].where}: {len(missing)} of {len(entries)} images are missing: {names}; "
            f"looked in {first_five(folders)}"
            + (f"; that look alike: {alike_names}" if alike_names else "")
            + "; name the folder by data.images="
        )
    return paths


def _loose(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold()


class Listing:
    """The names in a folder, and whether each is a symlink."""

    def __init__(self, folder: Path):
        self.folder = folder
        with os.scandir(folder) as files:
            self.is_link = {file.name: file.is_symlink() for file in files}

    def alike(self, name: str) -> list[str]:
        """The names that look like this one: of other case, or with accents composed otherwise."""
        return self._alike.get(_loose(name), [])

    @cached_property
    def _alike(self) -> dict[str, list[str]]:
        alike: dict[str, list[str]] = {}
        for name in self.is_link:
            alike.setdefault(_loose(name), []).append(name)
        return alike


def _list(folders: list[Path], parent: str, base: Path, entry: Entry) -> list[Listing]:
    """Return the listing of each folder's subfolder `parent`."""
    listings = {}
    for folder in folders:
        path = same_letters(folder / parent)
        if not path.is_dir():
            continue
        _check_inside(path, base, entry)
        status = path.stat()
        listings[status.st_dev, status.st_ino] = Listing(path)  # once: Images may be images
    return list(listings.values())


def _check_inside(path: Path, base: Path, entry: Entry) -> None:
    """Raise InputError if a symlink leads out of the root, also `images` itself."""
    if not is_below(path, base):
        fault = f"{entry.name!r} leads out of {printable(base)}, to {printable(path.resolve())}"
        raise InputError(
            f"{entry.where}: {fault}; put a copy there, or name the folder by data.images="
        )
