import json
from pathlib import Path

import pytest
from rich.console import Console

from captioner import evaluation, runs, scenes
from captioner.records import Record
from captioner.types import InputError

RECORDS = [
    Record(1, Path("a"), ("a dog runs on grass", "the dog runs"), "val"),
    Record("two", Path("b"), ("a red car on the road", "a car"), "val"),
]
GOOD = [
    {"image_id": 1, "caption": "a dog runs on grass"},
    {"image_id": "two", "caption": "a car on the road"},
]


def test_scores_are_per_image_and_for_the_corpus():
    scores = evaluation.evaluate(RECORDS, GOOD[::-1])
    assert set(scores["per_image"]) == {1, "two"}
    assert scores["per_image"][1]["ROUGE_L"] == pytest.approx(1)
    assert scores["corpus"]["ROUGE_L"] == pytest.approx(
        (1 + scores["per_image"]["two"]["ROUGE_L"]) / 2
    )
    assert "scene_accuracy" not in scores["corpus"]


def test_captions_of_scenes_are_checked_for_truth(scenes_dir):
    path = scenes_dir / "captions_val.json"
    shown = scenes.read_scenes(path)
    truth = {i["image_id"]: i["caption"] for i in json.loads(path.read_text())["annotations"]}
    some = [Record(i, Path("x"), (text,), "val") for i, text in truth.items()]
    said = [{"image_id": i, "caption": text} for i, text in truth.items()]
    said[0]["caption"] = "a dog runs"
    corpus = evaluation.evaluate(some, said, shown)
    assert corpus["corpus"]["scene_accuracy"] == 7 / 8
    assert [v["scene_accuracy"] for v in corpus["per_image"].values()] == [0, *[1] * 7]


@pytest.mark.parametrize(
    "predictions, message",
    [
        (GOOD[:1], "two"),
        ([*GOOD, {"image_id": 3, "caption": "x"}], "3"),
        ([*GOOD, GOOD[0]], "image 1 has two predictions"),
    ],
)
def test_predictions_must_be_one_for_each_picture(predictions, message):
    with pytest.raises(InputError, match=message):
        evaluation.evaluate(RECORDS, predictions)


@pytest.mark.parametrize(
    "text, message",
    [
        ("[", "not readable as JSON"),
        ("{}", "not a list"),
        ('[{"image_id": 1}]', "entry 0 has no caption"),
        ('[{"image_id": 1, "caption": "x"}, {"caption": "x"}]', "entry 1 has no image_id"),
        ('[{"image_id": 1, "caption": 2}]', "entry 0 has no caption"),
        ("[3]", "entry 0"),
    ],
)
def test_a_broken_predictions_file_is_named(tmp_path, text, message):
    path = tmp_path / "predictions.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        evaluation.read_predictions(path)
    assert str(path) in str(error.value)
    with pytest.raises(InputError, match="none.json"):
        evaluation.read_predictions(tmp_path / "none.json")


def test_written_and_read_again(tmp_path):
    evaluation.write(tmp_path, GOOD, {"corpus": {}})
    assert evaluation.read_predictions(tmp_path / "predictions.json") == GOOD
    assert sorted(p.name for p in tmp_path.iterdir()) == ["predictions.json", "scores.json"]


def test_the_table_prints_scores_times_100():
    console = Console(width=80)
    with console.capture() as capture:
        console.print(runs.table({"a": {"CIDEr": 0.4812}, "b": {"CIDEr": 1, "x": 0.5}}))
    text = capture.get()
    assert "48.1" in text and "100.0" in text and "50.0" in text and "-" in text


def test_runs_of_different_classes_are_told_apart_by_the_class_alone():
    a = {"config": {"decoder._target_": "x.A", "decoder.size": 1, "seed": 0}, "CIDEr": 0.5}
    b = {"config": {"decoder._target_": "x.B", "decoder.heads": 2, "seed": 1}, "CIDEr": 0.25}
    names, rows = runs.columns({"a": a, "b": b, "c": {"CIDEr": 0.1}})
    assert names == ["run", "decoder._target_", "seed", "CIDEr"]
    assert rows == [["a", "x.A", "0", "50.0"], ["b", "x.B", "1", "25.0"], ["c", "-", "-", "10.0"]]
