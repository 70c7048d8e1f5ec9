"""`caption PATH ...` and `captioner caption PATH ...`: image paths -> captions, a line each."""

from __future__ import annotations

import glob
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioner import shell
from captioner.commands import command_line
from captioner.commands.command_line import flags_in_messages
from captioner.console import Parser, json_text, note, say
from captioner.errors import InputError, escape, printable

if TYPE_CHECKING:
    from captioner.models.captions import Caption
    from captioner.search import Strategy

DESCRIPTION = "Caption pictures, a line each."


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command `caption` and return the exit code (see command_line)."""
    parser = command_line.add_verb(Parser("caption"), sys.modules[__name__])
    return command_line.run_command(parser, argv)


def add_options(parser: ArgumentParser) -> None:
    parser.set_defaults(retry="caption the others again")
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="files, folders, globs, or - for a list on stdin"
    )
    parser.add_argument(
        "--model", action="append", metavar="DIR",
        help="a model directory, as train.py writes it; given several times, an ensemble (default: "
        "$CAPTIONER_MODEL, or the model that comes with the installation)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="JSON lines {path, caption, score}")
    parser.add_argument("--beam", type=int, metavar="K", help="beam width (default: the model's)")
    parser.add_argument(
        "--length-penalty", type=float, metavar="A",
        help="of the beam: 0 favours short captions, 1 long ones (default: the model's)",
    )  # fmt: skip
    parser.add_argument(
        "--consensus", type=int, metavar="N",
        help="of the beam's captions take those that agree best with N samples (such as 100): "
        "better ones, in more time",
    )  # fmt: skip
    parser.add_argument(
        "--style", metavar="NAME",
        help="a style that the model learned from captions without pictures, or none (default: "
        "the model's)",
    )  # fmt: skip
    parser.add_argument("--best", type=int, metavar="N", help="the N best captions of each picture")
    for option, captions in (("--include", "every caption must"), ("--forbid", "no caption may")):
        text = f"a word or phrase that {captions} contain (as often as you like)"
        parser.add_argument(option, action="append", default=[], metavar="WORDS", help=text)
    parser.add_argument(
        "--tokens", action="store_true", help="with --json: the log-probability of each token"
    )
    parser.add_argument("--batch", type=int, default=16, metavar="N", help="pictures at a time")
    command_line.add_device(parser)


def run(options: Namespace) -> None:
    from tqdm import tqdm

    from captioner.models.directory import is_model
    from captioner.models.loading import PRETRAINED, load
    from captioner.search.constraints import Constraints

    for path in map(Path, filter(None, options.paths)):
        name = printable(path)
        if is_model(path):
            raise InputError(f"{name}: a model, not a picture: write --model before each")
        if is_model(path / "model"):
            give = shell.command("--model", path / "model")
            raise InputError(f"{name} holds a run: give {give}")
    if "-" in options.paths and sys.stdin is None:
        raise InputError("-: stdin is closed: write a list of paths to it, or give paths")
    paths = _expand(options.paths)
    if "-" not in options.paths:
        paths = list(paths)  # all there, so that every batch is complete
    folders = options.model or [os.environ.get("CAPTIONER_MODEL") or PRETRAINED]
    model = load(*folders, device=options.device, style=options.style)
    strategy = choose_strategy(model.strategy, options)
    constraints = Constraints(include=options.include, forbid=options.forbid)
    results = model.caption_stream(paths, strategy, options.batch, constraints, options.tokens)
    # Lines on a terminal are progress enough; a bar among them would tear them.
    quiet = sys.stdout.isatty() or not sys.stderr.isatty()
    for result in tqdm(results, unit=" pictures", disable=quiet):
        if result.error is not None:
            options.failures += 1
            note(result.error)
        if options.json:
            say(json_text(_record(result, options)))
        else:
            for hypothesis in result.hypotheses[: options.best or 1]:
                say(f"{printable(result.path)}: {escape(hypothesis.caption, keep='')}")


FLAGS = {"width": "beam", "length_penalty": "length-penalty", "n": "best", "samples": "consensus"}


def choose_strategy(saved: Strategy, options: Namespace) -> Strategy:
    """The search saved with the model, with the options of the command line in place of its own."""
    from captioner.search import Beam, Consensus

    values = {name: getattr(options, flag.replace("-", "_")) for name, flag in FLAGS.items()}
    values["samples"] = options.consensus or None  # 0: no consensus
    given = {name: value for name, value in values.items() if value is not None}
    kind: type[Strategy] = type(saved)
    if options.consensus is not None:
        kind = Consensus if options.consensus else Beam
    elif not given.keys() <= vars(saved).keys():
        kind = Beam
    with flags_in_messages(**FLAGS):
        if kind is type(saved):
            return replace(saved, **given)  # type: ignore[type-var]  # they are data classes
        alike = isinstance(saved, Beam | Consensus)
        shared = ["max_length", *(["width", "length_penalty", "n"] if alike else [])]
        return kind(**{name: getattr(saved, name) for name in shared} | given)


def _record(result: Caption, options: Namespace) -> dict[str, Any]:
    """What `--json` prints of a picture."""
    if result.error is not None:
        return {"path": result.path, "error": result.error}
    best = [hypothesis._asdict() for hypothesis in result.hypotheses]
    if not options.tokens:
        for hypothesis in best:
            del hypothesis["tokens"]
    record = {"path": result.path, **best[0]}
    del record["log_prob"]
    if result.forced:
        record["forced"] = result.forced._asdict()
    return record | ({"best": best} if (options.best or 1) > 1 else {})


def _expand(given: Sequence[str]) -> Iterable[str]:
    """The pictures that the PATHs name. One that is missing or unreadable stays, to be reported."""
    from captioner.images.folders import find_pictures

    others = 0

    def expand(path: str) -> Iterable[str]:
        nonlocal others
        if path == "-":
            return _listed(sys.stdin)
        path = _meant(path)
        matches = [path] if os.path.isdir(path) else [] if os.path.lexists(path) else _glob(path)
        if not matches:
            return [path]
        pictures, number = find_pictures(map(Path, matches))
        if not pictures:
            raise InputError(f"{printable(path)}: no picture in it (other files: {number})")
        others += number
        return map(str, pictures)

    paths = [expand(path) for path in given]
    if others:
        note(f"{others} file{'s' * (others > 1)} passed over: no pictures")
    return chain.from_iterable(paths)


def _glob(pattern: str) -> list[str]:
    """The files that match; folders that exist as written may have brackets in their names."""
    folder = pattern
    while folder and not os.path.isdir(folder):
        folder = os.path.dirname(folder.rstrip("/"))
    literal = glob.escape(folder) + pattern[len(folder) :]
    return glob.glob(literal, recursive=True) or glob.glob(pattern, recursive=True)


def _listed(lines: Iterator[str]) -> Iterator[str]:
    """The paths in a list, as lines or (if it has any NUL) as `find -print0` writes them."""
    for line in lines:
        if line.startswith("\udcff\udcfe"):
            raise InputError("the list on stdin: it is UTF-16: write it as UTF-8")
        paths = (line + "".join(lines)).split("\0") if "\0" in line else [line.removesuffix("\n")]
        for path in paths:
            meant = path.removeprefix("\ufeff").removesuffix("\r")  # as Windows writes lists
            if stripped := meant.strip():
                yield next(filter(os.path.lexists, (path, meant)), _meant(stripped))


def _meant(path: str) -> str:
    """The path, or the one there is that differs only in how accents are composed."""
    from captioner.paths import same_letters

    return path if path.isascii() else str(same_letters(Path(path)))
