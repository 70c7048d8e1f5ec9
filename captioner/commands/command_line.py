"""What all commands share: how they parse, how they end, and with which exit code.

0: done. 1: done, but for inputs that failed, each named on stderr. 2: nothing was done, since an
input is wrong, or the output cannot be written. 130: interrupted.

A verb is a module with a DESCRIPTION, `add_options(parser)` and `run(options)`, which imports what
is slow to import inside `run`, prints to stdout, and counts in `options.failures`.
"""

import contextlib
import io
import os
import re
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from typing import Protocol

from captioner import console
from captioner.errors import InputError, os_reason, printable


class Verb(Protocol):
    """A module of captioner.commands."""

    DESCRIPTION: str

    def add_options(self, parser: ArgumentParser) -> None:
        """Add the options of the verb to its parser."""

    def run(self, options: Namespace) -> None:
        """Do what the options ask for. Raises InputError if they are wrong."""


def add_verb(parser: ArgumentParser, verb: Verb) -> ArgumentParser:
    """Give a parser the description and the options of a verb, and return it."""
    parser.description = verb.DESCRIPTION
    parser.set_defaults(run=verb.run, prog=parser.prog, failures=0, retry="run it again")
    verb.add_options(parser)
    return parser


def add_device(parser: ArgumentParser) -> None:
    """Add the option --device."""
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda", "mps"), default="auto",
        help="where to compute (default: a GPU if there is one)",
    )  # fmt: skip


def add_tokenizer(parser: ArgumentParser) -> None:
    """Add the option --tokenizer, of metrics: a name in metrics.tokenize.TOKENIZERS."""
    parser.add_argument(
        "--tokenizer", choices=("ptb", "char", "none"), default="ptb",
        help="of the metrics: ptb, for English (default); char, for languages without blanks "
        "between words; none, for captions whose tokens are set apart by blanks",
    )  # fmt: skip


def run_command(parser: ArgumentParser, argv: Sequence[str] | None = None) -> int:
    """Parse the arguments, run the verb that they name, and return the exit code."""
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what may come next
        import argcomplete

        argcomplete.autocomplete(parser)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # file names need not be text
    options, rest = parser.parse_known_args(argv)
    if rest and ("paths" not in options or any(r[0] == "-" and r != "-" for r in rest if r)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:  # paths after an option that came after paths
        options.paths += rest
    try:
        if not console.prepare_streams():
            raise InputError("stdout is closed: leave it open, or write >/dev/null")
        options.run(options)
    except InputError as error:
        return console.report(error, options.prog)
    except BrokenPipeError:  # `captioner ... | head` has enough
        console.discard(sys.stdout)
    except OSError as error:  # `captioner ... > FILE` on a full disk
        reason = f"{printable(error.filename)}: {os_reason(error)}"
        if error.filename is None:
            console.discard(sys.stdout)
            reason = f"the output: {os_reason(error)}: free space, and {options.retry}"
        return console.report(InputError(reason), options.prog)
    except KeyboardInterrupt:
        console.note("interrupted")
        return 130
    return 1 if options.failures else 0


@contextlib.contextmanager
def flags_in_messages(**flags: str) -> Iterator[None]:
    """Make errors about the options of a search name the `flags` that set them."""
    try:
        yield
    except InputError as error:
        message = str(error)
        for option, flag in flags.items():
            message = re.sub(rf"search\.{option}\b", f"--{flag}", message)
        raise InputError(message) from None
