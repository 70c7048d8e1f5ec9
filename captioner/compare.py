"""`python -m captioner.compare A.json B.json --refs R.json`: whether two systems differ."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from captioner import frequencies, predictions, records
from captioner.evaluation import Case
from captioner.metrics import bootstrap, score
from captioner.metrics.bootstrap import Difference
from captioner.metrics.sums import as_text
from captioner.types import InputError


def compare(
    a: Case, b: Case, metrics: Sequence[str] = score.USUAL, resamples: int = 10_000, seed: int = 0
) -> dict[str, Difference]:
    """Each metric of two systems over the same records (captioner/metrics/bootstrap.py).

    Raises InputError for a metric that is none of captions and references, Unavailable for one that
    lacks something.
    """
    if unknown := [name for name in metrics if name not in score.METRICS]:
        raise InputError(f"metrics {', '.join(unknown)}: give some of {', '.join(score.METRICS)}")
    of_a, of_b = ([score.METRICS[name](case.texts) for name in metrics] for case in (a, b))
    return bootstrap.compare(of_a, of_b, resamples, seed)


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns 0, or 2 for an error."""
    parser = argparse.ArgumentParser(
        "captioner.compare",
        description="Two prediction files on the same images: the difference a - b of each metric, "
        "its 95 %% interval by the paired bootstrap, and the p-value of approximate randomisation.",
    )
    parser.add_argument("a", type=Path, metavar="A.json", help="predictions, COCO results format")
    parser.add_argument("b", type=Path, metavar="B.json")
    parser.add_argument("--refs", type=Path, required=True, help="a caption file")
    parser.add_argument(
        "--metrics",
        nargs="+",
        default=score.USUAL,
        metavar="NAME",
        help=f"of {', '.join(score.METRICS)} (default: {' '.join(score.USUAL)})",
    )
    parser.add_argument(
        "--corpus", type=Path, help="document frequencies: a caption file or a table"
    )
    parser.add_argument(
        "--official", action="store_true", help="tokenize as the official code does"
    )
    parser.add_argument("--resamples", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(argv)
    try:
        corpus = frequencies.read(options.corpus) if options.corpus else None
        some = records.read_references(options.refs)
        a, b = (
            Case(some, predictions.read(path), official=options.official, frequencies=corpus)
            for path in (options.a, options.b)
        )
        found = compare(a, b, options.metrics, options.resamples, options.seed)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps({name: difference._asdict() for name, difference in found.items()}))
    else:
        Console(width=1000).print(table(found, f"{len(some)} images"))
    return 0


def table(found: dict[str, Difference], title: str) -> Table:
    """For a terminal; scores x 100."""
    made = Table(box=box.SIMPLE, pad_edge=False, title=title, title_justify="left")
    for name in ("metric", "A", "B", "A - B", "95 % interval", "p"):
        made.add_column(name, justify="left" if name == "metric" else "right")
    for name, (a, b, difference, low, high, p) in found.items():
        a_text, b_text, *between = (as_text(name, value) for value in (a, b, difference, low, high))
        made.add_row(name, a_text, b_text, between[0], f"{between[1]} to {between[2]}", f"{p:.4f}")
    return made


if __name__ == "__main__":
    sys.exit(main())
