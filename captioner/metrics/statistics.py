"""A metric as sufficient statistics: the one form that scores, intervals and tests start from."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class Statistics(NamedTuple):
    """The sufficient statistics of M metrics: S numbers of each of B images, which add up.

    `score` of the sum over images, (..., S) -> (..., M), is the score of a corpus, also of a
    resampled one: BLEU's counts are summed before they are divided, a mean is the sum of
    (value, 1). It is nan for a metric that has no value.
    """

    names: tuple[str, ...]
    image_BS: np.ndarray
    score: Callable[[np.ndarray], np.ndarray]

    def corpus(self) -> dict[str, float]:
        """The scores of all images together, by name."""
        return dict(zip(self.names, self.score(self.image_BS.sum(0)).tolist(), strict=True))

    def per_image(self) -> np.ndarray:
        """The scores of each image, (B, M)."""
        return self.score(self.image_BS)


def shares(
    names: Sequence[str], numerator_BM: np.ndarray, denominator_BM: np.ndarray
) -> Statistics:
    """Metrics that are each a sum divided by a sum."""
    numerator_BM, denominator_BM = np.broadcast_arrays(numerator_BM, denominator_BM)

    def score(sum_XS: np.ndarray) -> np.ndarray:
        numerator_XM, denominator_XM = np.split(sum_XS, 2, axis=-1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return numerator_XM / denominator_XM

    image_BS = np.concatenate([numerator_BM, denominator_BM], 1).astype(float)
    return Statistics(tuple(names), image_BS, score)


def mean(name: str, value_B: np.ndarray) -> Statistics:
    """A metric that is the mean over images."""
    return shares([name], value_B[:, None], np.ones((len(value_B), 1)))


DECIMALS = {"vocabulary": 0, "parameters": 0, "seconds": 0, "median_rank": 1, "words": 1}
DECIMALS |= {"perplexity": 2, "bits_per_character": 3, "bits_per_word": 3}
"""The decimals of values that are not shares or scores, and so not multiplied by 100."""


def or_none(value: float) -> float | None:
    """A value for JSON, which knows no NaN: None for it."""
    return value if np.isfinite(value) else None


def as_text(name: str, value: float | None) -> str:
    """A value for a table: x 100, as papers print scores, or with its DECIMALS; "-" for none."""
    if value is None or value != value:
        return "-"
    return f"{value:.{DECIMALS[name]}f}" if name in DECIMALS else f"{100 * value:.1f}"
