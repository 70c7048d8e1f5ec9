"""All metrics of a set of captions, under the official names and in the official scale."""

from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any, TypeVar

from captioner.metrics.bleu import bleu
from captioner.metrics.cider import cider
from captioner.metrics.rouge import rouge_l
from captioner.metrics.tokenize import tokenize
from captioner.types import InputError

Id = TypeVar("Id", bound=Hashable)


def score(
    references: Mapping[Id, Sequence[str]], captions: Mapping[Id, str], tokenized: bool = False
) -> dict[str, dict[Any, Any]]:
    """Scores of one caption per image: Bleu_1..4 and ROUGE_L in 0..1, CIDEr (CIDEr-D) in 0..10.

    references, captions: by image id, the same ids in both; raw text, or token strings as the
        official tokenizer writes them if `tokenized`. An empty caption is legal and scores 0.
    Returns {"corpus": {metric: value}, "per_image": {id: {metric: value}}}.
    Raises InputError where ids do not match, references are missing, or there is nothing to score.
    """
    _check(references, captions)
    image_references = [list(references[image]) for image in captions]
    image_captions = list(captions.values())
    if not tokenized:
        image_references = [[_tokens(text) for text in texts] for texts in image_references]
        image_captions = [_tokens(text) for text in image_captions]

    bleu_4, bleu_4B = bleu(image_references, image_captions)
    metrics = {f"Bleu_{n}": both for n, both in enumerate(zip(bleu_4, bleu_4B, strict=True), 1)}
    metrics["ROUGE_L"] = rouge_l(image_references, image_captions)
    metrics["CIDEr"] = cider(image_references, image_captions)

    corpus = {name: float(value) for name, (value, _) in metrics.items()}
    rows = zip(*(value_B.tolist() for _, value_B in metrics.values()), strict=True)
    per_image = {
        image: dict(zip(metrics, row, strict=True))
        for image, row in zip(captions, rows, strict=True)
    }
    return {"corpus": corpus, "per_image": per_image}


def _tokens(text: str) -> str:
    return " ".join(tokenize(text))


def _check(references: Mapping[Id, Sequence[str]], captions: Mapping[Id, str]) -> None:
    if unknown := [image for image in captions if image not in references]:
        raise InputError(
            f"{_some(unknown)} captioned but without references: score against the references "
            "of the same split, with ids of the same type (1 is not '1')"
        )
    if missing := [image for image in references if image not in captions]:
        raise InputError(
            f"{_some(missing)} with references but without a caption: caption every image, "
            "or leave the references of the others out"
        )
    if empty := [image for image in captions if len(references[image]) == 0]:
        raise InputError(f"{_some(empty)} with an empty list of references: leave them out")
    if bare := [image for image in captions if isinstance(references[image], str)]:
        raise InputError(f"{_some(bare)} with one string as references: give a list of strings")
    if not captions:
        raise InputError("no captions to score")


def _some(images: Collection[Hashable]) -> str:
    """The number of images and the first ids."""
    first = ", ".join(repr(image) for image in list(images)[:5])
    return f"{len(images)} image{'s' * (len(images) > 1)} ({first}{', ...' * (len(images) > 5)})"
