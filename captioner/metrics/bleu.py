"""BLEU-1..4 (Papineni et al. 2002), as the official COCO evaluation computes it.

N-grams of all texts are counted at once, in arrays and by sorting; CIDEr uses the same Counts.
Letters of this file and of cider.py: B images (and captions), R references of all of them, N texts
(the captions, then the references), T words of all texts, M rows of counts, P pairs of rows.
"""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from captioner.types import InputError

ORDERS = 4
TINY, SMALL = 1e-15, 1e-9  # the official guards against dividing by zero: they show in small scores


class Numbers(NamedTuple):
    """The numbers of words, and of longer n-grams.

    pairs: for orders 2 to 4, the sorted keys `number of the first n-1 words << 32 | last word`.
        The number of an n-gram is the place of its key.
    """

    words: dict[str, int]
    pairs: list[np.ndarray]


NOTHING = Numbers({}, [np.zeros(0, np.int64)] * (ORDERS - 1))


class Ngrams(NamedTuple):
    """The n-grams of one order: a row for each distinct one of each text, texts in order."""

    text_M: np.ndarray
    gram_M: np.ndarray  # its number: the same n-gram has the same one in every text
    count_M: np.ndarray


class Counts:
    """The n-grams of captions and of their references.

    references, captions: token strings, several and one per image; split on any whitespace.
    known: n-grams that keep the numbers they have; new ones are numbered after them. Where nothing
        was known, `numbers` holds the numbers of all.
    Raises InputError for an image without references, ValueError for unequal lengths.
    """

    def __init__(
        self,
        references: Sequence[Sequence[str]],
        captions: Sequence[str],
        known: Numbers = NOTHING,
    ):
        images = np.arange(len(captions))
        self.per_image_B = np.array([len(r) for r, _ in zip(references, captions, strict=True)])
        if not self.per_image_B.all():
            raise InputError(
                f"image at index {self.per_image_B.argmin()} has no reference: leave it out"
            )
        self.image_R = np.repeat(images, self.per_image_B)
        self.image_N = np.concatenate([images, self.image_R])

        texts = [text.split() for text in chain(captions, *references)]
        words = list(chain.from_iterable(texts))
        new = [word for word in dict.fromkeys(words) if word not in known.words]
        number = known.words | {word: i for i, word in enumerate(new, len(known.words))}
        word_T = np.fromiter(map(number.__getitem__, words), np.int64, len(words))
        self.length_N = np.fromiter(map(len, texts), np.int64, len(texts))
        text_T = np.repeat(np.arange(len(texts)), self.length_N)
        left_T = np.repeat(self.length_N.cumsum(), self.length_N) - np.arange(len(words))

        self.numbers = Numbers(number, [])
        self.orders: list[Ngrams] = []
        gram_T, size = word_T.copy(), len(number)  # number of the n-gram that starts at each word
        for n in range(1, ORDERS + 1):
            start = np.flatnonzero(left_T >= n)
            if n > 1:
                keys, key_T = np.unique(
                    gram_T[start] << 32 | word_T[start + n - 1], return_inverse=True
                )
                place, found = _find(keys, known.pairs[n - 2])
                size = len(known.pairs[n - 2]) + int(np.count_nonzero(~found))
                place[~found] = np.arange(len(known.pairs[n - 2]), size)
                gram_T[start] = place[key_T]
                self.numbers.pairs.append(keys[~found])
            row, count_M = np.unique(text_T[start] * size + gram_T[start], return_counts=True)
            self.orders.append(Ngrams(row // size, row % size, count_M))

    def shared(self, ngrams: Ngrams) -> tuple[np.ndarray, np.ndarray]:
        """All pairs (row of a caption, row of a reference) of the same n-gram and image, (P,)."""
        size = ngrams.gram_M.max(initial=0) + 1
        key_M = self.image_N[ngrams.text_M] * size + ngrams.gram_M
        captions = np.searchsorted(ngrams.text_M, len(self.per_image_B))  # the rows of captions
        place, found = _find(key_M[captions:], key_M[:captions])
        return place[found], captions + np.flatnonzero(found)


def _find(keys: np.ndarray, among: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each key stands among sorted ones, and whether it does."""
    place = np.searchsorted(among, keys)
    return place, np.searchsorted(among, keys, side="right") > place


def bleu(
    references: Sequence[Sequence[str]], captions: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """BLEU-1..4 of B images: of the corpus, (4,), and of each image, (4, B), in 0..1.

    references, captions: token strings, several and one per image.

    BLEU-n = exp(min(0, 1 - r / c)) (p_1 ... p_n)^(1/n) with p_k the share of the caption's k-grams
    that a reference has, each counted at most as often as the reference has it that has it most;
    c the words of the caption; r the words of the reference closest in length, of two the shorter.
    The corpus sums counts and lengths over its images first. Nothing is smoothed: an image without
    a common 4-gram has a BLEU-4 near 0 whatever else is right.
    """
    counts = Counts(references, captions)
    length_B, length_R = np.split(counts.length_N, [len(captions)])
    correct_nB, possible_nB = np.zeros((2, ORDERS, len(captions)))
    for n, ngrams in enumerate(counts.orders):
        caption_P, reference_P = counts.shared(ngrams)
        most_M = np.zeros_like(ngrams.count_M)  # stays 0 in the references' own rows
        np.maximum.at(most_M, caption_P, ngrams.count_M[reference_P])
        clipped_M = np.minimum(ngrams.count_M, most_M)
        correct_nB[n] = np.bincount(ngrams.text_M, clipped_M, len(counts.length_N))[: len(captions)]
        possible_nB[n] = np.maximum(length_B - n, 0)

    distance_R = abs(length_R - length_B[counts.image_R])
    first_B = np.cumsum(counts.per_image_B) - counts.per_image_B
    # one minimum over (distance, length) pairs, packed into one integer
    closest_B = np.minimum.reduceat(distance_R << 32 | length_R, first_B) & (1 << 32) - 1
    return (
        _bleu(correct_nB.sum(1), possible_nB.sum(1), length_B.sum(), closest_B.sum()),
        _bleu(correct_nB, possible_nB, length_B, closest_B),
    )


def _bleu(correct: np.ndarray, possible: np.ndarray, length, closest) -> np.ndarray:
    """The formula, for the corpus or for all images; orders are the first axis of the counts."""
    precision = np.cumprod((correct + TINY) / (possible + SMALL), axis=0)
    brevity = np.exp(np.minimum(0, 1 - (closest + SMALL) / (length + TINY)))
    return np.stack([p ** (1 / n) for n, p in enumerate(precision, 1)]) * brevity
