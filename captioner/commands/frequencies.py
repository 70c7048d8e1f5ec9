"""`captioner frequencies CAPTIONS TABLE.npz`: the document frequencies of a corpus, for CIDEr."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from captioner.commands.command_line import add_tokenizer
from captioner.console import say
from captioner.errors import InputError, printable

DESCRIPTION = (
    "Save the document frequencies of a corpus. CIDEr takes them from eval.py corpus=TABLE.npz or "
    "captioner compare --corpus TABLE.npz."
)


def add_options(parser: ArgumentParser) -> None:
    parser.add_argument("captions", type=Path, help="a caption file: COCO or Karpathy JSON, tokens")
    parser.add_argument("table", type=Path, metavar="TABLE.npz", help="the file to write")
    parser.add_argument("--split", help="only its images, if the file holds several splits")
    add_tokenizer(parser)


def run(options: Namespace) -> None:
    from captioner.evaluation.frequencies import read_frequencies

    if options.table.suffix != ".npz":
        raise InputError(f"{printable(options.table)}: give a name that ends in .npz")
    frequencies = read_frequencies(options.captions, options.split, options.tokenizer)
    frequencies.save(options.table)
    grams, images = len(frequencies.frequency_G), frequencies.images
    say(f"{grams} n-grams of {images} images are in {printable(options.table)}")
