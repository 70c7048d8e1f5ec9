"""The five formats of caption files, told apart by their content; in order of precedence:

coco       {"images": [...], "annotations": [...]}, one file per split
karpathy   {"images": [{"sentences": [...], "split": ...}, ...]}, all splits in one file
tokens     Flickr8k and Flickr30k: lines `IMAGE#0<tab>CAPTION`
jsonl      a line per caption: {"image": ..., "caption": ..., "split": ... (if known)}
csv        with the same columns, separated by commas, tabs or semicolons
"""

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from captioner.data.detect import TOKEN_LINE, delimiter_of
from captioner.errors import (
    InputError,
    is_encodable,
    json_field,
    json_items,
    parse_json,
    read_json,
    read_text,
)


class Entry(NamedTuple):
    """A picture's name and captions as a file gives them. where: the file and the key or line."""

    id: int | str
    name: str
    captions: list[str]
    split: str | None
    where: str


def _coco(path: Path) -> list[Entry]:
    data = read_json(path)
    entries: dict[int | str, Entry] = {}
    for where, image in json_items(data, "images", str(path)):
        key = json_field(image, "id", (int, str), where)
        _add(entries, Entry(key, json_field(image, "file_name", (str,), where), [], None, where))
    info = "image_info" in path.name and "annotations" not in data  # COCO's test images
    for where, annotation in () if info else json_items(data, "annotations", str(path)):
        key = json_field(annotation, "image_id", (int, str), where)
        if key not in entries:
            fault = f"image_id {key!r} is not in images"
            raise InputError(f"{where}: {fault}; add it there or take this out")
        entries[key].captions.append(_caption(annotation, "caption", where))
    return list(entries.values())


def _karpathy(path: Path) -> list[Entry]:
    entries: dict[int | str, Entry] = {}
    for where, image in json_items(read_json(path), "images", str(path)):
        name, split = (json_field(image, key, (str,), where) for key in ("filename", "split"))
        if folder := image.get("filepath"):
            name = f"{folder}/{name}"
        key = json_field(image, "cocoid" if "cocoid" in image else "imgid", (int, str), where)
        sentences = json_items(image, "sentences", where)
        captions = [_caption(sentence, "raw", place) for place, sentence in sentences]
        _add(entries, Entry(key, name, captions, split, where))
    return list(entries.values())


def _tokens(path: Path) -> list[Entry]:
    rows = []
    for where, line in lines_of(path):
        match = TOKEN_LINE.fullmatch(line)
        if match is None:
            raise InputError(f"{where}: {line[:60]!r} is not IMAGE#NUMBER, a tab, and the caption")
        rows.append((where, {"image": match[1], "caption": match[2]}))
    return _table(rows)


def _jsonl(path: Path) -> list[Entry]:
    return _table((where, parse_json(line, where)) for where, line in lines_of(path))


def _csv(path: Path) -> list[Entry]:
    text = read_text(path)
    delimiter = delimiter_of(text.split("\n", 1)[0].rstrip("\r")) or ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)

    def rows() -> Iterator[tuple[str, dict]]:
        header = next(reader, [])
        if not {"image", "caption"} <= set(header):
            raise InputError(f"{path}: line 1: columns {header}; image and caption are needed")
        if len({name.strip().casefold() for name in header}) < len(header):
            raise InputError(f"{path}: line 1: columns {header}; each needs a name of its own")
        for row in reader:
            if not any(field.strip() for field in row):
                continue
            where = f"{path}: line {reader.line_num}"
            if len(row) != len(header):
                fault = f"{len(row)} fields, but {len(header)} columns"
                raise InputError(f"{where}: {fault}; put captions with commas in double quotes")
            yield where, dict(zip(header, row, strict=True))

    try:
        return _table(rows())
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num}: {error}") from error


def _table(rows: Iterable[tuple[str, Any]]) -> list[Entry]:
    """Return an entry per image, from rows of image, caption and (if known) split."""
    entries: dict[str, Entry] = {}
    for where, row in rows:
        name = json_field(row, "image", (str,), where)
        split = json_field(row, "split", (str,), where) or None if "split" in row else None
        entry = entries.setdefault(name, Entry(name, name, [], split, where))
        if split != entry.split:
            raise InputError(f"{where}: split {split!r}, but {entry.split!r} in {entry.where}")
        entry.captions.append(_caption(row, "caption", where))
    return list(entries.values())


def lines_of(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the place (file and number) and the text of each line that is not blank."""
    text = read_text(path)  # str.splitlines would also break captions at U+2028
    for number, line in enumerate(text.split("\n" if "\n" in text else "\r"), 1):
        if line.strip():
            yield f"{path}: line {number}", line.removesuffix("\r")


def read_caption_texts(path: Path) -> list[str]:
    """The captions of a file without pictures: one in each line, or in its "caption" if the name
    says .jsonl; .gz is decompressed. Of a folder, those of all its files of such names.

    Raises InputError if there is none.
    """
    paths = [path]
    if path.is_dir():
        names = "*.txt", "*.txt.gz", "*.jsonl", "*.jsonl.gz"
        paths = sorted(file for name in names for file in path.glob(name))
    captions = []
    for file in paths:
        is_json = ".jsonl" in file.suffixes
        for where, line in lines_of(file):
            captions.append(
                _caption(parse_json(line, where), "caption", where) if is_json else line
            )
    if not captions:
        raise InputError(f"{path}: no captions in it: give a .txt or .jsonl file, or their folder")
    return captions


def _caption(item: Any, key: str, where: str) -> str:
    caption = json_field(item, key, (str,), where)
    if not caption.strip():
        raise InputError(f"{where}: empty caption; write one or take it out")
    if not is_encodable(caption):  # JSON can say that
        raise InputError(f"{where}: half a character in {caption[:60]!r}; write it as UTF-8")
    return caption


def _add(entries: dict[int | str, Entry], entry: Entry) -> None:
    if entry.id in entries:
        other = entries[entry.id].where
        raise InputError(f"{entry.where}: id {entry.id!r} is that of {other} too; give it its own")
    entries[entry.id] = entry


READERS = dict(coco=_coco, karpathy=_karpathy, tokens=_tokens, jsonl=_jsonl, csv=_csv)
"""Format -> function that reads a file, in order of precedence."""
