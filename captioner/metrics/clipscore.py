"""CLIPScore and RefCLIPScore (Hessel et al. 2021), from the embeddings of any model."""

import numpy as np

from captioner.metrics.statistics import Statistics, shares

WEIGHT = 2.5  # stretches the cosines, which hardly exceed 0.4, to about 0..1


def clip_score(
    image_BD: np.ndarray, caption_BD: np.ndarray, reference_RD: np.ndarray, image_R: np.ndarray
) -> Statistics:
    """The statistics of CLIPScore and RefCLIPScore, which are means over B images.

    image_R: the image of each reference; every image has at least one.

    CLIPScore = 2.5 max(cos(caption, image), 0); RefCLIPScore, its harmonic mean with
    max_r max(cos(caption, reference r), 0). Above 1 is possible.
    """
    image_BD, caption_BD, reference_RD = map(_unit, (image_BD, caption_BD, reference_RD))
    score_B = WEIGHT * np.maximum((image_BD * caption_BD).sum(1), 0)
    best_B = np.zeros(len(score_B))
    np.maximum.at(best_B, image_R, (caption_BD[image_R] * reference_RD).sum(1))
    sum_B = score_B + best_B
    reference_score_B = 2 * score_B * best_B / np.where(sum_B > 0, sum_B, 1)
    value_BM = np.column_stack([score_B, reference_score_B])
    return shares(["CLIPScore", "RefCLIPScore"], value_BM, np.ones_like(value_BM))


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = vectors.astype(np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
