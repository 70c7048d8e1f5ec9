"""A model or a predictions file, and references -> predictions.json and scores.json."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from captioner import files, processes
from captioner.data import EvalBatches, Loader, Source
from captioner.metrics import score
from captioner.model import CaptionModel
from captioner.records import Record
from captioner.scenes import Scene, scene_accuracy, true_of
from captioner.search import Strategy
from captioner.types import InputError
from captioner.wording import PLAIN, Wording

Prediction = dict[str, Any]  # {"image_id": .., "caption": ..}, the official COCO results format


def predict(
    model: CaptionModel,
    records: Sequence[Record],
    source: Source,
    strategy: Strategy,
    batch_size: int = 64,
    workers: int = 0,
    wording: Wording = PLAIN,
) -> list[Prediction]:
    """One caption for every record, in their order, with a progress bar on stderr.

    Where there are several processes they share the pictures, and each gets all the captions.
    Raises InputError naming the records for which `wording` leaves no caption.
    """
    model.eval()
    share = processes.rank(), processes.world()
    batches = EvalBatches(source, [[]] * len(records), batch_size, 1, *share)
    loader = Loader(batches, workers=workers)
    said: dict[int, str] = {}
    errors: dict[int, str] = {}
    for batch in tqdm(loader, "captions", unit=" batches", disable=processes.rank() > 0):
        numbers = batch.index_B.tolist()
        captions = model.generate(batch.images, strategy, numbers, wording)
        for number, found, error in zip(numbers, model.texts(captions), captions.error_B):
            if error is None:
                said[number] = found[0].caption
            else:
                errors[number] = f"{records[number].id}: {error}"
    for part, failed in processes.gather((said, errors)):
        said |= part
        errors |= failed
    if errors:
        lines = [errors[number] for number in sorted(errors)]
        shown = [*lines[:10], *([f"and {len(lines) - 10} more"] if len(lines) > 10 else [])]
        raise InputError("no caption for these images; relax `wording`:\n  " + "\n  ".join(shown))
    return [{"image_id": record.id, "caption": said[i]} for i, record in enumerate(records)]


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
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: not readable as JSON: {error}; mend it, or copy it again"
        ) from error
    if not isinstance(predictions, list):
        raise InputError(f"{path}: not a list of {{image_id, caption}}: make it one")
    seen: set[Any] = set()
    for number, entry in enumerate(predictions):
        where = f"{path}: entry {number}"
        if not isinstance(entry, dict) or not isinstance(entry.get("caption"), str):
            raise InputError(f"{where} has no caption: {entry!r:.80}; add it")
        image = entry.get("image_id")
        if type(image) not in (int, str):
            raise InputError(f"{where} has no image_id: {entry!r:.80}; add it")
        if image in seen:
            raise InputError(f"{where}: image {image} has two predictions: take one out")
        if not entry["caption"].isascii() and re.search("[\ud800-\udfff]", entry["caption"]):
            raise InputError(f"{where}: half a character in {entry['caption']!r:.80}; mend it")
        seen.add(image)
    return predictions


def write(
    folder: Path,
    predictions: Sequence[Prediction],
    scores: dict[str, Any],
) -> None:
    """predictions.json (official COCO results format) and scores.json."""
    files.make_folder(folder)
    for name, content in (("predictions.json", predictions), ("scores.json", scores)):
        files.write(folder / name, json.dumps(content, ensure_ascii=False, indent=1))
