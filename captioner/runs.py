"""`python -m captioner.runs RUN_DIR ...`: one table of the scores that runs left behind."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from captioner.evaluation import table
from captioner.types import InputError


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns 0, or 2 where a folder holds no scores."""
    parser = argparse.ArgumentParser("captioner.runs", description="Compare runs' scores (x 100).")
    parser.add_argument("folders", nargs="+", metavar="RUN_DIR", help="a folder with scores.json")
    options = parser.parse_args(argv)
    try:
        Console().print(table({folder: read_corpus(Path(folder)) for folder in options.folders}))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def read_corpus(folder: Path) -> dict[str, float]:
    """The corpus scores of a run. Raises InputError naming the file."""
    path = folder / "scores.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))["corpus"]
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(f"{path}: no readable scores ({error}); has the run ended?") from error


if __name__ == "__main__":
    sys.exit(main())
