"""The one way to stdout and stderr: no control character of a file reaches a terminal.

Captions, words, ids, names and configurations come from files, also of strangers. Nothing else in
captioner prints (tests/test_console.py); progress bars and JSON hold no raw text of a file.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import warnings
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Sequence
from typing import IO, TYPE_CHECKING, Any, NoReturn

from captioner.errors import UNSAFE, InputError, escape

if TYPE_CHECKING:
    from rich.table import Table


def say(text: object = "", end: str = "\n") -> None:
    """Print to stdout, escaped, at once."""
    _print(escape(str(text)) + end, sys.stdout)


def note(text: object) -> None:
    """Print to stderr, escaped. Where nobody can read it any more, it is lost, and nothing else."""
    try:
        _print(escape(str(text)) + "\n", sys.stderr)
    except OSError:  # `captioner ... 2>&1 | head`, a full disk
        discard(sys.stderr)


def report(error: InputError, prefix: str = "error") -> int:
    """Print the message to stderr. Returns the exit code of a command that ends with it, 2."""
    note(f"{prefix}: {error}")
    return 2


class Parser(ArgumentParser):
    """An argument parser whose errors print no control character of the arguments."""

    def error(self, message: str) -> NoReturn:
        super().error(escape(message))


def make_table(names: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> Table:
    """A table for `show`; the columns after the first are numbers."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    def cell(text: str) -> Text:
        return Text(escape(text, keep=""))  # and brackets are no markup

    table = Table(box=box.SIMPLE, pad_edge=False, title_justify="left")
    table.title = cell(title) if title else None
    for name in names:
        table.add_column(cell(name), justify="right" if table.columns else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(cell, row))
    return table


def show(table: Table, width: int | None = None) -> None:
    """Print a table of `make_table`. width: in characters; by default that of the terminal."""
    from rich.console import Console

    Console(width=width).print(table)


def json_text(content: Any) -> str:
    """Exact JSON on one line, with \\u escapes for what a terminal must not get raw."""
    text = json.dumps(content, ensure_ascii=False)
    return UNSAFE.sub(lambda control: f"\\u{ord(control[0]):04x}", text)


def prepare_streams() -> bool:
    """Let what the caller has closed lead nowhere: files opened later must not become stdout; and
    escape warnings, of libraries too.

    stdin stays None for those who read it. Returns whether stdout was open.
    """
    warnings.formatwarning = _format_warning
    stdout = sys.stdout
    if sys.stdin is None:
        os.open(os.devnull, os.O_RDONLY)
    sys.stdout = stdout or open(os.devnull, "w")
    sys.stderr = sys.stderr or open(os.devnull, "w")
    return stdout is not None


def discard(stream: IO[str]) -> None:
    """Redirect a stream to /dev/null, so that flushing it at the exit cannot fail."""
    with contextlib.suppress(OSError, ValueError):  # not a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _format_warning(
    *args: Any, plain: Callable[..., str] = warnings.formatwarning, **options: Any
) -> str:
    return escape(plain(*args, **options))


def _print(text: str, stream: IO[str]) -> None:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()
