"""The records of a data set: pictures and their captions, from files in any of five formats.

A root that holds several formats is read as the first in formats.py. Tokens, and tables without a
split column, take their splits from the file's own name (val.csv) or from lists of image names
(train.txt, Flickr_8k.devImages.txt). No split is ever drawn at random.
"""

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from captioner.data.detect import TABLES, format_by_name, format_of
from captioner.data.formats import READERS, Entry, lines_of
from captioner.data.image_folders import locate
from captioner.errors import InputError, first_five, is_encodable, naming_file
from captioner.paths import composed, same_letters

ANNOTATION_FOLDERS = ("", "annotations", "Flickr8k_text")
"""Where a root is searched for caption files and split lists."""

SAME_SPLIT = {"dev": "val", "valid": "val", "validation": "val"}

_SPLIT_IN_NAME = re.compile(r"(?<![a-z])(?i:train|validation|valid|val|dev|test)(?![a-z])")
_LITTER = re.compile(r"\.|readme", re.IGNORECASE)  # such as ._captions.csv of macOS


class Record(NamedTuple):
    """A picture and its captions, as in the file.

    id: COCO's image id, Karpathy's cocoid or imgid; in other formats the image's name. It is the
        key in predictions.json.
    split: train, val, test, or another name in the file; "all" if nothing gives it.
    """

    id: int | str
    image: Path
    captions: tuple[str, ...]
    split: str


def read_records(
    root: Path | str,
    split: str | None = None,
    captions: Path | str | None = None,
    images: Path | str | None = None,
    bare: bool = False,
) -> list[Record]:
    """Return the records of one split, or of all (None), in the order of the file.

    Args:
        split: dev, valid and validation mean val. Karpathy's restval counts as train unless it is
            asked for by name. A COCO file without a split in its name serves for any.
        captions: caption file, relative to `root`, if the root holds several; a pattern such as
            `annotations/captions_*2014.json` gives one file per split.
        images: folder of the pictures, relative to `root`.
        bare: whether to include images without captions, as in COCO's image_info files.

    Raises:
        InputError: no such split, a broken file, missing pictures, or pictures outside their
            folder. The message names the file and the line or key.
    """
    root = same_letters(Path(root))
    if not root.is_dir():
        raise InputError(f"{root}: no such folder")
    split = SAME_SPLIT.get(split, split) if split else split
    with naming_file(root):
        entries = _read_entries(root, split, captions, bare)
        paths = locate(entries, same_letters(root / (images or "")))
    return [_record(entry, path) for entry, path in zip(entries, paths, strict=True)]


def read_captions(
    root: Path | str, split: str, captions: Path | str | None = None
) -> dict[int | str, list[str]]:
    """Return image id -> captions of a split; pictures may be missing. Raises as `read_records`."""
    with naming_file(root):
        return {entry.id: entry.captions for entry in _read_entries(Path(root), split, captions)}


def read_references(path: Path | str, split: str | None = None) -> list[Record]:
    """Return the records of one caption file, to score predictions; `image` is only a name.

    split: if the file holds several; None for all. Raises as `read_records`.
    """
    path = Path(path)
    with naming_file(path):
        entries = _read_entries(path.parent, None, path.name)
    splits = {str(entry.split) for entry in entries}
    if split is not None and len(splits) > 1:
        entries = [entry for entry in entries if entry.split == SAME_SPLIT.get(split, split)]
        if not entries:
            only = first_five(sorted(splits))
            raise InputError(f"{path}: no images of split {split!r}, only {only}")
    return [_record(entry, Path(entry.name)) for entry in entries]


def _record(entry: Entry, image: Path) -> Record:
    return Record(entry.id, image, tuple(entry.captions), str(entry.split))


def _read_entries(
    root: Path, split: str | None, captions: Path | str | None, bare: bool = False
) -> list[Entry]:
    """Return the entries of a split: each has a split and, unless `bare`, a caption."""
    kind, files = _choose(root, split, captions)
    all_entries = [entry for path in files for entry in _with_splits(kind, path, root, split)]
    entries = [entry for entry in all_entries if split in (None, entry.split)]
    if not entries:
        counts = Counter(entry.split for entry in all_entries)
        only = first_five(f"{name!r} ({count})" for name, count in counts.items()) or "none"
        raise InputError(f"{first_five(files)}: no images of split {split or 'any'!r}, only {only}")
    bare_entries = [entry for entry in entries if not entry.captions]
    if bare_entries and not bare:
        names = first_five(repr(entry.name) for entry in bare_entries)
        fault = f"{len(bare_entries)} of {len(entries)} images have no caption: {names}"
        raise InputError(f"{bare_entries[0].where}: {fault}; caption them or take them out")
    return entries


