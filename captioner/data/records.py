"""Pictures and their captions, from any of four sources, told apart by what the files hold:

    COCO       {"images": [...], "annotations": [...]}, one file per split
    Karpathy   {"images": [{"sentences": [...], "split": ...}, ...]}, every split in one file
    tokens     Flickr8k and Flickr30k: lines `IMAGE#0<tab>CAPTION`
    table      JSON lines or CSV with image, caption and, where they have it, split

A root that holds several is read as the first in this order. Tokens, and tables without a split
column, take their splits from the file's own name (val.csv) or from lists of image names
(train.txt, Flickr_8k.devImages.txt). No split is ever drawn at random.
"""

import codecs
import csv
import glob
import io
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from captioner.errors import InputError

ANNOTATION_FOLDERS = ("", "annotations", "Flickr8k_text")
"""Where a root is searched for caption files and split lists."""

_FLICKR = ("Flicker8k_Dataset", "Flickr8k_Dataset", "flickr30k-images", "flickr30k_images")
_COCO = ("train2014", "val2014", "test2014", "train2017", "val2017", "test2017")
IMAGE_FOLDERS = ("images", "Images", *_FLICKR, *_COCO)
"""Folders searched for pictures besides the root: in it, and in one another. The misspelling is
Flickr8k's own."""

SAME_SPLIT = {"dev": "val", "valid": "val", "validation": "val"}

_SPLIT_IN_NAME = re.compile(r"(?<![a-z])(?i:train|validation|valid|val|dev|test)(?![a-z])")
_TOKEN_LINE = re.compile(r"([^\t]+)#\d+\t(.*)", re.DOTALL)
_OUTSIDE = re.compile(r"^$|^/|^[A-Za-z]:|\\|\0|(^|/)\.\.(/|$)")
_END = 2**16  # bytes at either end of a file that tell what it is


class Record(NamedTuple):
    """One picture and its captions.

    id: COCO's image id, Karpathy's cocoid or imgid, as it stands in the file; in other sources
        the image's name. predictions.json is keyed by it.
    captions: one or more, as they stand in the file.
    split: train, val, test, or what else the file says; "all" where nothing says it.
    """

    id: int | str
    image: Path
    captions: tuple[str, ...]
    split: str


class _Entry(NamedTuple):
    """A record whose picture is not yet looked up. where: the file and the key or line."""

    id: int | str
    name: str
    captions: list[str]
    split: str | None
    where: str


