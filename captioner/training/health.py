"""Whether the captions of a model in training are still language: self-critical training can spoil
them while their reward rises (endings in "with a", one sentence for every picture)."""

from collections.abc import Mapping, Sequence

from captioner.metrics.language import language, variety
from captioner.metrics.tokenize import token_strings

MOST = {
    "bad_endings": (0.05, 'end in the middle of a phrase ("with a")'),
    "unfinished": (0.05, "were cut off before END"),
    "repeated_words": (0.05, "say a word twice in a row"),
    "unknown_words": (0.05, "is the share of unknown words in captions"),
}
LEAST_UNIQUE = 0.1
"""Fewer different captions than this share are a collapse; of few pictures it says nothing."""


def health_of(captions: Sequence[str], finished: Sequence[bool]) -> dict[str, float]:
    """The language of raw captions: words, bad_endings, repeated_words, unknown_words, unfinished,
    unique, vocabulary (captioner/metrics/language.py)."""
    texts = token_strings(captions)
    whole = variety(texts)
    found = language(texts, finished=finished).corpus()
    return found | {name: whole[name] for name in ("unique", "vocabulary")}


def ailments(health: Mapping[str, float]) -> list[str]:
    """What is wrong, in words, one line each; nothing where all is well."""
    lines = [
        f"unhealthy: {100 * health[name]:.0f} % {what}"
        for name, (most, what) in MOST.items()
        if health[name] > most
    ]
    if health["unique"] < LEAST_UNIQUE:
        lines.append(
            f"unhealthy: of all captions only {100 * health['unique']:.0f} % are different ones"
        )
    if health["words"] < 3:
        lines.append(f"unhealthy: captions have {health['words']:.1f} words on average")
    return lines
