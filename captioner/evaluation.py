"""Predictions and references -> scores: metrics by name, intervals, and how they came about."""

import hashlib
import json
import math
import platform
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from captioner import files, likelihood
from captioner.clip import Embedder
from captioner.data import Source
from captioner.metrics import bootstrap, score, tokenize
from captioner.metrics.chair import chair
from captioner.metrics.cider import DocumentFrequencies
from captioner.metrics.clipscore import clip_score
from captioner.metrics.language import language, sameness, variety
from captioner.metrics.sums import Sums, as_text
from captioner.model import CaptionModel
from captioner.predictions import Prediction
from captioner.records import Record
from captioner.scenes import Scene, truth
from captioner.types import InputError, Unavailable

RESAMPLES = 1000
Result = tuple[list[Sums], dict[str, float]]
"""Metrics that are sums over images, and metrics of the whole, which have no interval."""


class Case:
    """Captions, and all that metrics may need; what there is not is None.

    predictions: one for each record. official: as the official tokenizer reads a caption's end.
    frequencies: document frequencies for CIDEr, by default of these references. training: raw
    captions, to tell which are novel. scenes, objects: what pictures show, by image id. embedder:
    for CLIPScore. model, source: whose predictions these are, and its pictures.
    Raises InputError, naming images, where predictions and records do not match.
    """

    def __init__(
        self,
        records: Sequence[Record],
        predictions: Sequence[Prediction],
        *,
        official: bool = False,
        frequencies: DocumentFrequencies | None = None,
        training: Sequence[str] | None = None,
        scenes: Mapping[Any, Scene] | None = None,
        objects: Mapping[Any, frozenset[str]] | None = None,
        embedder: Embedder | None = None,
        model: CaptionModel | None = None,
        source: Source | None = None,
    ):
        of_image: dict[Any, Prediction] = {}
        for prediction in predictions:
            if prediction["image_id"] in of_image:
                raise InputError(f"image {prediction['image_id']} has two predictions")
            of_image[prediction["image_id"]] = prediction
        score.check(
            {record.id: record.captions for record in records},
            {image: prediction["caption"] for image, prediction in of_image.items()},
        )
        self.records, self.predictions = records, [of_image[record.id] for record in records]
        self.official, self.frequencies, self.training = official, frequencies, training
        self.scenes, self.objects, self.embedder = scenes, objects, embedder
        self.model, self.source = model, source

    @cached_property
    def texts(self) -> score.Texts:
        """References and captions as token strings."""
        return score.tokens(
            [record.captions for record in self.records],
            self.captions,
            self.frequencies,
            self.official,
        )

    @property
    def captions(self) -> list[str]:
        """Raw, in the order of the records."""
        return [prediction["caption"] for prediction in self.predictions]

    def of_image(self, table: Mapping[Any, Any] | None, name: str) -> list[Any]:
        """An entry for each record. Raises Unavailable, naming the option that gives them."""
        if table is None:
            raise Unavailable(f"give {name}")
        if lacking := [record.id for record in self.records if record.id not in table]:
            raise Unavailable(f"{name} does not have {score.some(lacking)}")
        return [table[record.id] for record in self.records]


def _of_texts(name: str) -> Callable[[Case], Result]:
    return lambda case: ([score.METRICS[name](case.texts)], {})


def _language(case: Case) -> Result:
    finished = [prediction.get("finished", True) for prediction in case.predictions]
    known = case.model is not None or any("finished" in one for one in case.predictions)
    training = None if case.training is None else tokenize.token_strings(case.training)
    found = [language(case.texts.captions, training, finished if known else None)]
    several = [prediction.get("captions", []) for prediction in case.predictions]
    if min(map(len, several)) > 1:
        found += sameness([tokenize.token_strings(captions) for captions in several])
    unknown = {"novel": training is None, "unfinished": not known}
    nothing = {name: math.nan for name, lacks in unknown.items() if lacks}
    return found, variety(case.texts.captions) | nothing


def _chair(case: Case) -> Result:
    objects_B = case.of_image(case.objects, "objects=INSTANCES.json, COCO's instance annotations")
    return [chair(case.texts.references, case.texts.captions, objects_B)], {}


def _scenes(case: Case) -> Result:
    return [truth(case.captions, case.of_image(case.scenes, "data=scenes"))], {}


def _clip(case: Case) -> Result:
    if case.embedder is None:
        raise Unavailable("give clip.name=ViT-B-32 clip.weights=openai, or a file of weights")
    paths, captions = [record.image for record in case.records], case.captions
    references = [text for record in case.records for text in record.captions]
    image_R = np.repeat(np.arange(len(paths)), [len(record.captions) for record in case.records])

    def all_of(embed: Callable[[Sequence[Any]], np.ndarray], items: Sequence[Any]) -> np.ndarray:
        parts = (items[start : start + 64] for start in range(0, len(items), 64))
        return np.concatenate([embed(part) for part in parts])

    embedder = case.embedder
    texts = all_of(embedder.texts, captions), all_of(embedder.texts, references)
    return [clip_score(all_of(embedder.images, paths), *texts, image_R)], {}


