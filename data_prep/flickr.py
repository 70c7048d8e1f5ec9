"""Arrange a Flickr8k or Flickr30k that you have obtained, and say what is missing.

    python data_prep/flickr.py flickr8k data/flickr8k Flickr8k_Dataset.zip Flickr8k_text.zip
    python data_prep/flickr.py flickr30k data/flickr30k ~/Downloads caption_datasets.zip
    python data_prep/flickr.py flickr8k data/flickr8k        # what lies there, and no more

Their licences ask for a form, so nothing is downloaded. Sources are folders, and zip or tar
archives, with pictures, captions and split lists. What is needed of them is linked (copied, from
another disk) or unpacked: captions into DIR, pictures into DIR/images. What lies where
records.py looks for it stays there. Exit code 1 where something is missing: it is listed,
with its origin.
"""

import argparse
import os
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from captioner.data import image_folders, records
from data_prep import manifest, ready, sources


class Place(NamedTuple):
    """What lies in DIR: pictures by name, and files that have changed since they were verified."""

    pictures: dict[str, Path]
    bad: set[Path]


class Form(NamedTuple):
    """One form in which the captions come. files: the first holds the captions, others lists."""

    files: tuple[str, ...]
    splits: dict[str, int]
    origin: str


class Set(NamedTuple):
    """A data set. picture: the form of their names. archives: how the names of archives begin."""

    picture: str
    origin: str
    archives: tuple[str, ...]
    forms: tuple[Form, ...]


CAPTIONS = 5
"""Of each picture, in both data sets."""