def read_records(
    root: Path | str,
    split: str | None = None,
    captions: Path | str | None = None,
    images: Path | str | None = None,
    bare: bool = False,
) -> list[Record]:
    """The records of one split, or of all (None), in the order of the file.

    Args:
        split: dev, valid and validation mean val. Karpathy's restval counts as train unless it is
            asked for by name. A COCO file without a split in its name serves whichever is asked.
        captions: caption file, relative to `root`, where the root holds several; a pattern such
            as `annotations/captions_*2014.json` gives one file per split.
        images: folder of the pictures, relative to `root`.
        bare: whether images without captions are taken too, as in COCO's image_info files.

    Raises:
        InputError: no such split, a broken file, missing pictures, or pictures outside their
            folder. The message names the file and the line or key.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder")
    if split is not None:
        split = SAME_SPLIT.get(split, split)
    try:
        kind, files = _choose(root, split, captions)
        entries = _entries(kind, files, root, split, bare)
        return _locate(entries, root if images is None else root / images)
    except OSError as error:
        raise InputError(f"{error.filename or root}: {error.strerror}") from error


def read_captions(
    root: Path | str, split: str, captions: Path | str | None = None
) -> dict[int | str, list[str]]:
    """The captions of a split by image id; its pictures need not be there. Raises as `read`."""
    root = Path(root)
    try:
        kind, files = _choose(root, split, captions)
        return {entry.id: entry.captions for entry in _entries(kind, files, root, split)}
    except OSError as error:
        raise InputError(f"{error.filename or root}: {error.strerror}") from error


def read_references(path: Path | str, split: str | None = None) -> list[Record]:
    """The records of a caption file by itself, to score predictions: `image` is a name only.

    split: of a file that holds several; all, without.
    """
    path = Path(path)
    try:
        kind, files = _choose(path.parent, None, path.name)
        entries = _entries(kind, files, path.parent, None)
    except OSError as error:
        raise InputError(f"{error.filename or path}: {error.strerror}") from error
    found = [Record(e.id, Path(e.name), tuple(e.captions), str(e.split)) for e in entries]
    splits = {record.split for record in found}
    if split is not None and len(splits) > 1:
        found = [record for record in found if record.split == SAME_SPLIT.get(split, split)]
        if not found:
            raise InputError(f"{path}: no images of split {split!r}, only {_join(sorted(splits))}")
    return found


# Which file


def _choose(root: Path, split: str | None, captions: Path | str | None) -> tuple[str, list[Path]]:
    """The kind of source, and the file or the files (one per split) to read."""
    if captions is None:
        place, paths = root, [path for name in ANNOTATION_FOLDERS for path in _texts(root / name)]
    else:
        place = root / captions
        paths = [place] if place.exists() else sorted(map(Path, glob.glob(str(place))))
    found: dict[str, list[Path]] = {}
    for path in paths:
        # A JSON file that was named is read whatever it holds: its reader says what is wrong.
        named = "coco" if captions is not None and path.suffix == ".json" else None
        if kind := _kind(path) or named:
            found.setdefault(kind, []).append(path)
    if not found:
        what = "no caption file" if paths or captions is None else "no such file"
        raise InputError(
            f"{place}: {what}; wanted is COCO or Karpathy JSON, Flickr tokens, or JSON lines or "
            "CSV with image and caption"
        )
    kind = min(found, key=list(_READERS).index)
    of_split: dict[str | None, list[Path]] = {}
    for path in found[kind]:
        of_split.setdefault(_split_in(path), []).append(path)
    if len(of_split) > 1:
        of_split.pop(None, None)  # beside captions_val.json, what is captions.json?
    if split is not None and None not in of_split:
        if split not in of_split:
            raise InputError(
                f"{place}: no caption file of split {split!r}, only {_join(found[kind])}; "
                "other files are read where captions= names them"
            )
        of_split = {split: of_split[split]}
    for name, same in of_split.items():
        if len(same) > 1:
            which = f"of split {name!r}" if name else "of any split"
            raise InputError(f"several files {which}: {_join(same)}; choose one by captions=")
    return kind, [file for same in of_split.values() for file in same]


def _texts(folder: Path) -> list[Path]:
    suffixes = (".json", ".jsonl", ".csv", ".txt", ".token")
    if not folder.is_dir():
        return []
    with os.scandir(folder) as files:
        return sorted(folder / f.name for f in files if f.name.endswith(suffixes) and f.is_file())


def _kind(path: Path) -> str | None:
    """What a file holds, by its two ends: COCO's folder has 450 MB files of other annotations.

    Failing that, by its name, so that a broken caption file is reported and not passed over.
    """
    with path.open("rb") as file:
        head = file.read(_END).removeprefix(codecs.BOM_UTF8)
        file.seek(max(0, path.stat().st_size - _END))
        ends = head + file.read()
    line = head.split(b"\n")[0]
    if _TOKEN_LINE.match(line.decode("utf-8", "replace")):
        return None if "lemma" in path.name else "tokens"  # Flickr8k.lemma.token.txt: no sentences
    if {b"image", b"caption"} <= set(line.rstrip(b"\r").replace(b'"', b"").split(b",")):
        return "csv"
    if line.startswith(b"{") and b'"image"' in line and b'"caption"' in line:
        return "jsonl"
    if head.lstrip().startswith(b"{"):
        if b'"sentences"' in head:
            return "karpathy"
        if b'"annotations"' in ends and b'"caption"' in ends:
            return "coco"
    if path.suffix in (".jsonl", ".csv"):
        return path.suffix[1:]
    if path.suffix == ".json":
        prefixes = {"captions": "coco", "dataset": "karpathy"}
        return next((kind for name, kind in prefixes.items() if path.name.startswith(name)), None)
    return "tokens" if ".token" in path.name else None


def _split_in(path: Path) -> str | None:
    names = {name.lower() for name in _SPLIT_IN_NAME.findall(path.name)}
    splits = {SAME_SPLIT.get(name, name) for name in names}
    return splits.pop() if len(splits) == 1 else None


# Which split


def _entries(
    kind: str, files: list[Path], root: Path, split: str | None, bare: bool = False
) -> list[_Entry]:
    """What the files hold of a split. Every entry has a split and, unless `bare`, a caption."""
    found = [entry for path in files for entry in _with_splits(kind, path, root, split)]
    entries = [entry for entry in found if split in (None, entry.split)]
    if not entries:
        held = [f"{name!r} ({n})" for name, n in Counter(entry.split for entry in found).items()]
        raise InputError(
            f"{_join(files)}: no images of split {split or 'any'!r}, only {_join(held) or 'none'}"
        )
    lacking = [entry for entry in entries if not entry.captions]
    if lacking and not bare:
        raise InputError(
            f"{lacking[0].where}: {len(lacking)} of {len(entries)} images have no caption: "
            f"{_join(repr(entry.name) for entry in lacking)}; caption them or take them out"
        )
    return entries


def _with_splits(kind: str, path: Path, root: Path, split: str | None) -> list[_Entry]:
    entries = _READERS[kind](path, _text(path))
    unknown = [entry for entry in entries if entry.split is None]
    if 0 < len(unknown) < len(entries):
        raise InputError(f"{unknown[0].where}: no split, where other images have one")
    if not unknown:
        same = SAME_SPLIT if split == "restval" else {**SAME_SPLIT, "restval": "train"}
        return [entry._replace(split=same.get(str(entry.split), entry.split)) for entry in entries]
    name = _split_in(path)
    if name is None and kind != "coco":
        if lists := _split_lists([path.parent, *(root / name for name in ANNOTATION_FOLDERS)]):
            return _listed(entries, lists, path)
        if split is not None:
            raise InputError(
                f"{path}: nothing says which images are of split {split!r}: add a split column, "
                "or lists of image names beside it (train.txt, val.txt, test.txt), or give each "
                f"split its own file ({split}{path.suffix})"
            )
    return [entry._replace(split=name or split or "all") for entry in entries]


def _split_lists(folders: Iterable[Path]) -> dict[str, tuple[str, str]]:
    """Image name -> its split, and the file and line that say so."""
    lists: dict[str, tuple[str, str]] = {}
    for path in dict.fromkeys(path for folder in folders for path in _texts(folder)):
        split = _split_in(path)
        if path.suffix != ".txt" or split is None or _kind(path) is not None:
            continue
        for where, line in _lines(path, _text(path)):
            other, there = lists.setdefault(line.strip(), (split, where))
            if other != split:
                raise InputError(f"{where}: {line.strip()!r} is also of split {other!r} ({there})")
    return lists


def _listed(entries: list[_Entry], lists: dict[str, tuple[str, str]], path: Path) -> list[_Entry]:
    names = {entry.name for entry in entries}
    splits = {}
    for listed, (split, where) in lists.items():
        name = listed if listed in names else f"{listed}.jpg"  # some lists leave the suffix out
        if name not in names:
            raise InputError(f"{where}: {listed!r} has no caption in {path}")
        splits[name] = split
    return [entry._replace(split=splits[entry.name]) for entry in entries if entry.name in splits]


# What the files hold


def _coco(path: Path, text: str) -> list[_Entry]:
    data = _json(text, str(path))
    entries: dict[int | str, _Entry] = {}
    for i, image in enumerate(_get(data, "images", (list,), str(path))):
        where = f"{path}: images[{i}]"
        key = _get(image, "id", (int, str), where)
        _add(entries, _Entry(key, _get(image, "file_name", (str,), where), [], None, where))
    info = "image_info" in path.name and "annotations" not in data  # COCO's test images
    annotations = [] if info else _get(data, "annotations", (list,), str(path))
    for i, annotation in enumerate(annotations):
        where = f"{path}: annotations[{i}]"
        key = _get(annotation, "image_id", (int, str), where)
        if key not in entries:
            raise InputError(
                f"{where}: image_id {key!r} is not in images; add it there or take this out"
            )
        entries[key].captions.append(_caption(annotation, "caption", where))
    return list(entries.values())


def _karpathy(path: Path, text: str) -> list[_Entry]:
    entries: dict[int | str, _Entry] = {}
    for i, image in enumerate(_get(_json(text, str(path)), "images", (list,), str(path))):
        where = f"{path}: images[{i}]"
        name, split = (_get(image, key, (str,), where) for key in ("filename", "split"))
        if folder := image.get("filepath"):
            name = f"{folder}/{name}"
        key = _get(image, "cocoid" if "cocoid" in image else "imgid", (int, str), where)
        captions = [
            _caption(sentence, "raw", f"{where}.sentences[{j}]")
            for j, sentence in enumerate(_get(image, "sentences", (list,), where))
        ]
        _add(entries, _Entry(key, name, captions, split, where))
    return list(entries.values())


def _tokens(path: Path, text: str) -> list[_Entry]:
    rows = []
    for where, line in _lines(path, text):
        match = _TOKEN_LINE.fullmatch(line)
        if match is None:
            raise InputError(f"{where}: {line[:60]!r} is not IMAGE#NUMBER, a tab, and the caption")
        rows.append((where, {"image": match[1], "caption": match[2]}))
    return _table(rows)


def _jsonl(path: Path, text: str) -> list[_Entry]:
    return _table((where, _json(line, where)) for where, line in _lines(path, text))


def _csv(path: Path, text: str) -> list[_Entry]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)

    def rows() -> Iterator[tuple[str, dict]]:
        header = next(reader, [])
        if not {"image", "caption"} <= set(header):
            raise InputError(f"{path}: line 1: columns {header}; image and caption are needed")
        for row in filter(None, reader):
            where = f"{path}: line {reader.line_num}"
            if len(row) != len(header):
                raise InputError(
                    f"{where}: {len(row)} fields, but {len(header)} columns; put captions with "
                    "commas in double quotes"
                )
            yield where, dict(zip(header, row, strict=True))

    try:
        return _table(rows())
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num}: {error}") from error


_READERS: dict[str, Callable[[Path, str], list[_Entry]]] = {
    "coco": _coco,
    "karpathy": _karpathy,
    "tokens": _tokens,
    "jsonl": _jsonl,
    "csv": _csv,
}
"""In order of precedence."""


def _table(rows: Iterable[tuple[str, Any]]) -> list[_Entry]:
    """Rows of image, caption and perhaps split; those of one image become one entry."""
    entries: dict[str, _Entry] = {}
    for where, row in rows:
        name = _get(row, "image", (str,), where)
        split = _get(row, "split", (str,), where) or None if "split" in row else None
        entry = entries.setdefault(name, _Entry(name, name, [], split, where))
        if split != entry.split:
            raise InputError(f"{where}: split {split!r}, but {entry.split!r} in {entry.where}")
        entry.captions.append(_caption(row, "caption", where))
    return list(entries.values())


def _text(path: Path) -> str:
    data = path.read_bytes()
    start = len(codecs.BOM_UTF8) if data.startswith(codecs.BOM_UTF8) else 0
    try:
        return data[start:].decode()
    except UnicodeDecodeError as error:
        at = start + error.start
        raise InputError(
            f"{path}: byte {at} (line {data.count(10, 0, at) + 1}) is {data[at : at + 1]!r}, "
            "not UTF-8; save the file as UTF-8"
        ) from error


def _lines(path: Path, text: str) -> Iterator[tuple[str, str]]:
    """Each line that is not blank. str.splitlines would also break captions at U+2028."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"{path}: line {number}", line.removesuffix("\r")


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON: {error}; mend it, or copy it again") from error


