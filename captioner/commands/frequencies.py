"""`python -m captioner.commands.frequencies CAPTIONS TABLE`: document frequencies, for CIDEr."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from captioner.errors import InputError
from captioner.evaluation.frequencies import read_frequencies


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns 0, or 2 for an error."""
    parser = argparse.ArgumentParser(
        "captioner.commands.frequencies",
        description="Document frequencies of a corpus, to score CIDEr with: eval.py corpus=TABLE.",
    )
    parser.add_argument("captions", type=Path, help="a caption file: COCO or Karpathy JSON, tokens")
    parser.add_argument("table", type=Path, metavar="TABLE.npz")
    parser.add_argument("--split", help="only these images, where the file holds several splits")
    options = parser.parse_args(argv)
    try:
        if options.table.suffix != ".npz":
            raise InputError(f"{options.table}: give a name that ends in .npz")
        frequencies = read_frequencies(options.captions, options.split)
        frequencies.save(options.table)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    grams = len(frequencies.frequency_G)
    print(f"{grams} n-grams of {frequencies.images} images are in {options.table}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
