"""Each command runs as a script and as a module."""

import subprocess

import pytest

from tests.helpers.forks import ROOT, python


@pytest.mark.parametrize("name", ["coco", "flickr", "scenes"])
def test_as_a_script_and_as_a_module(name):
    outputs = []
    for command in ([f"data_prep/{name}.py"], ["-m", f"data_prep.{name}"]):
        done = subprocess.run(
            [python(), *command, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        outputs.append(done.stdout)
    assert outputs[0] == outputs[1] and outputs[0].startswith(f"usage: {name}.py ")
