"""Arrange the Flickr8k or Flickr30k files that you have, and list what is missing.

    python data_prep/flickr.py flickr8k data/flickr8k Flickr8k_Dataset.zip Flickr8k_text.zip
    python data_prep/flickr.py flickr30k data/flickr30k ~/Downloads caption_datasets.zip
    python data_prep/flickr.py flickr8k data/flickr8k        # only what is in that folder

The licences require a form, so nothing is downloaded. Sources are folders, and zip or tar archives,
with pictures, captions and split lists. The files that are needed are linked (copied from another
disk) or unpacked: captions into DIR, pictures into DIR/images. Files that are already where
records.py looks stay there. If anything is missing, it is listed with its origin; exit code 1.
"""

import os
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from captioner.console import Parser
from captioner.data import image_folders, records
from data_prep import manifest, ready, sources


class Inventory(NamedTuple):
    """The files in DIR: pictures by name, and files that have changed since the last run."""

    pictures: dict[str, Path]
    changed: set[Path]


class Form(NamedTuple):
    """A form in which the captions are published. files: the captions first, then split lists."""

    files: tuple[str, ...]
    splits: dict[str, int]  # number of pictures
    origin: str


class Dataset(NamedTuple):
    """A data set. picture: the pattern of file names. archives: prefixes of the archives' names."""

    picture: str
    origin: str
    archives: tuple[str, ...]
    forms: tuple[Form, ...]


CAPTIONS = 5  # of each picture, in both data sets

_KARPATHY = "caption_datasets.zip of https://cs.stanford.edu/people/karpathy/deepimagesent/"
_LISTS = tuple(f"Flickr_8k.{split}Images.txt" for split in ("train", "dev", "test"))
_SPLITS = {"train": 6000, "val": 1000, "test": 1000}
DATASETS = {
    "flickr8k": Dataset(
        r"\d+_[0-9a-f]+\.jpg",
        "Flickr8k_Dataset.zip, for which https://forms.illinois.edu/sec/1713398 is the form",
        ("flickr8k", "flicker8k", "caption_datasets", "archive"),
        (
            Form(("dataset_flickr8k.json",), _SPLITS, _KARPATHY),
            Form(("Flickr8k.token.txt", *_LISTS), _SPLITS, "Flickr8k_text.zip"),
            Form(("captions.txt", *_LISTS), _SPLITS, "Kaggle; the lists: Flickr8k_text.zip"),
        ),
    ),
    "flickr30k": Dataset(
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
    """Run the command. Returns its exit code: 1 if something is missing, 2 for an error."""
    parser = Parser(description="Arrange and verify Flickr8k or Flickr30k.")
    parser.add_argument("name", choices=sorted(DATASETS))
    parser.add_argument("folder", type=Path, metavar="DIR", help="made if it does not exist")
    parser.add_argument("sources", type=Path, nargs="*", metavar="SOURCE", help="default: DIR")
    parser.add_argument("--check", action="store_true", help="open every picture")
    options = parser.parse_args(arguments)
    return ready.exit_code(
        options.folder,
        lambda: _prepare(options.name, options.folder, options.sources, options.check),
    )


def _prepare(name: str, root: Path, given: list[Path], check: bool) -> list[str]:
    """Return lines that say what is missing; if nothing is, print a summary."""
    data = DATASETS[name]
    inventory = _take_inventory(root, name)
    if _missing(root, data, inventory):
        sources.collect(given or [root], root, _target(root, data, inventory), data.archives)
        inventory = _take_inventory(root, name)
    if missing := _missing(root, data, inventory):
        return missing
    captions = _captions(root, data, inventory)
    assert captions is not None
    form, folder = captions
    references = records.read_references(folder / form.files[0])
    used = [inventory.pictures[record.image.name] for record in references]
    if check and (broken := _broken(used)):
        return [f"broken: {len(broken)} pictures, from {data.origin}:", *broken]
    files = [*used, *(folder / file for file in form.files)]
    sizes = {str(path.relative_to(root)): path.stat().st_size for path in files}
    manifest.write(root, name, sizes)
    annotations = str((folder / form.files[0]).relative_to(root))
    ready.print_summary(name, root, annotations, list(form.splits))
    return []


def _take_inventory(root: Path, name: str) -> Inventory:
    """Find the files in the folders where records.py looks."""
    changed = {root / file for file in manifest.missing(root, name) or ()}
    pictures = {}
    for folder in image_folders.search_folders(root):
        for file in os.scandir(folder):
            if file.name.endswith(".jpg") and file.is_file() and file.stat().st_size:
                pictures[file.name] = folder / file.name
    intact = {name: path for name, path in pictures.items() if path not in changed}
    return Inventory(intact, changed)


def _captions(root: Path, data: Dataset, inventory: Inventory) -> tuple[Form, Path] | None:
    """Return the first form whose files are all in one folder, and that folder."""
    for form in data.forms:
        for folder in (root / name for name in records.ANNOTATION_FOLDERS):
            paths = [folder / file for file in form.files]
            if all(path.is_file() and path not in inventory.changed for path in paths):
                return form, folder
    return None


def _target(root: Path, data: Dataset, inventory: Inventory) -> Callable[[str], str | None]:
    """Return a function: name of a file -> path in `root` where it is needed, new or to repair."""
    complete = _captions(root, data, inventory) is not None
    captions = {file for form in data.forms for file in form.files}
    repaired = {path.name: str(path.relative_to(root)) for path in inventory.changed}

    def target(name: str) -> str | None:
        if name in captions:
            new = None if complete or (root / name).exists() else name
        elif re.fullmatch(data.picture, name):
            new = None if name in inventory.pictures else f"images/{name}"
        else:
            return None
        return repaired.get(name, new)

    return target


def _missing(root: Path, data: Dataset, inventory: Inventory) -> list[str]:
    """Return a line for each thing that is missing."""
    pictures = f"missing: pictures; from {data.origin}"
    captions = _captions(root, data, inventory)
    if captions is None:
        lines = ["missing: captions and splits, in one of these forms:"]
        for form in data.forms:
            absent = [file for file in form.files if not (root / file).is_file()]
            lines.append(f"    {', '.join(absent or form.files)}; from {form.origin}")
        return lines if inventory.pictures else [*lines, pictures]
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
    absent = [name for name in names if name not in inventory.pictures]
    if len(absent) == len(names):
        lines.append(pictures)
    elif absent:
        lines += [f"missing: {len(absent):,} of {len(names):,} pictures; from {data.origin}"]
        lines += [f"    {name}" for name in absent]
    return lines


def _broken(paths: list[Path]) -> list[str]:
    """Return a line for each picture that cannot be opened."""
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
