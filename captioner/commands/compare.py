"""`captioner compare A.json B.json --refs CAPTIONS`: whether two systems differ."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from captioner.commands.command_line import add_tokenizer

DESCRIPTION = (
    "Compare two prediction files on the same images. For each metric: the difference A - B, its "
    "95 % interval by the paired bootstrap, and the p-value of approximate randomisation."
)


def add_options(parser: ArgumentParser) -> None:
    parser.add_argument("a", type=Path, metavar="A.json", help="predictions, COCO results format")
    parser.add_argument("b", type=Path, metavar="B.json", help="predictions for the same images")
    parser.add_argument("--refs", type=Path, required=True, help="a caption file")
    parser.add_argument("--split", help="of the caption file, if it holds several")
    parser.add_argument(
        "--metrics", nargs="+", metavar="NAME",
        help="such as bleu cider spice (default: bleu rouge cider)",
    )  # fmt: skip
    parser.add_argument(
        "--corpus", type=Path, help="document frequencies: a caption file or a table"
    )
    add_tokenizer(parser)
    parser.add_argument("--official", action="store_true", help="tokenize as the official code")
    parser.add_argument("--resamples", type=int, default=10_000, help="default 10000")
    parser.add_argument("--seed", type=int, default=0, help="of the resamples")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: Namespace) -> None:
    from captioner import console
    from captioner.data.records import read_references
    from captioner.evaluation import comparison
    from captioner.evaluation.frequencies import read_frequencies
    from captioner.evaluation.predictions import read_predictions
    from captioner.evaluation.scoring import Case
    from captioner.metrics import bootstrap, score

    bootstrap.check_options(options.resamples, options.seed)
    tokenizer = options.tokenizer
    corpus = read_frequencies(options.corpus, "train", tokenizer) if options.corpus else None
    records = read_references(options.refs, options.split)
    a, b = (
        Case(records, read_predictions(path), options.official, tokenizer, corpus)
        for path in (options.a, options.b)
    )
    differences = comparison.compare(
        a, b, options.metrics or score.USUAL, options.resamples, options.seed
    )
    if options.json:
        console.say(console.json_text(comparison.as_json(differences)))
    else:
        table = comparison.differences_table(differences, f"{len(records)} images")
        console.show(table, width=1000)  # wide enough for every number
