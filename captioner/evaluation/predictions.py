"""Predictions: the captions that a model generates for records, and their files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from captioner import distributed
from captioner.data.batches import EvalBatches, Loader, Source
from captioner.data.records import Record
from captioner.errors import InputError, is_encodable, json_field, printable, read_json
from captioner.models.caption_model import CaptionModel
from captioner.progress import with_progress
from captioner.search import Strategy
from captioner.search.constraints import UNCONSTRAINED, Constraints

Prediction = dict[str, Any]
"""{"image_id": .., "caption": ..}, the official COCO results format. Optional entries: "captions",
several, best first; "finished": false, for a caption that was cut off before END."""


def predict(
    model: CaptionModel,
    records: Sequence[Record],
    source: Source,
    strategy: Strategy,
    batch_size: int = 64,
    workers: int = 0,
    constraints: Constraints = UNCONSTRAINED,
) -> list[Prediction]:
    """Caption every record, in their order, with a progress bar on stderr.

    If the strategy gives several captions per image, all are kept beside the best one. Several
    processes share the pictures, and each gets all predictions. Raises InputError naming the
    records for which `constraints` leave no caption.
    """
    model.eval()
    rank, world = distributed.rank(), distributed.world()
    batches = EvalBatches(source, [[]] * len(records), batch_size, 1, rank, world)
    loader = Loader(batches, workers=workers)
    results: dict[int, Prediction | str] = {}
    for batch in with_progress(loader, "captions", len(loader), "batches", rank == 0):
        numbers = batch.index_B.tolist()
        captions = model.generate(batch.images, strategy, numbers, constraints)
        ended_B = captions.ended_BK[:, 0].tolist()
        best_first = model.texts(captions)
        for number, several, ended, error in zip(numbers, best_first, ended_B, captions.error_B):
            image = records[number].id
            if error is not None:
                results[number] = f"{image}: {error}"
                continue
            entry = {"image_id": image, "caption": several[0].caption}
            entry |= {} if ended else {"finished": False}
            if len(several) > 1:
                entry["captions"] = [hypothesis.caption for hypothesis in several]
            results[number] = entry
    for of_process in distributed.gather(results):
        results |= of_process
    in_order = [results[number] for number in range(len(records))]
    if errors := [error for error in in_order if isinstance(error, str)]:
        shown = errors[:10] + [f"and {len(errors) - 10} more"] * (len(errors) > 10)
        message = "no caption for these images; relax the constraints:"
        raise InputError("\n  ".join([message, *shown]))
    return [entry for entry in in_order if not isinstance(entry, str)]


def read_predictions(path: Path) -> list[Prediction]:
    """Read a file in the official COCO results format. Raises InputError naming file and entry."""
    predictions = read_json(path)
    if not isinstance(predictions, list):
        raise InputError(f"{printable(path)}: not a list of {{image_id, caption}}: make it one")
    seen: set[Any] = set()
    for number, entry in enumerate(predictions):
        place = f"{printable(path)}: entry {number}"
        json_field(entry, "caption", (str,), place)
        json_field(entry, "image_id", (int, str), place)
        image = entry["image_id"]
        if image in seen:
            raise InputError(f"{place}: image {image} has two predictions: take one out")
        texts = entry.get("captions", [])
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise InputError(f"{place}: captions is {texts!r:.80}; it must be a list of strings")
        for text in (entry["caption"], *texts):
            if not is_encodable(text):
                raise InputError(f"{place}: half a character in {text!r:.80}; mend it")
        if not isinstance(entry.get("finished", True), bool):
            raise InputError(f"{place}: finished is {entry['finished']!r:.80}; true or false")
        seen.add(image)
    return predictions
