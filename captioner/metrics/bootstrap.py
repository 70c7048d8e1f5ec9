"""How sure a score is, and whether two systems differ: by resampling images.

A score of a resampled corpus is made from the sums of the images drawn (statistics.py).
So BLEU's counts are summed before they are divided in every resample too, and CIDEr keeps the
document frequencies of the whole: what they owe to the choice of images is not in its interval.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from captioner.errors import InputError
from captioner.metrics.statistics import Statistics

INSIDE = 95.0  # per cent of the resamples, inside an interval


class Difference(NamedTuple):
    """Of a metric of two systems on the same images; low to high is the 95 % interval of a - b."""

    a: float
    b: float
    difference: float
    low: float
    high: float
    p: float


def intervals(
    scores: Sequence[Statistics], resamples: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """The 95 % percentile interval of each metric (Efron and Tibshirani 1993, chapter 13).

    All metrics see the same resamples: B images drawn with replacement, of the B there are.
    """
    check(resamples, seed)
    found: dict[str, tuple[float, float]] = {}
    for metric, sums_RS in zip(scores, _resampled(scores, resamples, seed)):
        low_M, high_M = _interval(metric.of(sums_RS))
        found |= {n: (float(a), float(b)) for n, a, b in zip(metric.names, low_M, high_M)}
    return found


def compare(
    a: Sequence[Statistics], b: Sequence[Statistics], resamples: int = 10_000, seed: int = 0
) -> dict[str, Difference]:
    """Each metric of two systems over the same images in the same order.

    The interval of the difference is that of a paired bootstrap: both see the images drawn. The
    p-value is that of approximate randomisation (Noreen 1989; Riezler and Maxwell 2005): how often
    the difference is as great, either way, where for each image a coin decides which system's
    caption is whose, (1 + how often) / (1 + resamples).
    """
    check(resamples, seed)
    images = len(a[0].image_BS)
    drawn = zip(_resampled(a, resamples, seed), _resampled(b, resamples, seed))
    change = [two.image_BS - one.image_BS for one, two in zip(a, b, strict=True)]

    def coins(rng: np.random.Generator) -> np.ndarray:
        return rng.integers(0, 2, images)

    swapped = _sums(change, coins, resamples, seed + 1)
    found: dict[str, Difference] = {}
    for one, two, (one_RS, two_RS), swapped_RS in zip(a, b, drawn, swapped, strict=True):
        of_a, of_b = (sums.of(sums.image_BS.sum(0)) for sums in (one, two))
        low_M, high_M = _interval(one.of(one_RS) - two.of(two_RS))
        total_a, total_b = one.image_BS.sum(0) + swapped_RS, two.image_BS.sum(0) - swapped_RS
        chance_RM = abs(one.of(total_a) - two.of(total_b))
        # sums in another order: a tie may come out as less by rounding
        as_great_M = (chance_RM >= abs(of_a - of_b) * (1 - 1e-9)).sum(0)
        p_M = np.where(np.isnan(of_a - of_b), np.nan, (1 + as_great_M) / (1 + resamples))
        for m, name in enumerate(one.names):
            values = of_a[m], of_b[m], of_a[m] - of_b[m], low_M[m], high_M[m], p_M[m]
            found[name] = Difference(*map(float, values))
    return found


def _resampled(scores: Sequence[Statistics], resamples: int, seed: int) -> list[np.ndarray]:
    """(R, S) of each metric."""
    images = len(scores[0].image_BS)

    def times(rng: np.random.Generator) -> np.ndarray:
        return np.bincount(rng.integers(0, images, images), minlength=images)

    return _sums([metric.image_BS for metric in scores], times, resamples, seed)


def _sums(
    images: Sequence[np.ndarray],
    draw: Callable[[np.random.Generator], np.ndarray],
    resamples: int,
    seed: int,
) -> list[np.ndarray]:
    """Weighted sums over the images of several (B, S), the same weights for all: (R, S) of each."""
    rng = np.random.default_rng(seed)
    together_BS = np.concatenate(images, axis=1)
    sums_RS = np.stack([draw(rng) @ together_BS for _ in range(resamples)])
    return np.split(sums_RS, np.cumsum([part.shape[1] for part in images])[:-1], axis=1)


def _interval(value_RM: np.ndarray) -> np.ndarray:
    """(2, M); of a metric that has a value in no resample, nan."""
    rest = (100 - INSIDE) / 2
    found = np.full((2, value_RM.shape[1]), np.nan)
    some = ~np.isnan(value_RM).all(0)
    found[:, some] = np.nanpercentile(value_RM[:, some], [rest, 100 - rest], axis=0)
    return found


def check(resamples: int, seed: int) -> None:
    """Raises InputError for too few resamples, and for a seed that is none."""
    if resamples < 100:
        raise InputError(f"resamples={resamples}: an interval takes 100 or more, usually 1000")
    if seed < 0:
        raise InputError(f"seed={seed}: give 0 or more")