def _perplexity(case: Case) -> Result:
    model, source = _model(case)
    return [likelihood.perplexity(model, case.records, source)], {}


def _retrieval(case: Case) -> Result:
    model, source = _model(case)
    sums, whole = likelihood.retrieval(model, case.records, source)
    return [sums], whole


def _model(case: Case) -> tuple[CaptionModel, Source]:
    if case.model is None or case.source is None:
        raise Unavailable("give model=DIR: predictions alone have no probabilities")
    return case.model, case.source


METRICS: dict[str, Callable[[Case], Result]] = {
    **{name: _of_texts(name) for name in score.METRICS},
    "language": _language,
    "chair": _chair,
    "scenes": _scenes,
    "clip": _clip,
    "perplexity": _perplexity,
    "retrieval": _retrieval,
}
"""By the names that eval.py takes."""


SHARED = ("perplexity", "retrieval")
"""Those in whose work several processes take a share: all of them must ask."""


def check_names(metrics: Sequence[str]) -> None:
    """Raises InputError for a metric that there is not."""
    if unknown := [name for name in metrics if name not in METRICS]:
        raise InputError(f"metrics={list(unknown)}: give some of {', '.join(METRICS)}")


def evaluate(
    case: Case, metrics: Sequence[str] = score.USUAL, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Scores in their official scale, with 95 % intervals where `resamples` is not 0.

    {"corpus": {metric: value}, "intervals": {metric: [low, high]}, "unavailable": {name: what it
    needs}, "per_image": {id: {metric: value}}}; what has no value is None.
    """
    check_names(metrics)
    sums: list[Sums] = []
    whole: dict[str, float] = {}
    unavailable: dict[str, str] = {}
    for name in metrics:
        try:
            parts, values = METRICS[name](case)
        except Unavailable as error:
            unavailable[name] = str(error)
            continue
        sums += parts
        whole |= values
    images = [record.id for record in case.records]
    intervals = bootstrap.intervals(sums, resamples, seed) if sums and resamples else {}
    corpus = {name: value for metric in sums for name, value in metric.corpus().items()} | whole
    return {
        "corpus": {name: _or_none(value) for name, value in corpus.items()},
        "intervals": {name: [*map(_or_none, pair)] for name, pair in intervals.items()},
        "unavailable": unavailable,
        "per_image": {
            image: {name: _or_none(value) for name, value in values.items()}
            for image, values in score.per_image(images, sums).items()
        },
    }


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def origin(case: Case, **options: Any) -> dict[str, Any]:
    """What a number can be traced by: versions, command, options, digests of what was scored."""
    references = [[record.id, *record.captions] for record in case.records]
    predictions = [[p["image_id"], p["caption"]] for p in case.predictions]
    packages = ("captioner", "torch", "numpy")
    return {
        "command": shlex.join(sys.argv),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {
            **{name: version(name) for name in packages},
            "python": platform.python_version(),
            "tokenizer": tokenize.VERSION,
        },
        "images": len(references),
        "captions": sum(len(record.captions) for record in case.records),
        "sha256": {"references": _digest(references), "predictions": _digest(predictions)},
        "options": options,
    }


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, ensure_ascii=True).encode()).hexdigest()


def table(scores: Mapping[str, Any], title: str) -> Table:
    """For a terminal: a line for each metric, x 100 where it is a share or a score."""
    found = Table(box=box.SIMPLE, pad_edge=False, title=title, title_justify="left")
    for name in ("metric", "value", "95 % interval"):
        found.add_column(name, justify="left" if name == "metric" else "right")
    for name, value in scores["corpus"].items():
        low, high = scores["intervals"].get(name, (None, None))
        interval = "" if low is None else f"{as_text(name, low)} to {as_text(name, high)}"
        found.add_row(name, as_text(name, value), interval)
    for name, reason in scores["unavailable"].items():
        found.add_row(name, "-", f"unavailable: {reason}")
    return found


def headline(scores: Mapping[str, Any]) -> float:
    """The one number to compare runs by: CIDEr, or else the first metric that has a value."""
    corpus = scores["corpus"]
    values = [corpus.get("CIDEr"), *corpus.values()]
    return float(next((value for value in values if value is not None), math.nan))


def write(folder: Path, scores: Mapping[str, Any]) -> None:
    """scores.json."""
    files.make_folder(folder)
    files.write(folder / "scores.json", json.dumps(scores, ensure_ascii=False, indent=1))
