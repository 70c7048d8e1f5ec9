"""The zip that the COCO caption server takes: a caption for every image of its two splits."""

import io
import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from captioner import files
from captioner.errors import InputError, json_field, json_items, printable, read_json
from captioner.evaluation.predictions import Prediction, read_predictions
from captioner.metrics.score import list_images

SPLITS = ("val2014", "test2014")


def read_splits(given: Sequence[tuple[str, str, str]]) -> dict[str, list[Prediction]]:
    """The predictions of a submission from (split, predictions file, images file) each.

    Raises InputError for an unknown or repeated split, naming a file that cannot be read, and
    naming images of the split without a prediction, or predictions for other images.
    """
    names = [name for name, _, _ in given]
    if not set(names) <= set(SPLITS) or len(set(names)) < len(names):
        raise InputError(f"--split {', '.join(names)}: give each of {', '.join(SPLITS)} once")
    splits = {}
    for name, predictions, images in given:
        splits[name] = read_predictions(Path(predictions))
        predicted = {prediction["image_id"] for prediction in splits[name]}
        entries = json_items(read_json(Path(images)), "images", printable(images))
        image_ids = {json_field(entry, "id", (int,), place) for place, entry in entries}
        for ids, problem in (
            (image_ids - predicted, "without a prediction"),
            (predicted - image_ids, "predicted but not of this split"),
        ):
            if ids:
                shown = list_images(sorted(ids, key=lambda image: (str(type(image)), image)))
                raise InputError(f"{name}: {shown} {problem} (1 is not '1')")
    return splits


def write_submission(path: Path, name: str, splits: Mapping[str, Sequence[Prediction]]) -> None:
    """Write the zip. name: of the algorithm. splits: predictions by the names of the splits."""
    if not re.fullmatch(r"[A-Za-z0-9-]+", name):
        raise InputError(f"{name!r}: the server takes letters, digits and hyphens as a name")
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for split, predictions in splits.items():
            rows = [{key: entry[key] for key in ("image_id", "caption")} for entry in predictions]
            archive.writestr(f"captions_{split}_{name}_results.json", json.dumps(rows))
    files.write_atomic(path, content.getvalue())
