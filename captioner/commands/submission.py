"""`python -m captioner.commands.submission NAME OUT.zip --split ...`: what the COCO server takes.

The COCO caption server takes one zip with captions_val2014_NAME_results.json and
captions_test2014_NAME_results.json, one caption for every image of each.
"""

import argparse
import io
import json
import re
import sys
import zipfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from captioner import files
from captioner.errors import InputError
from captioner.evaluation import predictions
from captioner.evaluation.predictions import Prediction

SPLITS = {"val2014", "test2014"}


def write_submission(
    path: Path, name: str, splits: Mapping[str, tuple[Sequence[Prediction], Collection[int]]]
) -> None:
    """Writes the zip. splits: by name, the predictions and the ids of all images of the split.

    Raises InputError naming ids without a prediction, and predictions of other images.
    """
    if not re.fullmatch(r"[A-Za-z0-9-]+", name):
        raise InputError(f"{name!r}: the server takes letters, digits and hyphens as a name")
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for split, (said, wanted) in splits.items():
            have = {entry["image_id"] for entry in said}
            for ids, what in (
                (set(wanted) - have, "without a prediction"),
                (have - set(wanted), "predicted but not of this split"),
            ):
                if ids:
                    raise InputError(
                        f"{split}: {len(ids)} images {what}: {_first(ids)} (1 is not '1')"
                    )
            rows = [{"image_id": entry["image_id"], "caption": entry["caption"]} for entry in said]
            archive.writestr(f"captions_{split}_{name}_results.json", json.dumps(rows))
    files.write_atomic(path, content.getvalue())


def image_ids(path: Path) -> list[int]:
    """Of COCO's image_info or caption files. Raises InputError naming the file."""
    try:
        ids = [image["id"] for image in json.loads(path.read_text("utf-8"))["images"]]
        if not all(type(image) is int for image in ids) or len(set(ids)) < len(ids):
            raise ValueError("ids must be whole numbers, each once")
        return ids
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path}: no list of images with ids ({error!r}): copy it again"
        ) from error


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns 0, or 2 for an error."""
    parser = argparse.ArgumentParser(
        "captioner.commands.submission", description="The zip that the COCO caption server takes."
    )
    parser.add_argument("name", help="of the algorithm")
    parser.add_argument("zip", type=Path, metavar="OUT.zip")
    parser.add_argument(
        "--split",
        nargs=3,
        action="append",
        required=True,
        metavar=("SPLIT", "PREDICTIONS", "IMAGES"),
        help="val2014 or test2014, predictions.json, and captions_val2014.json or "
        "image_info_test2014.json, whose ids must all be there",
    )
    options = parser.parse_args(argv)
    try:
        given = [split for split, _, _ in options.split]
        if not set(given) <= SPLITS or len(set(given)) < len(given):
            raise InputError(f"--split {', '.join(given)}: give each of val2014, test2014 once")
        splits = {
            split: (predictions.read_predictions(Path(said)), image_ids(Path(images)))
            for split, said, images in options.split
        }
        write_submission(options.zip, options.name, splits)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{', '.join(splits)} are in {options.zip}")
    for split in SPLITS - set(splits):
        print(f"note: the server wants {split} as well", file=sys.stderr)
    return 0


def _first(ids: Collection[object]) -> str:
    first = sorted(ids, key=lambda one: (str(type(one)), one))[:5]  # 1 and "1" are not the same
    return ", ".join(map(repr, first)) + (", ..." if len(ids) > 5 else "")


if __name__ == "__main__":
    sys.exit(main())
