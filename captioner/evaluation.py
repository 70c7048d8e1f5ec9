"""A model or a predictions file, and references -> predictions.json and scores.json."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader
from tqdm import tqdm

from captioner.data import EvalBatches, Source
from captioner.metrics import score
from captioner.model import CaptionModel
from captioner.records import Record
from captioner.scenes import Scene, scene_accuracy, true_of
from captioner.search import Strategy
from captioner.types import InputError

Prediction = dict[str, Any]  # {"image_id": .., "caption": ..}, the official COCO results format


def predict(
    model: CaptionModel,
    records: Sequence[Record],
    source: Source,
    strategy: Strategy,
    batch_size: int = 64,
    workers: int = 0,
) -> list[Prediction]:
    """One caption for every record, in their order, with a progress bar on stderr."""
    model.eval()
    batches = EvalBatches(source, [[[]]] * len(records), batch_size, captions=1)
    loader = DataLoader(batches, batch_size=None, num_workers=workers)
    predictions: list[Prediction] = []
    for batch in tqdm(loader, "captions", unit=" batches"):
        numbers = batch.index_B.tolist()
        texts = model.texts(model.generate(batch.images, strategy, numbers))
        for index, (text, _) in zip(numbers, texts):
            predictions.append({"image_id": records[index].id, "caption": text})
    return predictions


def evaluate(
    records: Sequence[Record],
    predictions: Sequence[Prediction],
    scenes: Mapping[int, Scene] | None = None,
) -> dict[str, Any]:
    """{"corpus": {metric: value}, "per_image": {id: {metric: value}}} in the official scale.

    scenes: what the pictures of the embedded data show; with them comes `scene_accuracy`.
    Raises InputError where the predictions are not one for each record.
    """
    said: dict[Any, str] = {}
    for prediction in predictions:
        if prediction["image_id"] in said:
            raise InputError(f"image {prediction['image_id']} has two predictions")
        said[prediction["image_id"]] = prediction["caption"]
    scores = score.score({record.id: list(record.captions) for record in records}, said)
    if scenes is not None:
        scores["corpus"]["scene_accuracy"] = scene_accuracy(said, scenes)
        for image, values in scores["per_image"].items():
            values["scene_accuracy"] = float(true_of(said[image], scenes[image]))
    return scores


def read_predictions(path: Path) -> list[Prediction]:
    """A file in the official COCO results format. Raises InputError naming file and entry."""
    try:
        predictions = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(predictions, list):
        raise InputError(f"{path}: not a list of {{image_id, caption}}")
    for number, entry in enumerate(predictions):
        if not isinstance(entry, dict) or not isinstance(entry.get("caption"), str):
            raise InputError(f"{path}: entry {number} has no caption: {entry!r:.80}")
        if not isinstance(entry.get("image_id"), int | str):
            raise InputError(f"{path}: entry {number} has no image_id: {entry!r:.80}")
    return predictions


def write(folder: Path, predictions: Sequence[Prediction], scores: dict[str, Any]) -> None:
    """predictions.json (official COCO results format) and scores.json."""
    for name, content in (("predictions.json", predictions), ("scores.json", scores)):
        temporary = folder / f"{name}.tmp"
        temporary.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
        temporary.replace(folder / name)
