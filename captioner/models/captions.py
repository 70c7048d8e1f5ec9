"""What a captioner returns: captions as text, with their scores and what else is known of them."""

from collections.abc import Sequence
from typing import NamedTuple


class Hypothesis(NamedTuple):
    """A caption, the score it was ranked by, its log-probability, and on request its tokens with
    their log-probabilities."""

    caption: str
    score: float
    log_prob: float
    tokens: list[tuple[str, float]] | None = None


class SureConcept(NamedTuple):
    """The words of a concept, and its probability."""

    words: list[str]
    probability: float


class Caption(NamedTuple):
    """The result for one picture: a caption and its score, or the error that prevented it.

    path: "picture 1" and so on for pictures that have none. hypotheses: all captions that the
    search returned for it, best first. forced: the concept that guided search made them name.
    """

    path: str
    caption: str | None
    score: float | None
    error: str | None = None
    hypotheses: Sequence[Hypothesis] = ()
    forced: SureConcept | None = None
