"""The official values of metrics, at $CAPTIONER_DATA/metrics_golden."""

import json
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / os.environ.get("CAPTIONER_DATA", "../shared/data") / "metrics_golden"
needs_golden = pytest.mark.skipif(
    not GOLDEN.is_dir(), reason=f"no official values in {GOLDEN}: set CAPTIONER_DATA"
)


def read_golden(name: str):
    return json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
