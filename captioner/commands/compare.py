"""`python -m captioner.commands.compare A.json B.json --refs R`: whether two systems differ."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from captioner.data import records
from captioner.errors import InputError
from captioner.evaluation import frequencies, predictions
from captioner.evaluation.scoring import Case
from captioner.metrics import bootstrap, score
from captioner.metrics.bootstrap import Difference
from captioner.metrics.statistics import as_text


def compare(
    a: Case, b: Case, metrics: Sequence[str] = score.USUAL, resamples: int = 10_000, seed: int = 0
) -> dict[str, Difference]:
    """Each metric of two systems over the same records (captioner/metrics/bootstrap.py).

    Raises InputError for a metric that is none of captions and references, Unavailable for one that
    lacks something.
    """
    score.check_names(metrics)
    of_a, of_b = ([score.METRICS[name](case.texts) for name in metrics] for case in (a, b))
    return bootstrap.compare(of_a, of_b, resamples, seed)


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns 0, or 2 for an error."""
    parser = argparse.ArgumentParser(
        "captioner.commands.compare",
        description="Two prediction files on the same images: the difference a - b of each metric, "
        "its 95 %% interval by the paired bootstrap, and the p-value of approximate randomisation.",
    )
    parser.add_argument("a", type=Path, metavar="A.json", help="predictions, COCO results format")
    parser.add_argument("b", type=Path, metavar="B.json")
    parser.add_argument("--refs", type=Path, required=True, help="a caption file")
    parser.add_argument("--split", help="of the caption file, where it holds several")
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
        bootstrap.check(options.resamples, options.seed)
        corpus = frequencies.read_frequencies(options.corpus, "train") if options.corpus else None
        some = records.read_references(options.refs, options.split)
        a, b = (
            Case(
                some,
                predictions.read_predictions(path),
                official=options.official,
                frequencies=corpus,
            )
            for path in (options.a, options.b)
        )
        found = compare(a, b, options.metrics, options.resamples, options.seed)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps({name: _plain(difference) for name, difference in found.items()}))
    else:
        Console(width=1000).print(table(found, f"{len(some)} images"))
    return 0


def _plain(found: Difference) -> dict[str, float | None]:
    """What has no value is None: JSON knows no NaN."""
    return {name: None if value != value else value for name, value in found._asdict().items()}


def table(found: dict[str, Difference], title: str) -> Table:
    """For a terminal; scores x 100."""
    made = Table(box=box.SIMPLE, pad_edge=False, title=title, title_justify="left")
    for name in ("metric", "A", "B", "A - B", "95 % interval", "p"):
        made.add_column(name, justify="left" if name == "metric" else "right")
    for name, (a, b, difference, low, high, p) in found.items():
        a_text, b_text, *between = (as_text(name, value) for value in (a, b, difference, low, high))
        made.add_row(
            name,
            a_text,
            b_text,
            between[0],
            f"{between[1]} to {between[2]}",
            "-" if p != p else f"{p:.4f}",
        )
    return made


if __name__ == "__main__":
    sys.exit(main())
