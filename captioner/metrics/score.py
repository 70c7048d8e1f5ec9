"""Metrics of captions against references by name, under the official names and scale."""

import math
import warnings
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from captioner.errors import InputError
from captioner.metrics.bleu import bleu
from captioner.metrics.cider import Cider, DocumentFrequencies
from captioner.metrics.meteor import meteor
from captioner.metrics.ngrams import NOTHING, Matches, References
from captioner.metrics.rouge import rouge_l
from captioner.metrics.spice import spice
from captioner.metrics.statistics import Statistics, mean
from captioner.metrics.tokenize import token_strings, without_blanks

Id = TypeVar("Id", bound=Hashable)


@dataclass
class Texts:
    """The references and captions of B images as token strings; counted when first needed."""

    references: Sequence[Sequence[str]]
    captions: Sequence[str]
    frequencies: DocumentFrequencies | None = None

    @cached_property
    def matches(self) -> Matches:
        """The n-grams of the captions that occur in their references."""
        known = self.frequencies.numbers if self.frequencies else NOTHING
        return References(self.references, known).match(self.captions)

    def cider(self, name: str, plain: bool = False) -> Statistics:
        """The statistics of CIDEr-D, or of plain CIDEr."""
        return mean(name, Cider(self.matches.references, self.frequencies, plain)(self.matches))


METRICS: dict[str, Callable[[Texts], Statistics]] = {
    "bleu": lambda texts: bleu(texts.matches),
    "rouge": lambda texts: rouge_l(texts.references, texts.captions),
    "cider": lambda texts: texts.cider("CIDEr"),
    "cider_plain": lambda texts: texts.cider("CIDEr_plain", plain=True),
    "meteor": lambda texts: meteor(texts.references, texts.captions),
    "spice": lambda texts: spice(texts.references, texts.captions),
}
"""By the names that eval.py takes. The official CIDEr is CIDEr-D."""

USUAL = ("bleu", "rouge", "cider")


def score(
    references: Mapping[Id, Sequence[str]],
    captions: Mapping[Id, str],
    metrics: Sequence[str] = USUAL,
    tokenizer: str = "ptb",
) -> dict[str, dict[Any, Any]]:
    """Scores of one caption per image: Bleu_1..4 and ROUGE_L in 0..1, CIDEr (CIDEr-D) in 0..10.

    references, captions: raw text by image id, the same ids in both. An empty caption scores 0.
    tokenizer: a name in tokenize.TOKENIZERS; the official one, ptb, is for English.
    Returns {"corpus": {metric: value}, "per_image": {id: {metric: value}}}.
    Raises InputError if ids do not match, references are missing, or there is nothing to score.
    """
    check_names(metrics)
    check_matching(references, captions)
    raw = [references[image] for image in captions], list(captions.values())
    texts = tokens(*raw, tokenizer=tokenizer)
    scores = [METRICS[name](texts) for name in metrics]
    return {
        "corpus": {name: value for metric in scores for name, value in metric.corpus().items()},
        "per_image": per_image(list(captions), scores),
    }


def tokens(
    references: Sequence[Sequence[str]],
    captions: Sequence[str],
    frequencies: DocumentFrequencies | None = None,
    official: bool = False,
    tokenizer: str = "ptb",
) -> Texts:
    """Tokenize raw references and captions; official, tokenizer: see tokenize.token_strings.

    Warns if ptb makes one word of most references, since they have no blanks. Raises InputError if
    the frequencies are of other tokens.
    """
    if frequencies is not None:
        frequencies.check_tokenizer(tokenizer)
    texts = [text for texts in references for text in texts]
    if tokenizer == "ptb" and 2 * (joined := without_blanks(texts)) > len(texts):
        warnings.warn(
            f"{joined} of {len(texts)} references have no blanks between words, and the official "
            "tokenizer is for English: each is one word. Give metrics_tokenizer=char, or none if "
            "tokens are set apart by blanks",
            stacklevel=2,
        )
    strings = iter(token_strings(texts, official, tokenizer))
    split = [[next(strings) for _ in texts] for texts in references]
    return Texts(split, token_strings(captions, official, tokenizer), frequencies)


def per_image(images: Sequence[Id], scores: Sequence[Statistics]) -> dict[Id, dict[str, float]]:
    """The scores of each image, {id: {metric: value}}."""
    names = [name for metric in scores for name in metric.names]
    rows = [metric.per_image().tolist() for metric in scores]
    return {
        image: dict(zip(names, (value for row in rows for value in row[b]), strict=True))
        for b, image in enumerate(images)
    }


def headline(scores: Mapping[str, Any]) -> float:
    """The one number to compare runs by: CIDEr, else the first metric with a value, else nan."""
    values = [scores["corpus"].get("CIDEr"), *scores["corpus"].values()]
    return float(next((value for value in values if value is not None), math.nan))


def check_names(metrics: Sequence[str]) -> None:
    """Raise InputError for an unknown metric, or one that needs more than these texts."""
    if isinstance(metrics, str) or (unknown := [name for name in metrics if name not in METRICS]):
        wrong = metrics if isinstance(metrics, str) else ", ".join(unknown)
        raise InputError(f"metrics {wrong}: give a list of some of {', '.join(METRICS)}")


def check_matching(references: Mapping[Id, Sequence[str]], captions: Mapping[Id, str]) -> None:
    """Raise InputError naming images, unless each has a caption and a list of references."""
    if unknown := [image for image in captions if image not in references]:
        raise InputError(
            f"{list_images(unknown)} captioned but without references: score against the "
            "references of the same split, with ids of the same type (1 is not '1')"
        )
    if missing := [image for image in references if image not in captions]:
        raise InputError(
            f"{list_images(missing)} with references but without a caption: caption every image, "
            "or leave the references of the others out"
        )
    if empty := [image for image in captions if len(references[image]) == 0]:
        raise InputError(f"{list_images(empty)} with an empty list of references: leave them out")
    if bare := [image for image in captions if isinstance(references[image], str)]:
        raise InputError(f"{list_images(bare)} with a string as references: give a list of strings")
    if not captions:
        raise InputError("no captions to score")


def list_images(images: Collection[Hashable]) -> str:
    """The number of images and their first ids, for a message."""
    first = ", ".join(repr(image) for image in list(images)[:5])
    return f"{len(images)} image{'s' * (len(images) > 1)} ({first}{', ...' * (len(images) > 5)})"
