"""ROUGE-L (Lin 2004, sentence level), as the official COCO evaluation computes it."""

from collections.abc import Sequence

import numpy as np

from captioner.metrics.statistics import Statistics, mean

BETA = 1.2


def rouge_l(references: Sequence[Sequence[str]], captions: Sequence[str]) -> Statistics:
    """The statistics of ROUGE-L (0 to 1), the mean over images.

    references, captions: token strings, several and one per image. They are split at spaces alone:
    a token with a no-break space inside is one word here, and an empty string is one empty word.

    F = (1 + beta^2) P R / (R + beta^2 P) with P = LCS / words of the caption and
    R = LCS / words of the reference, each the best over the references, not always of the same one.
    """
    score_B = np.zeros(len(captions))
    for b, (caption, image_references) in enumerate(zip(captions, references, strict=True)):
        words = caption.split(" ")
        positions: dict[str, int] = {}  # of each word in the caption, one bit each
        for i, word in enumerate(words):
            positions[word] = positions.get(word, 0) | 1 << i
        split_references = [reference.split(" ") for reference in image_references]
        common = [_lcs(positions, len(words), reference) for reference in split_references]
        precision = max(common) / len(words)
        recall = max(c / len(r) for c, r in zip(common, split_references, strict=True))
        if precision > 0:
            score_B[b] = (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)
    return mean("ROUGE_L", score_B)


def _lcs(positions: dict[str, int], length: int, words: list[str]) -> int:
    """Length of the longest common subsequence, one row of the table per operation.

    Bit i of `row` is 0 where the i-th column of the dynamic programme steps up by one, so the
    length is the number of zeros (Hyyro 2004, "Bit-parallel LCS-length computation revisited").
    """
    row = mask = (1 << length) - 1
    for word in words:
        if hits := row & positions.get(word, 0):
            row = (row + hits | row - hits) & mask
    return length - row.bit_count()