def _choose(root: Path, split: str | None, captions: Path | str | None) -> tuple[str, list[Path]]:
    """Return the format, and the file or the files (one per split) to read."""
    place = same_letters(root / (captions or ""))
    if captions is None:
        paths = [path for name in ANNOTATION_FOLDERS for path in _caption_files(root / name)]
    else:
        paths = (
            [place]
            if place.exists()
            else sorted(root / name for name in glob.glob(str(captions), root_dir=root))
        )
    of_kind: dict[str, list[Path]] = {}
    kinds = {path: format_of(path) for path in paths}
    for path, kind in kinds.items():
        # A file that its name promises is read even if its content does not tell: its reader
        # reports what is wrong. A table beside others may be about something else.
        is_table = path.suffix.lower() in TABLES and not _split_in(path)
        if captions is not None or not is_table or not any(kinds.values()):
            kind = kind or format_by_name(path)
        if captions is not None and path.suffix.lower() == ".json":
            kind = kind or "coco"
        if kind:
            of_kind.setdefault(kind, []).append(path)
    if not of_kind:
        reason = "no caption file" if paths or captions is None else "no such file"
        raise InputError(
            f"{place}: {reason}; give COCO or Karpathy JSON, Flickr tokens, or JSON lines or "
            "CSV with image and caption"
        )
    kind = min(of_kind, key=list(READERS).index)
    of_split: dict[str | None, list[Path]] = {}
    for path in of_kind[kind]:
        of_split.setdefault(_split_in(path), []).append(path)
    if len(of_split) > 1:
        of_split.pop(None, None)  # beside captions_val.json, what is captions.json?
    if split is not None and None not in of_split:
        if split not in of_split:
            fault = f"no caption file of split {split!r}, only {first_five(of_kind[kind])}"
            remedy = "other files are read if data.annotations= names them"
            raise InputError(f"{place}: {fault}; {remedy}")
        of_split = {split: of_split[split]}
    for name, same in of_split.items():
        if len(same) > 1:
            which = f"of split {name!r}" if name else "of any split"
            several = f"several files {which}: {first_five(same)}"
            raise InputError(f"{several}; choose one by data.annotations=")
    return kind, [file for same in of_split.values() for file in same]


def _caption_files(folder: Path) -> list[Path]:
    """Return the files that may hold captions or a list of image names."""
    suffixes = (".json", ".txt", ".token", *TABLES)
    if not folder.is_dir():
        return []
    with os.scandir(folder) as files:
        names = [f.name for f in files if f.name.lower().endswith(suffixes) and f.is_file()]
    return sorted(folder / name for name in names if not _LITTER.match(name))


def _split_in(path: Path) -> str | None:
    """Return the one split in a file's name."""
    names = {name.lower() for name in _SPLIT_IN_NAME.findall(path.name)}
    splits = {SAME_SPLIT.get(name, name) for name in names}
    return splits.pop() if len(splits) == 1 else None


def _with_splits(kind: str, path: Path, root: Path, split: str | None) -> list[Entry]:
    """Return the entries of a file, each with a split."""
    entries = READERS[kind](path)
    for entry in entries:
        if not is_encodable(f"{entry.name}{entry.id}{entry.split}"):
            fault = f"{entry.name!r} (id {entry.id!r}): not UTF-8"
            raise InputError(f"{entry.where}: {fault}; rename it, here and in its folder")
    unknown = [entry for entry in entries if entry.split is None]
    if 0 < len(unknown) < len(entries):
        raise InputError(f"{unknown[0].where}: no split, but other images have one")
    if not unknown:
        same = SAME_SPLIT if split == "restval" else {**SAME_SPLIT, "restval": "train"}
        return [entry._replace(split=same.get(str(entry.split), entry.split)) for entry in entries]
    name = _split_in(path)
    if name is None and kind != "coco":
        if lists := _split_lists([path.parent, *(root / name for name in ANNOTATION_FOLDERS)]):
            return _listed(entries, lists, path)
        if split is not None:
            raise InputError(
                f"{path}: nothing tells which images are of split {split!r}: add a split column, "
                "or lists of image names beside it (train.txt, val.txt, test.txt), or give each "
                f"split its own file ({split}{path.suffix})"
            )
    return [entry._replace(split=name or split or "all") for entry in entries]


def _split_lists(folders: Iterable[Path]) -> dict[str, tuple[str, str]]:
    """Return image name -> its split, and the file and line that give it."""
    lists: dict[str, tuple[str, str]] = {}
    for path in dict.fromkeys(path for folder in folders for path in _caption_files(folder)):
        split = _split_in(path)
        if path.suffix.lower() != ".txt" or split is None or format_of(path) is not None:
            continue
        for where, line in lines_of(path):
            other, place = lists.setdefault(line.strip(), (split, where))
            if other != split:
                raise InputError(f"{where}: {line.strip()!r} is also of split {other!r} ({place})")
    return lists


def _listed(entries: list[Entry], lists: dict[str, tuple[str, str]], path: Path) -> list[Entry]:
    """Return the entries in the lists, with their splits."""
    names: dict[str, list[str]] = {}
    for entry in entries:
        names.setdefault(composed(entry.name), []).append(entry.name)
    splits = {}
    for listed, (split, where) in lists.items():
        listed_name = composed(listed)  # some lists leave the suffix out
        same = names.get(listed_name) or names.get(f"{listed_name}.jpg") or []
        if listed not in same and len(same) != 1:
            fault = f"is one of {first_five(map(ascii, same))}" if same else "has no caption"
            raise InputError(f"{where}: {listed!r} {fault} in {path}")
        splits[listed if listed in same else same[0]] = split
    return [entry._replace(split=splits[entry.name]) for entry in entries if entry.name in splits]