def _get(item: Any, key: str, kinds: tuple[type, ...], where: str) -> Any:
    if type(item) is not dict:
        raise InputError(f"{where}: expected an object with {key!r}, got {str(item)[:60]!r}")
    if key not in item:
        raise InputError(f"{where}: key {key!r} is missing; it has {_join(map(repr, item))}")
    value = item[key]
    if type(value) not in kinds:  # not isinstance: true is no id
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise InputError(f"{where}: {key} is {str(value)[:60]!r}; expected {wanted}")
    return value


def _caption(item: Any, key: str, where: str) -> str:
    caption = _get(item, key, (str,), where)
    if not caption.strip():
        raise InputError(f"{where}: empty caption; write one or take it out")
    if not caption.isascii() and re.search(r"[\ud800-\udfff]", caption):  # JSON can say that
        raise InputError(f"{where}: half a character in {caption[:60]!r}; write it as UTF-8")
    return caption


def _add(entries: dict[int | str, _Entry], entry: _Entry) -> None:
    if entry.id in entries:
        other = entries[entry.id].where
        raise InputError(f"{entry.where}: id {entry.id!r} is that of {other} too; give it its own")
    entries[entry.id] = entry


# Where the pictures are


def _locate(entries: list[_Entry], base: Path) -> list[Record]:
    """Look every picture up in the listings of its folders: no system call for each."""
    inner = [base / name for name in IMAGE_FOLDERS]
    inner += [folder / name for folder in inner if folder.is_dir() for name in IMAGE_FOLDERS]
    folders = [base, *(folder for folder in inner if folder.is_dir())]
    roots = [os.path.realpath(folder) for folder in folders]
    listings: dict[str, list[tuple[Path, dict[str, bool]]]] = {}
    records, missing = [], []
    for entry in entries:
        if _OUTSIDE.search(entry.name):
            raise InputError(
                f"{entry.where}: {entry.name!r} is not a path inside the image folder; "
                "put the picture there"
            )
        parent, _, name = entry.name.rpartition("/")
        if parent not in listings:
            listings[parent] = _list(folders, parent, roots, entry)
        found = [(folder, links[name]) for folder, links in listings[parent] if name in links]
        if not found:
            missing.append(entry)
            continue
        if len(found) > 1:
            several = _join(folder for folder, _ in found)
            raise InputError(f"{entry.where}: {entry.name!r} is in {several}; choose by images=")
        ((folder, is_link),) = found
        image = folder / name
        if is_link:
            _check_inside(image, roots, entry)
        records.append(Record(entry.id, image, tuple(entry.captions), str(entry.split)))
    if missing:
        raise InputError(
            f"{missing[0].where}: {len(missing)} of {len(entries)} images are missing: "
            f"{_join(repr(entry.name) for entry in missing)}; looked in {_join(folders)}; "
            "name the folder by images="
        )
    return records


def _list(
    folders: list[Path], parent: str, roots: list[str], entry: _Entry
) -> list[tuple[Path, dict[str, bool]]]:
    """The folders that have a subfolder `parent`: its path, and its names -> is it a symlink."""
    found = {}
    for folder in folders:
        path = folder / parent
        if not path.is_dir():
            continue
        _check_inside(path, roots, entry)
        status = path.stat()
        with os.scandir(path) as files:
            links = {file.name: file.is_symlink() for file in files}
        found[status.st_dev, status.st_ino] = path, links  # by identity: images may be Images
    return list(found.values())


def _check_inside(path: Path, roots: list[str], entry: _Entry) -> None:
    real = os.path.realpath(path)
    if not any(real == root or real.startswith(os.path.join(root, "")) for root in roots):
        raise InputError(
            f"{entry.where}: {entry.name!r} leads out of the image folder, to {real}; put a copy "
            "there"
        )


def _join(items: Iterable[object]) -> str:
    """At most five of them, for a message."""
    names = [str(item) for item in items]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
