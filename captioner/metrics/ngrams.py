"""Counts of n-grams in references and captions, for BLEU and CIDEr: n-grams as sorted numbers.

Shape letters of this file, bleu.py and cider.py: I images, R references of all of them, N captions,
T words of all texts, M rows (the distinct n-grams of each text), E rows of references, G n-grams,
P pairs of rows, S sums.
"""

from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from typing import NamedTuple

import numpy as np

from captioner.errors import InputError

ORDERS = 4
LOW = 40
"""Bits of an n-gram, below the number of its text or image, so that one sort orders both."""
MOST = 1 << 63 - LOW  # texts: 8 million


class Numbers(NamedTuple):
    """The numbers of words and longer n-grams, 0 to size - 1, in order of first occurrence.

    keys: of each order from 2 to 4, sorted: number of the first n-1 words << 32 | that of the last.
    numbers: that of each key.
    """

    size: int
    words: dict[str, int]
    keys: list[np.ndarray]
    numbers: list[np.ndarray]


NOTHING = Numbers(0, {}, *([np.zeros(0, np.int64)] * (ORDERS - 1) for _ in range(2)))


class Rows(NamedTuple):
    """The distinct n-grams of each text, sorted by (text, gram).

    gram: the number of the n-gram << 2 | its order - 1.
    """

    length_N: np.ndarray  # words of each text
    text_M: np.ndarray
    gram_M: np.ndarray
    count_M: np.ndarray

    def per_order(self, value_M: np.ndarray, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Sums of values by text and order, (N, 4). rows: those that the values belong to."""
        place_M = self.text_M[rows] * ORDERS + (self.gram_M[rows] & 3)
        return np.bincount(place_M, value_M, ORDERS * len(self.length_N)).reshape(-1, ORDERS)


def count(texts: Sequence[str], known: Numbers, grow: bool = False) -> tuple[Rows, Numbers]:
    """Count the n-grams of texts, which are split at any whitespace.

    known: n-grams that keep their numbers; new ones are numbered after them. Returns the rows and,
    if `grow`, the numbers of all n-grams, else the known ones.
    """
    if len(texts) >= MOST:
        raise InputError(f"{len(texts)} captions at once: at most {MOST - 1} can be counted")
    flat: list[str] = []
    length_N = np.empty(len(texts), np.int64)
    for n, text in enumerate(texts):  # keeping no lists: many make Python look for garbage
        split = text.split()
        flat += split
        length_N[n] = len(split)
    size, words = known.size, known.words
    number_of: dict[str, int] = {}  # for the words of these texts only: `words` may be many more
    new_words: dict[str, int] = {}
    for word in dict.fromkeys(flat):
        if (word_number := words.get(word)) is None:
            word_number = new_words[word] = size + len(new_words)
        number_of[word] = word_number
    word_T = np.fromiter(map(number_of.__getitem__, flat), np.int64, len(flat))
    size += len(new_words)

    text_T = np.repeat(np.arange(len(texts)), length_N)
    left_T = np.repeat(length_N.cumsum(), length_N) - np.arange(len(flat))
    gram_T = word_T.copy()  # number of the n-gram that starts at each word
    rows = [text_T << LOW | gram_T << 2]
    keys, numbers = [], []
    for n, known_keys, known_numbers in zip(range(1, ORDERS), known.keys, known.numbers):
        start = np.flatnonzero(left_T > n)
        key = gram_T[start] << 32 | word_T[start + n]
        place, is_known = _find(key, known_keys)
        number = known_numbers[place] if len(known_keys) else np.empty_like(key)
        new_keys, inverse = np.unique(key[~is_known], return_inverse=True)
        number[~is_known] = size + inverse
        gram_T[start] = number
        rows.append(text_T[start] << LOW | number << 2 | n)
        if grow:
            at = np.searchsorted(known_keys, new_keys)
            keys.append(np.insert(known_keys, at, new_keys))
            numbers.append(np.insert(known_numbers, at, size + np.arange(len(new_keys))))
        size += len(new_keys)
    row_M, count_M = distinct(np.concatenate(rows))
    counted = Rows(length_N, row_M >> LOW, row_M & (1 << LOW) - 1, count_M)
    return counted, Numbers(size, words | new_words, keys, numbers) if grow else known


def sort_keys(owner_M: np.ndarray, gram_M: np.ndarray) -> np.ndarray:
    """Integers that sort by owner (a text or image) first, then by n-gram."""
    return owner_M << LOW | gram_M


def _find(keys: np.ndarray, among: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The position of each key among sorted ones, and whether it is among them."""
    if not len(among):
        return np.zeros(len(keys), np.int64), np.zeros(len(keys), bool)
    place = np.minimum(np.searchsorted(among, keys), len(among) - 1)
    return place, among[place] == keys


def distinct(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sorted distinct keys and their counts; np.unique takes 3 to 8 times as long."""
    keys = np.sort(keys, kind="stable")  # much of it is in order
    first = np.flatnonzero(np.diff(keys, prepend=-1))
    return keys[first], np.diff(first, append=len(keys))


def ranges(begin: np.ndarray, length: np.ndarray) -> np.ndarray:
    """The integers begin, begin + 1, .. of each range, one range after the other."""
    shift = begin - (length.cumsum() - length)
    return np.repeat(shift, length) + np.arange(length.sum())


class References:
    """The references of I images, counted once, to match any captions of these images with.

    references: token strings, one or more per image. known: n-grams that are numbered already,
    as in document frequencies. Raises InputError for an image without references.

    Rows E are sorted by (image, gram); the rows of one gram of one image are a group.
    """

    def __init__(self, references: Sequence[Sequence[str]], known: Numbers = NOTHING):
        self.per_image_I = np.fromiter(map(len, references), np.int64, len(references))
        if not self.per_image_I.all():
            image = self.per_image_I.argmin()
            raise InputError(f"image at index {image} has no reference: leave it out")
        image_R = np.repeat(np.arange(len(references)), self.per_image_I)
        self.first_I = self.per_image_I.cumsum() - self.per_image_I  # reference of each image
        self.known = known
        rows, self.numbers = count(list(chain.from_iterable(references)), known, grow=True)
        self.rows = rows
        key_E = sort_keys(image_R[rows.text_M], rows.gram_M)
        order = np.argsort(key_E, kind="stable")
        key_E = key_E[order]
        self.gram_E = rows.gram_M[order]
        self.reference_E, self.count_E = rows.text_M[order], rows.count_M[order]
        self.begin_I = np.searchsorted(key_E, np.arange(len(references) + 1) << LOW)
        self.groups = np.flatnonzero(np.diff(key_E, prepend=-1))  # where each begins
        size = np.diff(self.groups, append=len(key_E))
        self.size_E = np.repeat(size, size)
        most = np.maximum.reduceat(self.count_E, self.groups) if len(size) else self.count_E
        self.most_E = np.repeat(most, size)

    def __len__(self) -> int:
        return len(self.per_image_I)

    def match(
        self, captions: Sequence[str], image_N: Sequence[int] | np.ndarray | None = None
    ) -> "Matches":
        """Match N token strings with the references of their images (default: one per image)."""
        image_N = range(len(self)) if image_N is None else image_N
        return Matches(self, captions, np.asarray(image_N, np.int64))


class Matches:
    """The n-grams of captions that occur in the references of their images.

    row_M, entry_M: for each of the M matches, the row of the caption, and the first row of the
    group of references' rows with the same n-gram.
    """

    def __init__(self, references: References, captions: Sequence[str], image_N: np.ndarray):
        if len(captions) != len(image_N):
            raise ValueError(f"{len(captions)} captions of {len(image_N)} images")
        self.references, self.image_N = references, image_N
        self.rows, _ = count(captions, references.numbers)
        chosen_B, local_N = np.unique(image_N, return_inverse=True)
        begin_B = references.begin_I[chosen_B]
        size_B = references.begin_I[chosen_B + 1] - begin_B
        entry = ranges(begin_B, size_B)
        key_E = sort_keys(np.repeat(np.arange(len(chosen_B)), size_B), references.gram_E[entry])
        place, matched = _find(sort_keys(local_N[self.rows.text_M], self.rows.gram_M), key_E)
        self.row_M = np.flatnonzero(matched)
        self.entry_M = entry[place[matched]]

    @cached_property
    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """All pairs (row of a caption, row of a reference) of the same n-gram and image, (P,)."""
        size = self.references.size_E[self.entry_M]
        return np.repeat(self.row_M, size), ranges(self.entry_M, size)
