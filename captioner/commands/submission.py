"""`captioner submission NAME OUT.zip --split ...`: the zip that the COCO caption server takes."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from captioner.console import note, say
from captioner.errors import printable

DESCRIPTION = "Write the zip that the COCO caption server takes."


def add_options(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="of the algorithm")
    parser.add_argument("zip", type=Path, metavar="OUT.zip", help="the file to write")
    parser.add_argument(
        "--split", nargs=3, action="append", required=True,
        metavar=("SPLIT", "PREDICTIONS", "IMAGES"),
        help="val2014 or test2014, predictions.json, and captions_val2014.json or "
        "image_info_test2014.json, which lists the images to predict",
    )  # fmt: skip


def run(options: Namespace) -> None:
    from captioner.evaluation import submission

    splits = submission.read_splits(options.split)
    submission.write_submission(options.zip, options.name, splits)
    say(f"{', '.join(splits)} are in {printable(options.zip)}")
    for split in submission.SPLITS:
        if split not in splits:
            note(f"note: the server wants {split} as well")
