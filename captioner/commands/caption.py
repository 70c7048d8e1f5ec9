"""`caption PATH ...`: image paths -> captions, a line each."""

import argparse
import glob
import io
import json
import os
import sys
from collections.abc import Iterable, Sequence
from itertools import chain, takewhile
from pathlib import Path
from typing import Any

from tqdm import tqdm

from captioner.errors import InputError, printable
from captioner.models.caption_model import Caption
from captioner.models.loading import PRETRAINED, is_model, load
from captioner.search import Beam, Consensus, Strategy
from captioner.search.constraints import Constraints

SUFFIXES = {".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns 0; 1 if a picture could not be captioned; 2 if nothing could start."""
    parser = argparse.ArgumentParser("caption", description="Caption pictures, a line each.")
    parser.add_argument(
        "paths", nargs="*", metavar="PATH", help="files, folders, globs, or - for a list on stdin"
    )
    parser.add_argument(
        "--model", nargs="+", metavar="DIR",
        default=[os.environ.get("CAPTIONER_MODEL") or str(PRETRAINED)],
        help="a model directory, as train.py writes it, or several, as an ensemble (default: "
        "$CAPTIONER_MODEL, or the model that comes with the installation); what follows them and "
        "is none is a PATH",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="JSON lines {path, caption, score}")
    parser.add_argument("--beam", type=int, default=5, metavar="K", help="beam width (default 5)")
    parser.add_argument(
        "--consensus", type=int, default=0, metavar="N",
        help="of the beam's captions take those that agree best with N samples (such as 100): "
        "better ones, in more time",
    )  # fmt: skip
    parser.add_argument(
        "--best", type=int, default=1, metavar="N", help="the N best captions of each"
    )
    parser.add_argument(
        "--include", action="append", default=[], metavar="WORDS",
        help="a word or phrase that every caption says (as often as you like)",
    )  # fmt: skip
    parser.add_argument(
        "--forbid", action="append", default=[], metavar="WORDS",
        help="a word or phrase that no caption says (as often as you like)",
    )  # fmt: skip
    parser.add_argument(
        "--tokens", action="store_true", help="with --json: the log-probability of each token"
    )
    parser.add_argument("--batch", type=int, default=16, metavar="N", help="pictures at a time")
    options = parser.parse_args(argv)
    # A file name need not be text.
    for stream, errors in (
        (sys.stdin, "surrogateescape"),
        (sys.stdout, "backslashreplace"),
        (sys.stderr, "backslashreplace"),
    ):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)
    first, *more = options.model
    models = [first, *takewhile(is_model, more)]
    given = [*more[len(models) - 1 :], *options.paths]
    if more[len(models) - 1 :] and is_model(Path(given[0], "model")):
        parser.error(f"{given[0]} holds a run: give {Path(given[0], 'model')}")
    if not given:
        parser.error("the following arguments are required: PATH")
    if options.best > options.beam > 0:
        parser.error(f"--best {options.best} of --beam {options.beam}: give 1 to {options.beam}")

    failures = 0
    try:
        paths = [_expand(path) for path in given]
        model, strategy = load(*models), _strategy(options)
        wording = Constraints(include=options.include, forbid=options.forbid)
        results = model.caption_stream(
            chain.from_iterable(paths), strategy, options.batch, wording, options.tokens
        )
        # Lines on a terminal are progress enough; a bar among them would tear them.
        quiet = sys.stdout.isatty() or not sys.stderr.isatty()
        for result in tqdm(results, unit=" pictures", disable=quiet):
            if result.error is not None:
                failures += 1
                print(result.error, file=sys.stderr)
            if options.json:
                print(json.dumps(_record(result, options), ensure_ascii=False), flush=True)
            else:
                for said in result.said:
                    print(f"{printable(result.path)}: {said.caption}", flush=True)
    except InputError as error:
        print(f"caption: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `caption ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # `caption ... > FILE` on a full disk
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        reason = f"{error.strerror}: free space, and caption the others again"
        print(f"caption: the output: {reason}", file=sys.stderr)
        return 2
    return 1 if failures else 0


def _strategy(options: argparse.Namespace) -> Strategy:
    if options.consensus:
        return Consensus(options.beam, samples=options.consensus, n=options.best)
    return Beam(options.beam, n=options.best)


def _record(result: Caption, options: argparse.Namespace) -> dict[str, Any]:
    """What `--json` prints of a picture."""
    if result.error is not None:
        return {"path": result.path, "error": result.error}
    record: dict[str, Any] = {"path": result.path, "caption": result.caption, "score": result.score}
    if options.tokens:
        record["tokens"] = result.said[0].tokens
    if options.best > 1:
        record["best"] = [
            {"caption": said.caption, "score": said.score, "log_prob": said.log_prob}
            | ({"tokens": said.tokens} if options.tokens else {})
            for said in result.said
        ]
    return record


def _expand(path: str) -> Iterable[str]:
    """Every file that is meant. What is not there or not ours is handed on, to be reported."""
    if path == "-":
        return (line.rstrip("\n") for line in sys.stdin if line.strip())
    if os.path.isdir(path):
        closed: list[OSError] = []
        files = [
            Path(folder, name)
            for folder, _, names in os.walk(path, onerror=closed.append)
            for name in names
        ]
        inside = [file for file in files if file.suffix.lower() in SUFFIXES]
        inside += [Path(error.filename) for error in closed]  # Path.rglob would pass them over
        if not inside:
            raise InputError(f"{path}: no picture in this folder ({' '.join(sorted(SUFFIXES))})")
        return map(str, sorted(inside))
    if not os.path.exists(path) and glob.has_magic(path):
        return sorted(glob.glob(path, recursive=True)) or [path]
    return [path]


if __name__ == "__main__":
    sys.exit(main())
