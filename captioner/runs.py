"""`python -m captioner.runs RUN_DIR ...`: one table of the scores that runs left behind."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

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


def table(corpora: Mapping[str, Mapping[str, float]]) -> Table:
    """Corpus scores x 100, as papers print them: a row for each name."""
    table = Table(box=box.SIMPLE, pad_edge=False, padding=0)
    table.add_column("x 100", overflow="fold")
    metrics = list(dict.fromkeys(name for corpus in corpora.values() for name in corpus))
    for name in metrics:
        table.add_column(name, justify="right", no_wrap=True)
    for title, corpus in corpora.items():
        cells = (f"{100 * corpus[name]:.1f}" if name in corpus else "-" for name in metrics)
        table.add_row(title, *cells)
    return table


if __name__ == "__main__":
    sys.exit(main())
