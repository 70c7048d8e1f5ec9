"""The exceptions for wrong input, and the one way to read JSON and to report an error.

A message names the file or the value, says what is wrong, and what to do about it.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any


class InputError(ValueError):
    """Something the user gave is wrong. The message names the file or value and the way out.

    The commands print the message without a traceback and exit with code 2.
    """


class Unavailable(InputError):
    """A metric cannot be computed here. The message says what to install or give."""


def printable(name: object) -> str:
    """A name for a message or an output line: quoted if it is empty or not printable as it is."""
    text = str(name)
    return text if text and text.isprintable() else repr(text)


def escape(text: str) -> str:
    """A text for a terminal: control characters as Python escapes them, but for \\n and \\t."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda control: repr(control[0])[1:-1], text)


def os_reason(error: OSError) -> str:
    """Why the system refused, such as "No such file or directory"."""
    return error.strerror or str(error) or type(error).__name__


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, without a byte order mark.

    Raises InputError, naming the file and the byte, if it cannot be read.
    """
    try:
        data = path.read_bytes()
        return data.decode().removeprefix("\ufeff")
    except OSError as error:
        raise InputError(f"{printable(path)}: {os_reason(error)}") from error
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{printable(path)}: byte {error.start} (line {line}) is "
            f"{data[error.start : error.start + 1]!r}, not UTF-8; save the file as UTF-8"
        ) from error


def parse_json(text: str, name: str) -> Any:
    """The content of a JSON text. Raises InputError, beginning with `name`, if it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{name}: not readable as JSON ({error}): mend it, or copy it again"
        ) from error


def read_json(path: Path) -> Any:
    """The content of a UTF-8 JSON file. Raises InputError, naming the file, if that fails."""
    return parse_json(read_text(path), printable(path))


def report(error: InputError, prefix: str = "error") -> int:
    """Print the message to stderr. Returns the exit code of a command that ends with it, 2."""
    print(escape(f"{prefix}: {error}"), file=sys.stderr)
    return 2
