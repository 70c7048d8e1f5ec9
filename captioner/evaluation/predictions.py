"""What a model says of records, and files of that: predictions.json."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from captioner import distributed, files
from captioner.data.batches import EvalBatches, Source
from captioner.data.loader import Loader
from captioner.data.records import Record
from captioner.errors import InputError
from captioner.models.caption_model import CaptionModel
from captioner.search import Strategy
from captioner.search.constraints import UNCONSTRAINED, Constraints

Prediction = dict[str, Any]
"""{"image_id": .., "caption": ..}, the official COCO results format. Besides, where there are such:
"captions", several, best first; "finished": false, of a caption that was cut off before END."""


def predict(
    model: CaptionModel,
    records: Sequence[Record],
    source: Source,
    strategy: Strategy,
    batch_size: int = 64,
    workers: int = 0,
    wording: Constraints = UNCONSTRAINED,
) -> list[Prediction]:
    """One caption for every record, in their order, with a progress bar on stderr.

    Where the strategy gives several of an image, all are kept, besides the best one.
    Where there are several processes they share the pictures, and each gets all the captions.
    Raises InputError naming the records for which `wording` leaves no caption.
    """
    model.eval()
    share = distributed.rank(), distributed.world()
    batches = EvalBatches(source, [[]] * len(records), batch_size, 1, *share)
    loader = Loader(batches, workers=workers)
    said: dict[int, Prediction] = {}
    errors: dict[int, str] = {}
    for batch in tqdm(loader, "captions", unit=" batches", disable=distributed.rank() > 0):
        numbers = batch.index_B.tolist()
        captions = model.generate(batch.images, strategy, numbers, wording)
        ended_B = captions.ended_BK[:, 0].tolist()
        texts = model.texts(captions)
        for number, found, ended, error in zip(numbers, texts, ended_B, captions.error_B):
            if error is None:
                entry = {"image_id": records[number].id, "caption": found[0].caption}
                entry |= {} if ended else {"finished": False}
                if len(found) > 1:
                    entry["captions"] = [one.caption for one in found]
                said[number] = entry
            else:
                errors[number] = f"{records[number].id}: {error}"
    for part, failed in distributed.gather((said, errors)):
        said |= part
        errors |= failed
    if errors:
        lines = [errors[number] for number in sorted(errors)]
        shown = [*lines[:10], *([f"and {len(lines) - 10} more"] if len(lines) > 10 else [])]
        raise InputError("no caption for these images; relax `wording`:\n  " + "\n  ".join(shown))
    return [said[number] for number in range(len(records))]


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
        texts = entry.get("captions", [])
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise InputError(f"{where}: captions is {texts!r:.80}; it must be a list of strings")
        for text in (entry["caption"], *texts):
            if not text.isascii() and re.search("[\ud800-\udfff]", text):
                raise InputError(f"{where}: half a character in {text!r:.80}; mend it")
        if not isinstance(entry.get("finished", True), bool):
            raise InputError(f"{where}: finished is {entry['finished']!r:.80}; true or false")
        seen.add(image)
    return predictions


def write_predictions(folder: Path, predictions: Sequence[Prediction]) -> None:
    """predictions.json."""
    files.make_folder(folder)
    files.write_atomic(
        folder / "predictions.json", json.dumps(predictions, ensure_ascii=False, indent=1)
    )
