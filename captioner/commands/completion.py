"""`captioner completion SHELL`: the script by which a shell completes verbs and options."""

from argparse import ArgumentParser, Namespace

from captioner.console import say

DESCRIPTION = (
    'Print a script for shell completion. In bash or zsh: eval "$(captioner completion bash)"; '
    "in fish: captioner completion fish | source."
)


def add_options(parser: ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))


def run(options: Namespace) -> None:
    import argcomplete

    say(argcomplete.shellcode(["captioner", "caption"], shell=options.shell))
