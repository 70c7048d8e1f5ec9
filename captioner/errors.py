"""The exceptions for wrong input, and the one way to read JSON.

A message names the file or the value, says what is wrong, and what to do about it.
"""

import gzip
import json
import os
import re
import stat
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

UNSAFE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Control characters (C0, DEL, C1), what turns the direction of text or ends a line, surrogates."""

LARGEST = 2**32
"""Bytes of a file that is read as a whole."""


class InputError(ValueError):
    """Something the user gave is wrong: the commands print the message and exit with code 2.

    No character of the message controls a terminal, whatever it quotes, and no line but the first
    begins at the margin.
    """

    def __init__(self, message: str):
        super().__init__(re.sub(r"\n(?=\S)", "\n  ", escape(message)))


class Unavailable(InputError):
    """A metric cannot be computed here. The message says what to install or give."""


def printable(name: object) -> str:
    """A name for a message or an output line: quoted if it is empty or not printable as it is."""
    text = str(name)
    return text if text and text.isprintable() else repr(text)


def escape(text: str, keep: str = "\n\t") -> str:
    """A text for a terminal or a page: unsafe characters, but `keep`, as Python escapes them."""

    def escaped(character: re.Match[str]) -> str:
        return character[0] if character[0] in keep else repr(character[0])[1:-1]

    return UNSAFE.sub(escaped, text)


def is_encodable(text: str) -> bool:
    """Whether UTF-8 can hold a text. It has no half characters, which JSON can say, and as which
    Python holds the bytes of names that are not UTF-8."""
    return text.isascii() or not re.search(r"[\ud800-\udfff]", text)


def os_reason(error: OSError) -> str:
    """Why the system refused, such as "No such file or directory"."""
    return error.strerror or str(error) or type(error).__name__


@contextmanager
def naming_file(path: Path | str, remedy: str = "") -> Iterator[None]:
    """Turn an OSError into an InputError with its file's name, or `path` if it knows none."""
    try:
        yield
    except OSError as error:
        name = printable(error.filename or path)
        raise InputError(f"{name}: {os_reason(error)}{remedy}") from error


def first_five(items: Iterable[object]) -> str:
    """Up to five items, and how many more there are, for a message."""
    names = [str(item) for item in items]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def not_a_file(status: os.stat_result) -> str:
    """What something is instead of a regular file, for a message; "" if it is one."""
    if stat.S_ISDIR(status.st_mode):
        return "a folder, not a regular file"
    return "" if stat.S_ISREG(status.st_mode) else "not a regular file"


def open_input(path: Path, largest: int = LARGEST) -> BufferedReader:
    """Open a file that somebody gave. Raises InputError if it cannot be read, is no regular file,
    or has more bytes than `largest`.

    Others are refused before they are opened: reading a FIFO would wait for ever, and /dev/zero
    never ends. /dev/stdin is a regular file if it is redirected from one.
    """
    with naming_file(path):
        status = os.stat(path)
        if problem := not_a_file(status):
            raise InputError(f"{printable(path)}: {problem}: give one")
        if status.st_size > largest:
            size = f"{status.st_size:,} bytes; {largest:,} at most"
            raise InputError(f"{printable(path)}: {size}: is it the right file?")
        return open(path, "rb")


def read_text(path: Path, largest: int = LARGEST) -> str:
    """The text of a UTF-8 file, without a byte order mark; that of a .gz file is decompressed.

    Raises InputError as `open_input`, also for a text of more bytes than `largest`, and naming the
    byte that is not UTF-8.
    """
    with naming_file(path), open_input(path, largest) as file:
        data = file.read() if path.suffix != ".gz" else _decompress(path, file, largest)
    try:
        return data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{printable(path)}: byte {error.start} (line {line}) is "
            f"{data[error.start : error.start + 1]!r}, not UTF-8; save the file as UTF-8"
        ) from error


def _decompress(path: Path, file: BufferedReader, largest: int) -> bytes:
    try:
        data = gzip.GzipFile(fileobj=file).read(largest + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{printable(path)}: not a whole gzip file: copy it again") from error
    if len(data) > largest:
        raise InputError(f"{printable(path)}: more than {largest:,} bytes: is it the right file?")
    return data


def parse_json(text: str, name: str) -> Any:
    """The content of a JSON text. Raises InputError, beginning with `name`, if it is not JSON."""
    try:
        return json.loads(text, object_pairs_hook=_each_key_once)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{name}: not readable as JSON ({error}): mend it, or copy it again"
        ) from error


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):  # json would keep the last, without a word
        key = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"an object has the key {key!r} twice")
    return content


def read_json(path: Path, largest: int = LARGEST) -> Any:
    """The content of a UTF-8 JSON file. Raises InputError, naming the file, if that fails."""
    return parse_json(read_text(path, largest), printable(path))


def json_field(item: Any, key: str, kinds: tuple[type, ...], place: str) -> Any:
    """A value of a JSON object. Raises InputError, with `place`, unless it is of one of `kinds`."""
    if type(item) is not dict:
        raise InputError(f"{place}: expected an object with {key!r}, got {str(item)[:60]!r}")
    if key not in item:
        raise InputError(f"{place}: key {key!r} is missing; it has {first_five(map(repr, item))}")
    if type(item[key]) not in kinds:  # not isinstance: true is no id
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise InputError(f"{place}: {key} is {str(item[key])[:60]!r}; expected {wanted}")
    return item[key]


def json_items(item: Any, key: str, place: str) -> Iterator[tuple[str, Any]]:
    """The place and the content of each item of a list in an object. Raises as `json_field`."""
    for i, content in enumerate(json_field(item, key, (list,), place)):
        yield f"{place}: {key}[{i}]", content
