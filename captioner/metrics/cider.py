"""CIDEr-D (Vedantam et al. 2015, section 8), as the official COCO evaluation computes it."""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from captioner.metrics.bleu import NOTHING, ORDERS, Counts, Numbers

SIGMA = 6.0  # of the penalty for a different length, in words


class DocumentFrequencies(NamedTuple):
    """In how many images each n-gram occurs, that is, in at least one reference of the image.

    frequencies: for orders 1 to 4, (G,), by the number of the n-gram.
    """

    images: int
    numbers: Numbers
    frequencies: list[np.ndarray]

    def idf(self, order: int, gram_M: np.ndarray) -> np.ndarray:
        """log(images / frequency) of n-grams; one that never occurs counts as occurring once."""
        frequency_G = self.frequencies[order]
        frequency_M = np.ones(len(gram_M))
        known = gram_M < len(frequency_G)
        frequency_M[known] = frequency_G[gram_M[known]]
        return np.log(self.images) - np.log(np.maximum(frequency_M, 1))


def document_frequencies(references: Sequence[Sequence[str]]) -> DocumentFrequencies:
    """The frequencies of a set of images, to score any captions with.

    Self-critical training makes them once, of its training set, and rewards each batch with them:
    those of the batch itself would be too few, and different every time.
    """
    return _frequencies(Counts(references, [""] * len(references)))


def _frequencies(counts: Counts) -> DocumentFrequencies:
    images = len(counts.per_image_B)
    frequencies = []
    for ngrams in counts.orders:
        size = ngrams.gram_M.max(initial=0) + 1
        key_M = counts.image_N[ngrams.text_M] * size + ngrams.gram_M
        # asked for counts, np.unique sorts; on its own it hashes, which takes 8 times as long here
        distinct, _ = np.unique(key_M[ngrams.text_M >= images], return_counts=True)
        frequencies.append(np.bincount(distinct % size))
    return DocumentFrequencies(images, counts.numbers, frequencies)


def cider(
    references: Sequence[Sequence[str]],
    captions: Sequence[str],
    frequencies: DocumentFrequencies | None = None,
) -> tuple[float, np.ndarray]:
    """CIDEr-D of B images: their mean, and one value per image, (B,), in 0..10.

    references, captions: token strings, several and one per image.
    frequencies: by default those of `references`, as in the official evaluation. Of one image they
        say nothing (log 1 = 0): every score is 0, and a warning says so.

    10 / 4 sum_n mean_j exp(-(l - l_j)^2 / (2 sigma^2)) min(g, g_j) . g_j / (|g| |g_j|) over the
    references j, with g the vector of count times idf of a text's n-grams and l its length.
    """
    counts = Counts(references, captions, NOTHING if frequencies is None else frequencies.numbers)
    frequencies = frequencies or _frequencies(counts)
    if frequencies.images == 1:
        warnings.warn(
            "CIDEr weighs n-grams by how few of the images use them: of one image it is 0, "
            "whatever the caption. Score more images together, or give document frequencies.",
            stacklevel=2,
        )
    images, texts = len(captions), len(counts.length_N)
    cosine_R = np.zeros(texts - images)
    for n, ngrams in enumerate(counts.orders):
        weight_M = ngrams.count_M * frequencies.idf(n, ngrams.gram_M)
        norm_N = np.sqrt(np.bincount(ngrams.text_M, weight_M**2, texts))
        norm_R = norm_N[counts.image_R] * norm_N[images:]
        caption_P, reference_P = counts.shared(ngrams)
        product_P = np.minimum(weight_M[caption_P], weight_M[reference_P]) * weight_M[reference_P]
        product_N = np.bincount(ngrams.text_M[reference_P], product_P, texts)
        cosine_R += product_N[images:] / np.where(norm_R > 0, norm_R, 1)

    length_N = np.maximum(counts.length_N - 1, 0)  # the official length is the number of bigrams
    difference_R = length_N[counts.image_R] - length_N[images:]
    score_R = 10 / ORDERS * np.exp(-(difference_R**2) / (2 * SIGMA**2)) * cosine_R
    score_B = np.bincount(counts.image_R, score_R) / counts.per_image_B
    return float(score_B.mean()), score_B