_KARPATHY = "caption_datasets.zip of https://cs.stanford.edu/people/karpathy/deepimagesent/"
_LISTS = tuple(f"Flickr_8k.{split}Images.txt" for split in ("train", "dev", "test"))
_SPLITS = {"train": 6000, "val": 1000, "test": 1000}
SETS = {
    "flickr8k": Set(
        r"\d+_[0-9a-f]+\.jpg",
        "Flickr8k_Dataset.zip, for which https://forms.illinois.edu/sec/1713398 is the form",
        ("flickr8k", "flicker8k", "caption_datasets", "archive"),
        (
            Form(("dataset_flickr8k.json",), _SPLITS, _KARPATHY),
            Form(("Flickr8k.token.txt", *_LISTS), _SPLITS, "Flickr8k_text.zip"),
            Form(("captions.txt", *_LISTS), _SPLITS, "Kaggle; the lists: Flickr8k_text.zip"),
        ),
    ),
    "flickr30k": Set(
        r"\d+\.jpg",
        "flickr30k-images.tar.gz, for which https://forms.illinois.edu/sec/229675 is the form",
        ("flickr30k", "caption_datasets", "archive"),
        (
            Form(
                ("dataset_flickr30k.json",), {"train": 29000, "val": 1014, "test": 1000}, _KARPATHY
            ),
            Form(
                ("results_20130124.token", "train.txt", "val.txt", "test.txt"),
                {"train": 29783, "val": 1000, "test": 1000},
                "the form; the lists: Flickr30k Entities",
            ),
        ),
    ),
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code: 1 where something is missing, 2 for an error."""
    parser = argparse.ArgumentParser(description="Arrange and verify Flickr8k or Flickr30k.")
    parser.add_argument("name", choices=sorted(SETS))
    parser.add_argument("folder", type=Path, metavar="DIR", help="made if it does not exist")
    parser.add_argument("sources", type=Path, nargs="*", metavar="SOURCE", help="default: DIR")
    parser.add_argument("--check", action="store_true", help="open every picture")
    given = parser.parse_args(arguments)
    return ready.exit_code(
        given.folder, lambda: _prepare(given.name, given.folder, given.sources, given.check)
    )


def _prepare(name: str, root: Path, given: list[Path], check: bool) -> list[str]:
    """Returns what is missing; where nothing is, prints the counts and the command to go on."""
    data = SETS[name]
    place = _look(root, name)
    if _lacking(root, data, place):
        sources.bring(given or [root], root, _target(root, data, place), data.archives)
        place = _look(root, name)
    if lacking := _lacking(root, data, place):
        return lacking
    captions = _captions(root, data, place)
    assert captions is not None
    form, folder = captions
    references = records.read_references(folder / form.files[0])
    used = [place.pictures[record.image.name] for record in references]
    if check and (broken := _broken(used)):
        return [f"broken: {len(broken)} pictures, from {data.origin}:", *broken]
    files = [*used, *(folder / file for file in form.files)]
    sizes = {str(path.relative_to(root)): path.stat().st_size for path in files}
    manifest.write(root, name, sizes)
    annotations = str((folder / form.files[0]).relative_to(root))
    ready.report(name, root, annotations, list(form.splits))
    return []


def _look(root: Path, name: str) -> Place:
    """What lies where records.py looks."""
    bad = {root / file for file in manifest.missing(root, name) or ()}
    inner = [root / folder for folder in image_folders.IMAGE_FOLDERS]
    inner += [folder / name for folder in inner for name in image_folders.IMAGE_FOLDERS]
    pictures = {}
    for folder in (root, *inner):
        for file in os.scandir(folder) if folder.is_dir() else ():
            if file.name.endswith(".jpg") and file.is_file() and file.stat().st_size:
                pictures[file.name] = folder / file.name
    return Place({name: path for name, path in pictures.items() if path not in bad}, bad)


def _captions(root: Path, data: Set, place: Place) -> tuple[Form, Path] | None:
    """The first form all of whose files lie in one folder, and that folder."""
    for form in data.forms:
        for folder in (root / name for name in records.ANNOTATION_FOLDERS):
            paths = [folder / file for file in form.files]
            if all(path.is_file() and path not in place.bad for path in paths):
                return form, folder
    return None


def _target(root: Path, data: Set, place: Place) -> Callable[[str], str | None]:
    """Where a file of this name is wanted: in the place of a bad one, or as a new one."""
    complete = _captions(root, data, place) is not None
    captions = {file for form in data.forms for file in form.files}
    repaired = {path.name: str(path.relative_to(root)) for path in place.bad}

    def target(name: str) -> str | None:
        if name in captions:
            new = None if complete or (root / name).exists() else name
        elif re.fullmatch(data.picture, name):
            new = None if name in place.pictures else f"images/{name}"
        else:
            return None
        return repaired.get(name, new)

    return target


def _lacking(root: Path, data: Set, place: Place) -> list[str]:
    """What is missing, a line each."""
    pictures = f"missing: pictures; from {data.origin}"
    captions = _captions(root, data, place)
    if captions is None:
        lines = ["missing: captions and splits, in one of these forms:"]
        for form in data.forms:
            absent = [file for file in form.files if not (root / file).is_file()]
            lines.append(f"    {', '.join(absent or form.files)}; from {form.origin}")
        return lines if place.pictures else [*lines, pictures]
    form, folder = captions
    path = folder / form.files[0]
    lines = []
    references = records.read_references(path)
    counts = Counter(record.split for record in references)
    for split, number in form.splits.items():
        if counts[split] != number:
            share = f"{counts[split]:,} of {number:,} pictures of {split}"
            lines.append(f"missing: {path} has {share}; from {form.origin}")
    if few := [record.id for record in references if len(record.captions) != CAPTIONS]:
        first = f"{len(few)} pictures have not {CAPTIONS} captions, the first of them {few[0]}"
        lines.append(f"missing: {path}: {first}; from {form.origin}")
    names = [record.image.name for record in references]
    absent = [name for name in names if name not in place.pictures]
    if len(absent) == len(names):
        lines.append(pictures)
    elif absent:
        lines += [f"missing: {len(absent):,} of {len(names):,} pictures; from {data.origin}"]
        lines += [f"    {name}" for name in absent]
    return lines


def _broken(paths: list[Path]) -> list[str]:
    """A line for each picture that cannot be opened."""
    from captioner import images  # imports torch

    lines = []
    for path in tqdm(paths, "opening", unit=" pictures", disable=None):
        try:
            images.read_image(path)
        except images.ImageError as error:
            lines.append(f"    {error}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
