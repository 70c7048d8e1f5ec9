"""Which format a caption file has, by its content; its name tells only if the content cannot."""

import codecs
import csv
import json
import re
from pathlib import Path
from typing import IO, Any

import ijson

from captioner.errors import LARGEST, open_input

TOKEN_LINE = re.compile(r"([^\t]+)#\d+\t(.*)", re.DOTALL)
LONGEST_LINE = 2**20  # bytes of a first line that tells the format
LONGEST_PREFIX = 10_000  # characters of the names around a value: deeper JSON holds no captions
TABLES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "csv"}


def format_of(path: Path) -> str | None:
    """Return the format of a file by its content, or None if it holds no captions.

    JSON is parsed up to the first item that tells, since COCO's other annotations are files of
    450 MB.
    """
    with open_input(path) as file:
        if file.read(3) != codecs.BOM_UTF8:
            file.seek(0)
        start, head = file.tell(), file.readline(LONGEST_LINE)
        if head.lstrip().startswith(b"{") or not head.strip():
            file.seek(start)
            return "jsonl" if _is_row(head) else _json_kind(file)
    line = head.decode("utf-8", "replace").rstrip("\r\n")
    if TOKEN_LINE.match(line):
        return None if "lemma" in path.name else "tokens"  # Flickr8k.lemma.token.txt: no sentences
    return "csv" if delimiter_of(line) else None


def format_by_name(path: Path) -> str | None:
    """Return the format that a file's name promises, so that a broken one can be reported."""
    name, suffix = path.name.lower(), path.suffix.lower()
    if suffix == ".json":
        prefixes = {"captions": "coco", "dataset": "karpathy"}
        return next((kind for prefix, kind in prefixes.items() if name.startswith(prefix)), None)
    return TABLES.get(suffix, "tokens" if ".token" in name and "lemma" not in name else None)


def delimiter_of(header: str) -> str | None:
    """Return what separates the columns of a table whose header names image and caption."""
    for delimiter in ",\t;":
        try:
            columns = next(csv.reader([header], delimiter=delimiter), [])
        except csv.Error:  # a bare carriage return
            return None
        if {"image", "caption"} <= set(columns):
            return delimiter
    return None


def _json_kind(file: IO[bytes]) -> str | None:
    """The format of JSON: by the keys of its first object or of that object's first items."""
    keys, start = set(), file.tell()
    try:
        for prefix, event, value in ijson.parse(file, multiple_values=True, use_float=True):
            if len(prefix) > LONGEST_PREFIX:
                return None
            key = f"{prefix}.{value}" if event == "map_key" else event
            if key == "images.item.sentences":
                return "karpathy"
            if key == "annotations.item.caption":
                return "coco"
            if (prefix, event) == ("annotations.item", "end_map"):
                return None  # COCO's instances
            if prefix == "" and event == "map_key":
                keys.add(value)
            if prefix == "" and event == "end_map":
                break
    except (ijson.JSONError, ValueError):  # it is broken, or holds a NaN, which json can read
        file.seek(start)
        return _kind_of(_parsed(file.read(LARGEST)))
    return "jsonl" if {"image", "caption"} <= keys else None


def _kind_of(content: Any) -> str | None:
    """The format of a JSON file's content."""
    for kind, items, key in ("karpathy", "images", "sentences"), ("coco", "annotations", "caption"):
        entries = content.get(items) if isinstance(content, dict) else None
        first = entries[0] if isinstance(entries, list) and entries else None
        if isinstance(first, dict) and key in first:
            return kind
    return None


def _is_row(line: bytes) -> bool:
    """Whether a line is a JSON object by itself, with an image and a caption."""
    row = _parsed(line)
    return isinstance(row, dict) and all(isinstance(row.get(k), str) for k in ("image", "caption"))


def _parsed(data: bytes) -> Any:
    """The content of JSON; None if it is not readable: then the file's name must tell."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None
