"""BLEU-1..4 (Papineni et al. 2002), as the official COCO evaluation computes it."""

import numpy as np

from captioner.metrics.ngrams import ORDERS, Matches, ranges
from captioner.metrics.statistics import Statistics

TINY, SMALL = 1e-15, 1e-9  # the official guards against division by zero; small scores show them
NAMES = tuple(f"Bleu_{n}" for n in range(1, ORDERS + 1))


def bleu(matches: Matches) -> Statistics:
    """The statistics of BLEU-1..4 (0 to 1) of one caption for each image, not smoothed.

    BLEU-n = exp(min(0, 1 - r / c)) (p_1 ... p_n)^(1/n) with p_k the share of the caption's k-grams
    that occur in a reference, each counted at most as often as in the reference that has most of
    it; c the words of the caption; r those of the reference closest in length (of two, the
    shorter). Counts and lengths are summed over a corpus first.
    """
    references, rows = matches.references, matches.rows
    clipped_M = np.minimum(rows.count_M[matches.row_M], references.most_E[matches.entry_M])
    correct_N4 = rows.per_order(clipped_M, matches.row_M)
    counts = [correct_N4, rows.per_order(rows.count_M), rows.length_N, _closest(matches)]
    return Statistics(NAMES, np.column_stack(counts), bleu_scores)


def _closest(matches: Matches) -> np.ndarray:
    """The length of the reference closest in length to each caption, of two the shorter."""
    references, image_N = matches.references, matches.image_N
    count_N = references.per_image_I[image_N]
    length = references.rows.length_N[ranges(references.first_I[image_N], count_N)]
    distance = abs(length - np.repeat(matches.rows.length_N, count_N))
    # one minimum over (distance, length) pairs, packed into one integer
    best_N = np.minimum.reduceat(distance << 32 | length, count_N.cumsum() - count_N)
    return best_N & (1 << 32) - 1


def bleu_scores(sum_XS: np.ndarray) -> np.ndarray:
    """BLEU-1..4 (..., 4) from correct and possible n-grams, length, closest length (..., 10)."""
    correct, possible = sum_XS[..., :ORDERS], sum_XS[..., ORDERS:-2]
    length, closest = sum_XS[..., -2, None], sum_XS[..., -1, None]
    precision = np.cumprod((correct + TINY) / (possible + SMALL), axis=-1)
    brevity = np.exp(np.minimum(0, 1 - (closest + SMALL) / (length + TINY)))
    return precision ** (1 / np.arange(1, ORDERS + 1)) * brevity
