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


def read_json(path: Path) -> Any:
    """The content of a UTF-8 JSON file, with or without a byte order mark.

    Raises InputError, naming the file, if it cannot be read or is not JSON.
    """
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise InputError(f"{printable(path)}: {os_reason(error)}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{printable(path)}: not readable as JSON ({error}): mend it, or copy it again"
        ) from error


def report(error: InputError, prefix: str = "error") -> int:
    """Print the message to stderr. Returns the exit code of a command that ends with it, 2."""
    print(escape(f"{prefix}: {error}"), file=sys.stderr)
    return 2
