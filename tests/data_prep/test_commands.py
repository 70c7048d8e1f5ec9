"""Each command runs as a script and as a module."""

import subprocess

import pytest

from tests.helpers.forks import ROOT, python


@pytest.mark.parametrize("name", ["coco", "flickr", "scenes"])
def test_as_a_script_from_anywhere_and_as_a_module(name, tmp_path):
    outputs = [
        subprocess.check_output([python(), *command, "--help"], cwd=folder, text=True)
        for command, folder in (
            ([f"{ROOT}/data_prep/{name}.py"], tmp_path),
            (["-m", f"data_prep.{name}"], ROOT),
        )
    ]
    assert outputs[0] == outputs[1] and outputs[0].startswith(f"usage: {name}.py ")
