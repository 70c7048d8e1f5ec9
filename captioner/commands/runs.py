"""`captioner runs RUN_DIR ...`: what runs differ in and what they scored, in one table."""

from argparse import ArgumentParser, Namespace

DESCRIPTION = "Compare runs: where their configurations differ, and their scores."


def add_options(parser: ArgumentParser) -> None:
    parser.add_argument("folders", nargs="+", metavar="RUN_DIR", help="a folder with scores.json")
    parser.add_argument("--format", choices=("text", "markdown", "csv"), default="text")


def run(options: Namespace) -> None:
    from captioner import console
    from captioner.experiment import runs
    from captioner.experiment.run_dir import RunDir

    results = {folder: RunDir(folder).results() for folder in options.folders}
    if options.format == "text":
        console.show(runs.runs_table(results), width=1000)  # wide enough for every number
    else:
        write = {"markdown": runs.markdown, "csv": runs.as_csv}[options.format]
        console.say(write(results), end="")
