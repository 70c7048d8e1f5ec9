"""`captioner export MODEL FOLDER`: a model to hand on, in half the space."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from captioner.console import say
from captioner.errors import printable

DESCRIPTION = "Write a model in float16, without the encoder if pip brings its weights."


def add_options(parser: ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL", help="a model directory")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the directory to write")


def run(options: Namespace) -> None:
    from captioner.models.export import export_model

    with_encoder = export_model(options.model, options.folder)
    size = sum(file.stat().st_size for file in options.folder.iterdir()) / 1e6
    encoder = "with" if with_encoder else "without"
    reason = "" if with_encoder else ", whose weights pip brings"
    say(f"{printable(options.folder)}: {size:.1f} MB, {encoder} the encoder{reason}")
