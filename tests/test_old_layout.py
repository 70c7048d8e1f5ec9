"""What was written before the modules moved into packages is read, resumed and used as then.

tests/fixtures/before_packages was written by commit 89a0a13, with its own commands: a model
directory, with the captions it gave; a cache of features; two runs that SIGTERM stopped in their
first epoch; and what each gave when it was left alone.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import captioner
import eval as eval_command
from tests.helpers.forks import ROOT
from tests.helpers.runs import in_process, run


@pytest.fixture(autouse=True)
def before(tmp_path, monkeypatch) -> None:
    """The current folder holds a copy of the fixtures."""
    shutil.copytree(ROOT / "tests" / "fixtures" / "before_packages", tmp_path / "before")
    monkeypatch.chdir(tmp_path / "before")


def test_a_model_captions_as_then():
    expected = [json.loads(line) for line in Path("captions.jsonl").read_text().splitlines()]
    results = captioner.load("model").caption([entry["path"] for entry in expected])
    assert [result.caption for result in results] == [entry["caption"] for entry in expected]
    scores = [entry["score"] for entry in expected]
    assert [result.score for result in results] == pytest.approx(scores, abs=1e-3)


def test_a_cache_without_checksums_is_left_alone_and_computed_anew():
    rows = {path: path.read_bytes() for path in Path("cache").glob("*/*")}
    options = ["data=folder", "data.root=data", "data.cache=cache", "data.workers=0"]
    run(eval_command, "model=model", *options, "metrics=[]", "run_dir=scores")
    predictions = json.loads(Path("scores/predictions.json").read_text())
    assert len(predictions) == 3 and all(entry["caption"] for entry in predictions)
    assert {path: path.read_bytes() for path in rows} == rows


@pytest.mark.parametrize("prefix, texts", [("", "predictions.json"), ("text_", "samples.txt")])
def test_a_run_goes_on_to_the_end_that_it_had_then(prefix, texts):
    stopped, finished = f"{prefix}stopped", f"{prefix}whole"
    assert in_process(f"resume={stopped}") == 0
    weights = load_file(f"{stopped}/model/model.safetensors")
    expected = load_file(f"{finished}/model.safetensors")
    assert weights.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, atol=1e-5, rtol=0)
    assert Path(stopped, texts).read_text() == Path(finished, texts).read_text()
