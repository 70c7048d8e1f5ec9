"""`captioner gradients MODEL DATA`: how gradients flow back through a model, and its gates."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from captioner.console import say
from captioner.errors import printable

DESCRIPTION = (
    "Show gradient flow and gates. Reads captions with a captioner, or text with a language model; "
    "writes gradients.json and gradients.png."
)


def add_options(parser: ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="the folder model/ of a run")
    parser.add_argument(
        "data", metavar="DATA", type=Path, help="a folder as data.root; for a language model, text"
    )
    parser.add_argument("--split", default="val", help="of the captions (default val)")
    parser.add_argument("--limit", type=int, default=64, help="pictures, or chunks of text (64)")
    parser.add_argument("--out", type=Path, default=Path(), metavar="FOLDER", help="default: here")


def run(options: Namespace) -> None:
    from captioner import files
    from captioner.analysis import gradients

    inputs = gradients.read_inputs(options.model, options.data, options.split, options.limit)
    measurements = gradients.inspect(*inputs)
    files.write_json(options.out / "gradients.json", measurements)
    gradients.draw(measurements, options.out / "gradients.png")
    for name, norms in measurements["gradient"].items():
        steps = len(norms) - 1
        say(f"|dL/d{name}|: {norms[0]:.2e} at the loss, {norms[-1]:.2e} {steps} steps before")
    say(f"gradients.json and gradients.png are in {printable(options.out)}")
