"""metrics.csv: what is logged in a run, a row for each time."""

import csv
import io
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger

from captioner import distributed, files


class MetricsFile(Logger):
    """Lightning's CSVLogger for a run that goes on: it begins after the rows that are there, and a
    kill loses none (a new column replaces the file as a whole). Columns are sorted by name."""

    name, version = "metrics", ""

    def __init__(self, path: Path):
        self.path = path
        columns, _ = self._read()
        self.columns = list(columns)

    def next_step(self) -> int:
        """The step after the last one that has a row."""
        _, rows = self._read()
        return int(rows[-1]["step"]) + 1 if rows else 0

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Write a row, in the first process."""
        if distributed.rank() > 0:
            return
        row = {**metrics, "step": step}
        if row.keys() <= set(self.columns):
            files.append_bytes(self.path, self._as_csv([row]).encode(), sync=False)
            return
        _, rows = self._read()
        self.columns = sorted({*self.columns, *row})
        header = dict(zip(self.columns, self.columns))
        files.write_atomic(self.path, self._as_csv([header, *rows, row]))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Write nothing: they are in config.yaml."""

    def _read(self) -> tuple[list[str], list[dict[str, Any]]]:
        if distributed.rank() > 0 or not self.path.exists():
            return [], []
        with open(self.path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
            return list(reader.fieldnames or []), rows

    def _as_csv(self, rows: list[dict[str, Any]]) -> str:
        text = io.StringIO()
        csv.DictWriter(text, self.columns).writerows(rows)
        return text.getvalue()
