"""What runs differ in and what they scored, in one table."""

import csv
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from rich import box
from rich.table import Table

from captioner.errors import InputError
from captioner.metrics.statistics import as_text

PLACES = ("run_dir", "resume", "data.cache", "data.root")
"""What differs between runs without making a difference."""


Run = Mapping[str, Any]
"""Corpus scores (1 = 100), `perplexity`, `parameters`, `seconds`, and `config`, by dotted names."""


def read_run(folder: Path) -> Run:
    """A run, or an evaluation, which has scores only. Raises InputError naming the file."""
    path = folder / "scores.json"
    try:
        run = json.loads(path.read_text(encoding="utf-8"))["corpus"]
        path = folder / "metrics.csv"
        if path.exists():
            with open(path, newline="", encoding="utf-8") as file:
                rows = [row for row in csv.DictReader(file) if row.get("val/nll")]
            best = max(rows, key=lambda row: float(row.get("val/CIDEr") or -float(row["val/nll"])))
            run["perplexity"] = math.exp(float(best["val/nll"]))
        path = folder / "run.json"
        if path.exists():
            run |= json.loads(path.read_text(encoding="utf-8"))
        path = folder / "config.yaml"
        if path.exists():
            flat = _flat(yaml.safe_load(path.read_text(encoding="utf-8")))
            run["config"] = {key: value for key, value in flat.items() if key not in PLACES}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: not readable ({error!r}); has the run ended?") from error
    return run


def columns(runs: Mapping[str, Run]) -> tuple[list[str], list[list[str]]]:
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
        rows.append([title, *settings, *(as_text(name, run.get(name)) for name in results)])
    return ["run", *keys, *results], rows


def runs_table(runs: Mapping[str, Run]) -> Table:
    """For a terminal; scores x 100, as papers print them."""
    names, rows = columns(runs)
    table = Table(box=box.SIMPLE, pad_edge=False, padding=0)
    table.add_column("x 100", overflow="fold")
    for name in names[1:]:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def markdown(runs: Mapping[str, Run]) -> str:
    """For a README; scores x 100."""
    names, rows = columns(runs)
    lines = [names, ["---"] * len(names), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def as_csv(runs: Mapping[str, Run]) -> str:
    """For a spreadsheet; scores x 100."""
    names, rows = columns(runs)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([names, *rows])
    return text.getvalue()


def _flat(tree: Mapping[str, Any], at: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        nested = isinstance(value, Mapping)
        flat |= _flat(value, f"{at}{key}.") if nested else {f"{at}{key}": value}
    return flat
