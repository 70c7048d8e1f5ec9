"""`captioner sample MODEL`: texts that a language model writes."""

from __future__ import annotations

import secrets
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from captioner.commands.command_line import add_device, flags_in_messages
from captioner.console import say
from captioner.errors import InputError, printable

if TYPE_CHECKING:
    from captioner.search import Strategy

DESCRIPTION = "Let a language model write, after a prompt if you like."
RANDOM = ("temperature", "top_k", "top_p", "seed")  # only sampling takes these


def add_options(parser: ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a model directory of a run on text")
    parser.add_argument("--prompt", default="", metavar="TEXT", help="the beginning of the text")
    parser.add_argument(
        "--length", type=int, default=500, metavar="N", help="characters (or words) at most"
    )
    parser.add_argument("--n", type=int, default=1, help="how many texts")
    parser.add_argument("--temperature", type=float, help="of the sampling (default 0.8)")
    parser.add_argument("--top-k", type=int, metavar="K", help="from the K likeliest only")
    parser.add_argument("--top-p", type=float, metavar="P", help="from the likeliest that reach P")
    parser.add_argument("--seed", type=int, help="of the sampling (default: another each time)")
    parser.add_argument("--greedy", action="store_true", help="always the likeliest")
    parser.add_argument("--beam", type=int, metavar="K", help="beam search of this width")
    add_device(parser)


def run(options: Namespace) -> None:
    from captioner.models import loading
    from captioner.models.language_model import LanguageModel

    model = loading.read_model(options.model)
    if not isinstance(model, LanguageModel):
        raise InputError(f"{printable(options.model)}: a captioner: `caption` captions pictures")
    model.to(loading.choose_device(options.device))
    texts = model.continue_prompt(options.prompt, _strategy(options))
    for number, text in enumerate(texts):
        if len(texts) > 1:
            say(f"== {number + 1}")
        say(text)


def _strategy(options: Namespace) -> Strategy:
    from captioner.search import Beam, Greedy, Sample

    if options.length < 1 or options.n < 1:
        raise InputError(f"--length {options.length} --n {options.n}: give 1 or more")
    unused = [name for name in RANDOM if getattr(options, name) is not None]
    unused += ["beam"] * bool(options.beam) + ["n"] * (options.n > 1) if options.greedy else []
    if (options.greedy or options.beam) and unused:
        method = "--greedy" if options.greedy else "--beam"
        flag = unused[0].replace("_", "-")
        raise InputError(f"{method} with --{flag}, which would have no effect")
    if options.greedy:
        return Greedy(options.length)
    flags = {name: name.replace("_", "-") for name in (*RANDOM, "n")}
    with flags_in_messages(**flags, width="beam", max_length="length"):
        if options.beam:
            return Beam(options.beam, n=options.n, max_length=options.length)
        temperature = 0.8 if options.temperature is None else options.temperature
        seed = secrets.randbelow(2**31) if options.seed is None else options.seed
        kept = options.top_k, options.top_p
        return Sample(temperature, *kept, n=options.n, seed=seed, max_length=options.length)
