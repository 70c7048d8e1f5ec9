"""`python -m captioner.commands.sample MODEL`: lets a language model write."""

import argparse
import secrets
import sys
from collections.abc import Sequence

import torch

from captioner.errors import InputError, printable
from captioner.models import loading
from captioner.models.language_model import LanguageModel
from captioner.search import Beam, Greedy, Sample, Strategy


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns 0, or 2 for an error."""
    parser = argparse.ArgumentParser(
        "captioner.commands.sample",
        description="Let a language model write, after a prompt if you like.",
    )
    parser.add_argument("model", metavar="MODEL", help="a model directory of a run on text")
    parser.add_argument("--prompt", default="", metavar="TEXT", help="what the text begins with")
    parser.add_argument(
        "--length", type=int, default=500, metavar="N", help="characters (or words) at most"
    )
    parser.add_argument("--n", type=int, default=1, help="how many texts")
    parser.add_argument("--temperature", type=float, help="of what is drawn (default 0.8)")
    parser.add_argument("--top-k", type=int, metavar="K", help="from the K likeliest only")
    parser.add_argument("--top-p", type=float, metavar="P", help="from the likeliest that reach P")
    parser.add_argument("--seed", type=int, help="of what is drawn (default: another each time)")
    parser.add_argument("--greedy", action="store_true", help="always the likeliest")
    parser.add_argument("--beam", type=int, metavar="K", help="beam search of this width")
    options = parser.parse_args(argv)
    try:
        model = loading.read_model(options.model)
        if not isinstance(model, LanguageModel):
            raise InputError(
                f"{printable(options.model)}: a captioner: caption lets it say something"
            )
        if torch.cuda.is_available():
            model.cuda()
        texts = model.go_on(options.prompt, _strategy(options))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for number, text in enumerate(texts):
        if len(texts) > 1:
            print(f"== {number + 1}")
        print(text)
    return 0


def _strategy(options: argparse.Namespace) -> Strategy:
    if options.length < 1 or options.n < 1:
        raise InputError(f"--length {options.length} --n {options.n}: give 1 or more")
    drawn = ("temperature", "top_k", "top_p", "seed")
    idle = [name for name in drawn if getattr(options, name) is not None]
    idle += ["beam"] * bool(options.beam) + ["n"] * (options.n > 1) if options.greedy else []
    if (options.greedy or options.beam) and idle:
        way = "--greedy" if options.greedy else "--beam"
        raise InputError(f"{way} with --{idle[0].replace('_', '-')}, which would have no effect")
    if options.greedy:
        return Greedy(options.length)
    try:
        if options.beam:
            return Beam(options.beam, n=options.n, max_length=options.length)
        seed = secrets.randbelow(2**31) if options.seed is None else options.seed
        heat = 0.8 if options.temperature is None else options.temperature
        draw = {"n": options.n, "seed": seed, "max_length": options.length}
        return Sample(heat, options.top_k, options.top_p, **draw)
    except InputError as error:  # it names options of search
        said = str(error).replace("search.width", "--beam").replace("search.top_", "--top-")
        raise InputError(said.replace("search.", "--")) from None


if __name__ == "__main__":
    sys.exit(main())
