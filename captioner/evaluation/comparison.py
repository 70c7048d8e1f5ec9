"""Whether two systems differ: each metric of both over the same images."""

import math
from collections.abc import Mapping, Sequence

from rich.table import Table

from captioner.console import make_table
from captioner.evaluation.scoring import Case
from captioner.metrics import bootstrap, score
from captioner.metrics.bootstrap import Difference
from captioner.metrics.statistics import as_text, or_none


def compare(
    a: Case, b: Case, metrics: Sequence[str] = score.USUAL, resamples: int = 10_000, seed: int = 0
) -> dict[str, Difference]:
    """The difference of two systems over the same records, by metric (see bootstrap.compare).

    Raises InputError for a metric that needs more than captions and references, Unavailable for
    one whose program is not installed.
    """
    score.check_names(metrics)
    scores_a, scores_b = ([score.METRICS[name](case.texts) for name in metrics] for case in (a, b))
    return bootstrap.compare(scores_a, scores_b, resamples, seed)


def as_json(differences: Mapping[str, Difference]) -> dict[str, dict[str, float | None]]:
    """The differences for JSON; None for a number that has no value."""
    return {
        metric: {name: or_none(value) for name, value in difference._asdict().items()}
        for metric, difference in differences.items()
    }


def differences_table(differences: Mapping[str, Difference], title: str) -> Table:
    """The differences for a terminal; scores x 100."""
    rows = []
    for metric, (*values, p) in differences.items():
        a, b, difference, low, high = (as_text(metric, value) for value in values)
        chance = "-" if math.isnan(p) else f"{p:.4f}"
        rows.append([metric, a, b, difference, f"{low} to {high}", chance])
    return make_table(["metric", "A", "B", "A - B", "95 % interval", "p"], rows, title)
