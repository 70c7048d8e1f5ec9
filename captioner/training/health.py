"""Whether the captions of a model in training are still language: self-critical training can spoil
them while their reward rises (endings in "with a", one sentence for every picture)."""

from collections.abc import Mapping, Sequence

from captioner.metrics.language import language, variety
from captioner.metrics.tokenize import token_strings

LIMITS = {
    "bad_endings": (0.05, 'end in the middle of a phrase ("with a")'),
    "unfinished": (0.05, "were cut off before END"),
    "repeated_words": (0.05, "say a word twice in a row"),
    "unknown_words": (0.05, "is the share of unknown words in captions"),
}
LEAST_UNIQUE = 0.1
"""A smaller share of different captions is a collapse; it means little for few pictures."""


def health_of(
    captions: Sequence[str], finished: Sequence[bool], metrics_tokenizer: str = "ptb"
) -> dict[str, float]:
    """Measures of raw captions' language: words, bad_endings, repeated_words, unknown_words,
    unfinished, unique, vocabulary (see captioner/metrics/language.py)."""
    texts = token_strings(captions, tokenizer=metrics_tokenizer)
    health, numbers = language(texts, finished=finished).corpus(), variety(texts)
    return health | {name: numbers[name] for name in ("unique", "vocabulary")}


def warnings_of(health: Mapping[str, float]) -> list[str]:
    """Warnings, one line each, about the numbers of `health_of` that are beyond their limits."""
    lines = [
        f"unhealthy: {100 * health[name]:.0f} % {message}"
        for name, (limit, message) in LIMITS.items()
        if health[name] > limit
    ]
    if (share := health["unique"]) < LEAST_UNIQUE:
        lines.append(f"unhealthy: of all captions only {100 * share:.0f} % are different ones")
    if health["words"] < 3:
        lines.append(f"unhealthy: captions have {health['words']:.1f} words on average")
    return lines
