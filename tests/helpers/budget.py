"""The time budget of .ci/run: slow tests that would end after a deadline are skipped, and named by
pytest -rs.

CAPTIONER_DEADLINE is the deadline, in seconds since 1970; without it nothing is skipped. The table
durations.json lists the slow tests, the most important ones first, each with the usual seconds of
one of its cases on the machine that takes `pace` seconds for `measure_pace`.
"""

import json
import os
import time
from pathlib import Path

import pytest
import torch

TABLE = Path(__file__).parents[1] / "durations.json"
UNKNOWN = 60.0  # seconds of a test that is not in the table
SLOW = pytest.StashKey[set[str]]()
"""The slow tests that were collected."""


def measure_pace() -> float:
    """Seconds for a fixed piece of work like that of the tests; the best of three."""
    weights, x = torch.randn(256, 256), torch.randn(8, 256)
    seconds = []
    for _ in range(3):
        begun = time.perf_counter()
        for _ in range(1000):
            x = torch.tanh(x @ weights)
        sum(number * number for number in range(500_000))
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


def pytest_configure(config):
    """Measure this machine once, before pytest-xdist starts its workers."""
    if "CAPTIONER_DEADLINE" in os.environ and "CAPTIONER_SLOWNESS" not in os.environ:
        slowness = measure_pace() / json.loads(TABLE.read_text())["pace"]
        os.environ["CAPTIONER_SLOWNESS"] = str(max(1.0, slowness))


def without_case(item) -> str:
    """The name of a test without its parameters."""
    return item.nodeid.split("[")[0]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Sort slow tests into the table's order, after the quick ones; unknown ones last."""
    order = {name: i for i, name in enumerate(json.loads(TABLE.read_text())["seconds"], 1)}
    slow = {item: without_case(item) for item in items if item.get_closest_marker("slow")}
    config.stash[SLOW] = set(slow.values())
    items.sort(key=lambda item: order.get(slow[item], len(order) + 1) if item in slow else 0)


def pytest_runtest_setup(item):
    if "CAPTIONER_DEADLINE" not in os.environ or not item.get_closest_marker("slow"):
        return
    usual = json.loads(TABLE.read_text())["seconds"].get(without_case(item), UNKNOWN)
    expected = usual * float(os.environ["CAPTIONER_SLOWNESS"])
    left = float(os.environ["CAPTIONER_DEADLINE"]) - time.time()
    if expected > left:
        name, left = item.nodeid, max(left, 0)
        pytest.skip(f"time budget: {name} takes about {expected:.0f} s, and {left:.0f} s are left")
