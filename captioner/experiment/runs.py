"""What runs differ in and what they scored, in one table."""

import csv
import io
from collections.abc import Mapping

from rich.table import Table

from captioner.console import make_table
from captioner.errors import escape
from captioner.experiment.run_dir import Results
from captioner.metrics.statistics import as_text


def columns(runs: Mapping[str, Results]) -> tuple[list[str], list[list[str]]]:
    """Names of columns and rows of text: what differs in the configurations, then the results."""
    configs = [run.get("config", {}) for run in runs.values()]
    keys = list(dict.fromkeys(key for config in configs for key in config))
    keys = [key for key in keys if len({str(c.get(key)) for c in configs if c}) > 1]
    kinds = {key.removesuffix("_target_") for key in keys if key.endswith("._target_")}
    keys = [  # the options of different classes say nothing beside each other
        key
        for key in keys
        if key.endswith("._target_") or f"{key.rpartition('.')[0]}." not in kinds
    ]
    results = list(dict.fromkeys(name for run in runs.values() for name in run))
    results = [name for name in results if name != "config"]
    rows = []
    for (title, run), config in zip(runs.items(), configs):
        settings = [str(config.get(key, "-")) for key in keys]
        row = [title, *settings, *(as_text(name, run.get(name)) for name in results)]
        rows.append([escape(cell, keep="") for cell in row])
    return [escape(name, keep="") for name in ["run", *keys, *results]], rows


def runs_table(runs: Mapping[str, Results]) -> Table:
    """For a terminal; scores x 100, as papers print them."""
    (_, *names), rows = columns(runs)
    return make_table(["x 100", *names], rows)


def markdown(runs: Mapping[str, Results]) -> str:
    """For a README; scores x 100."""
    names, rows = columns(runs)
    lines = [names, ["---"] * len(names), *rows]
    cells = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def as_csv(runs: Mapping[str, Results]) -> str:
    """For a spreadsheet; scores x 100."""
    names, rows = columns(runs)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([names, *rows])
    return text.getvalue()
