"""`captioner neurons MODEL DATA`: a page of the units that track a property one can read."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from captioner.console import say
from captioner.errors import printable

DESCRIPTION = (
    "Find units that track a readable property. Reads text with a language model, or captions that "
    "a captioner generates; writes a page that colours them by each unit's activation."
)


def add_options(parser: ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a model directory of a run")
    parser.add_argument(
        "data", metavar="DATA", help="for a language model, a text, a folder of texts, or python; "
        "for a captioner, a folder as data.root",
    )  # fmt: skip
    parser.add_argument("--pattern", default="*", help="of a folder's files")
    parser.add_argument("--val-share", type=float, default=0.1, help="held out, as in training")
    parser.add_argument("--split", default="val", help="of the pictures (default val)")
    parser.add_argument("--limit", type=int, default=100, help="pieces of text, or pictures (100)")
    parser.add_argument("--out", type=Path, default=Path("neurons.html"), help="the page")


def run(options: Namespace) -> None:
    from captioner import files
    from captioner.analysis import neurons, neurons_page
    from captioner.analysis.activations import read_activations

    readings, labels = read_activations(
        options.model,
        options.data,
        options.limit,
        pattern=options.pattern,
        val_share=options.val_share,
        split=options.split,
    )
    matches = neurons.find_units(readings, labels)
    files.make_folder(options.out.parent)
    files.write_atomic(options.out, neurons_page.render_page(readings, matches))
    for match in matches:
        score = f"{match.measure} {match.score:6.3f}   by chance {match.control:6.3f}"
        say(f"{match.name:32} {match.label:9} {score}")
    say(f"the page is {printable(options.out)}")
