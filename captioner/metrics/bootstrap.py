"""How certain a score is, and whether two systems differ: by resampling images.

The score of a resampled corpus comes from the statistics of the images drawn (statistics.py). So
BLEU's counts are summed before they are divided in every resample too, and CIDEr keeps the document
frequencies of all images: what they owe to the choice of images is not in its interval.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from captioner.errors import InputError
from captioner.metrics.statistics import Statistics

RESAMPLES = 1000
LEVEL = 95.0  # per cent of the resamples that an interval holds


class Difference(NamedTuple):
    """A metric of two systems on the same images: a, b, a - b with its 95 % interval, p-value."""

    a: float
    b: float
    difference: float
    low: float
    high: float
    p: float


def intervals(
    statistics: Sequence[Statistics], resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """The 95 % percentile interval of each metric (Efron and Tibshirani 1993, chapter 13).

    All metrics see the same resamples: B images drawn with replacement from all B.
    """
    check_options(resamples, seed)
    interval_of: dict[str, tuple[float, float]] = {}
    for metric, sum_RS in zip(statistics, _resampled(statistics, resamples, seed)):
        low_M, high_M = _interval(metric.score(sum_RS)).tolist()
        interval_of |= zip(metric.names, zip(low_M, high_M))
    return interval_of


def compare(
    a: Sequence[Statistics], b: Sequence[Statistics], resamples: int = 10_000, seed: int = 0
) -> dict[str, Difference]:
    """The difference in each metric of two systems over the same images in the same order.

    The interval is that of a paired bootstrap. The p-value is that of approximate randomisation
    (Noreen 1989; Riezler and Maxwell 2005): for each image a coin decides whether the systems
    exchange captions; p is (1 + how often the difference is then as great) / (1 + resamples).
    """
    check_options(resamples, seed)
    images = len(a[0].image_BS)
    resampled = zip(_resampled(a, resamples, seed), _resampled(b, resamples, seed))
    change = [m_b.image_BS - m_a.image_BS for m_a, m_b in zip(a, b, strict=True)]
    swapped = _weighted_sums(change, lambda rng: rng.integers(0, 2, images), resamples, seed + 1)
    differences: dict[str, Difference] = {}
    for m_a, m_b, (a_RS, b_RS), swapped_RS in zip(a, b, resampled, swapped, strict=True):
        sum_aS, sum_bS = m_a.image_BS.sum(0), m_b.image_BS.sum(0)
        score_aM, score_bM = m_a.score(sum_aS), m_b.score(sum_bS)
        difference_M = score_aM - score_bM
        low_M, high_M = _interval(m_a.score(a_RS) - m_b.score(b_RS))
        chance_RM = abs(m_a.score(sum_aS + swapped_RS) - m_b.score(sum_bS - swapped_RS))
        # sums in another order: a tie may come out as less by rounding
        as_great_M = (chance_RM >= abs(difference_M) * (1 - 1e-9)).sum(0)
        p_M = np.where(np.isnan(difference_M), np.nan, (1 + as_great_M) / (1 + resamples))
        values_M6 = np.stack([score_aM, score_bM, difference_M, low_M, high_M, p_M], axis=1)
        differences |= zip(m_a.names, (Difference(*values) for values in values_M6.tolist()))
    return differences


def _resampled(statistics: Sequence[Statistics], resamples: int, seed: int) -> list[np.ndarray]:
    """The sums of R resampled corpora, (R, S) of each metric."""
    images = len(statistics[0].image_BS)
    return _weighted_sums(
        [metric.image_BS for metric in statistics],
        lambda rng: np.bincount(rng.integers(0, images, images), minlength=images),
        resamples,
        seed,
    )


def _weighted_sums(
    arrays: Sequence[np.ndarray],
    draw_weights: Callable[[np.random.Generator], np.ndarray],
    resamples: int,
    seed: int,
) -> list[np.ndarray]:
    """Weighted sums over the images of several (B, S), the same weights for all: (R, S) of each."""
    rng = np.random.default_rng(seed)
    joined_BS = np.concatenate(arrays, axis=1)
    sum_RS = np.stack([draw_weights(rng) @ joined_BS for _ in range(resamples)])
    return np.split(sum_RS, np.cumsum([array.shape[1] for array in arrays])[:-1], axis=1)


def _interval(value_RM: np.ndarray) -> np.ndarray:
    """The bounds of the interval, (2, M); nan for a metric that has a value in no resample."""
    tail = (100 - LEVEL) / 2
    bounds_2M = np.full((2, value_RM.shape[1]), np.nan)
    has_value = ~np.isnan(value_RM).all(0)
    bounds_2M[:, has_value] = np.nanpercentile(value_RM[:, has_value], [tail, 100 - tail], axis=0)
    return bounds_2M


def check_options(resamples: int, seed: int) -> None:
    """Raise InputError for too few resamples or a negative seed."""
    if resamples < 100:
        raise InputError(f"resamples={resamples}: an interval takes 100 or more, usually 1000")
    if seed < 0:
        raise InputError(f"seed={seed}: give 0 or more")
