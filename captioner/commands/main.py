"""`captioner VERB ...`: all commands under one name."""

from collections.abc import Sequence

from captioner.commands import (
    caption,
    compare,
    completion,
    export,
    frequencies,
    gradients,
    neurons,
    runs,
    sample,
    submission,
)
from captioner.commands.command_line import Verb, add_verb, run_command
from captioner.console import Parser

MODULES = caption, compare, sample, gradients, neurons, export, runs, frequencies, submission
VERBS: dict[str, Verb] = {m.__name__.split(".")[-1]: m for m in (*MODULES, completion)}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb and return the exit code (see command_line)."""
    parser = Parser("captioner", description="Recurrent image captioning.")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for name, verb in VERBS.items():
        summary = verb.DESCRIPTION.partition(". ")[0].removesuffix(".")
        add_verb(verbs.add_parser(name, help=summary), verb)
    return run_command(parser, argv)
