"""Slow tests that no longer fit into .ci/run's time are skipped by name; quick ones always run."""

import json
import os
import re
import subprocess
import time

from tests.helpers import budget
from tests.helpers.forks import ROOT, python

TESTS = """
import pytest
def test_quick():
    pass
@pytest.mark.slow
def test_short():
    pass
@pytest.mark.slow
@pytest.mark.parametrize("case", [1, 2])
def test_long(case):
    pass
@pytest.mark.slow
def test_unknown():
    pass
"""
TABLE = {"pace": 1000, "seconds": {"test_it.py::test_long": 500, "test_it.py::test_short": 5}}


def test_what_no_longer_fits_is_skipped_by_name(tmp_path):
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "plugin.py").write_text(
        "from pathlib import Path\nfrom tests.helpers import budget\n"
        f"budget.TABLE = Path({str(tmp_path)!r}, 'durations.json')\n"
        "from tests.helpers.budget import *\n"
    )
    (tmp_path / "durations.json").write_text(json.dumps(TABLE))
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    slow\n")

    def outcomes(seconds):
        environment = os.environ | {
            "CAPTIONER_DEADLINE": str(time.time() + seconds),
            "PYTHONPATH": f"{tmp_path}:{ROOT}",
        }
        environment.pop("CAPTIONER_SLOWNESS", None)  # of the run that this test is part of
        command = [python(), "-m", "pytest", "-v", "-rs", "-p", "plugin", "-p", "no:cacheprovider"]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        lines = done.stdout.splitlines()
        ran = [line.split()[0].rpartition("::")[2] for line in lines if " PASSED" in line]
        skipped = re.findall(r"(?m)^SKIPPED .*time budget: (\S+) takes about", done.stdout)
        return ran, [name.rpartition("::")[2] for name in skipped], done.stdout

    slow = ["test_long[1]", "test_long[2]", "test_short", "test_unknown"]
    assert outcomes(10_000)[:2] == (["test_quick", *slow], [])
    assert outcomes(200)[:2] == (["test_quick", *slow[2:]], slow[:2])
    ran, skipped, output = outcomes(-100)
    assert (ran, skipped) == (["test_quick"], slow)
    assert "time budget: test_it.py::test_long[1] takes about 500 s, and 0 s are left" in output


def test_every_slow_test_has_its_usual_seconds(request):
    """Of the files that this session has collected."""
    files = {item.nodeid.split("::")[0] for item in request.session.items}
    tables = json.loads(budget.TABLE.read_text())["seconds"], request.config.stash[budget.SLOW]
    usual, collected = ({name for name in t if name.split("::")[0] in files} for t in tables)
    assert usual == collected
