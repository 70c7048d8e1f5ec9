"""A metric as sums over images: what scores, intervals and paired tests are all made of."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class Statistics(NamedTuple):
    """M metrics of B images, as what each image adds and what such sums say.

    The score of the corpus is `of` the sum over its images, that of an image `of` its own row, that
    of a resampled corpus `of` the sum over the images drawn. So BLEU's counts are summed before
    they are divided, officially and in every resample, and a mean is the sum of (value, 1).

    names: M of them. image_BS: S numbers of each image. of: (..., S) -> (..., M); what has no value
    (no mention, so no share of right ones) is nan.
    """

    names: tuple[str, ...]
    image_BS: np.ndarray
    of: Callable[[np.ndarray], np.ndarray]

    def corpus(self) -> dict[str, float]:
        """The scores of all images together."""
        return dict(zip(self.names, self.of(self.image_BS.sum(0)).tolist(), strict=True))

    def per_image(self) -> np.ndarray:
        """(B, M)."""
        return self.of(self.image_BS)


def shares(names: Sequence[str], part_BM: np.ndarray, whole_BM: np.ndarray) -> Statistics:
    """Metrics that are each a sum divided by a sum."""
    part_BM, whole_BM = np.broadcast_arrays(part_BM, whole_BM)

    def of(sums_XS: np.ndarray) -> np.ndarray:
        part_XM, whole_XM = np.split(sums_XS, 2, axis=-1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return part_XM / whole_XM

    return Statistics(tuple(names), np.concatenate([part_BM, whole_BM], 1).astype(float), of)


def mean(name: str, value_B: np.ndarray) -> Statistics:
    """A metric that is the mean over images."""
    return shares([name], value_B[:, None], np.ones((len(value_B), 1)))


COUNTS = {"vocabulary": 0, "parameters": 0, "seconds": 0, "median_rank": 1, "words": 1}
COUNTS |= {"perplexity": 2, "bits_per_character": 3, "bits_per_word": 3}
"""What is not a share or a score, and so not multiplied by 100: how many decimals it has."""


def as_text(name: str, value: float | None) -> str:
    """A value for a table: x 100, as papers print scores, but for COUNTS."""
    if value is None or value != value:
        return "-"
    return f"{value:.{COUNTS[name]}f}" if name in COUNTS else f"{100 * value:.1f}"
