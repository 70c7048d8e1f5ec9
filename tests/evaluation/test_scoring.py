"""Metrics by name over everything they may need, and how scores are traced."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from captioner import files, scenes
from captioner.data.records import Record, read_records
from captioner.errors import InputError
from captioner.evaluation import scoring
from captioner.evaluation.scoring import Case
from captioner.experiment import runs
from captioner.metrics.score import headline, score

RECORDS = [
    Record(1, Path("a"), ("a dog runs on grass", "the dog runs"), "val"),
    Record("two", Path("b"), ("a red car on the road", "a car"), "val"),
    Record(3, Path("c"), ("two men",), "val"),
]
GOOD = [
    {"image_id": 1, "caption": "a dog runs on grass"},
    {"image_id": "two", "caption": "a car on the road"},
    {"image_id": 3, "caption": "a man on the"},
]


def printed(table):
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def evaluate(metric, predictions=GOOD, records=RECORDS, **inputs):
    return scoring.evaluate(Case(records, predictions, **inputs), [metric])


def test_scores_are_those_of_the_metrics_in_the_order_of_the_records():
    scores = scoring.evaluate(Case(RECORDS, GOOD[::-1]))
    references = {record.id: record.captions for record in RECORDS}
    expected = score(references, {p["image_id"]: p["caption"] for p in GOOD})
    assert scores["corpus"] == expected["corpus"] and scores["per_image"] == expected["per_image"]
    assert list(scores["per_image"]) == [1, "two", 3]
    names = [*(f"Bleu_{n}" for n in range(1, 5)), "ROUGE_L", "CIDEr"]
    assert list(scores["corpus"]) == list(scores["intervals"]) == names
    for name, (low, high) in scores["intervals"].items():
        assert low <= scores["corpus"][name] <= high
    for images, resamples in ((3, 0), (1, 1000)):  # without resamples, or with one image: none
        few = scoring.evaluate(Case(RECORDS[:images], GOOD[:images]), ["bleu"], resamples)
        assert few["intervals"] == {} and len(few["corpus"]) == 4


def test_captions_of_scenes_are_checked_for_truth(scenes_dir):
    records = read_records(scenes_dir, "val")
    captions = [{"image_id": record.id, "caption": record.captions[-1]} for record in records]
    captions[0]["caption"] = "a dog runs"
    drawn = scenes.read_scenes(scenes_dir / "captions_val.json")
    scores = evaluate("scenes", captions, records, scenes=drawn)
    assert scores["corpus"]["scene_accuracy"] == scores["corpus"]["scene_colour"] == 7 / 8
    assert [v["scene_accuracy"] for v in scores["per_image"].values()] == [0, *[1] * 7]


def test_hallucinated_objects():
    objects = {1: frozenset({"dog"}), "two": frozenset(), 3: frozenset()}
    predictions = [*GOOD[:2], {"image_id": 3, "caption": "a man with a dog"}]
    scores = evaluate("chair", predictions, objects=objects)
    assert scores["corpus"] == pytest.approx({"CHAIR_i": 1 / 4, "CHAIR_s": 1 / 3})
    scores = evaluate("chair", objects={1: frozenset()})
    assert "2 images ('two', 3)" in scores["unavailable"]["chair"]


def test_language_by_what_is_known():
    scores = evaluate("language", training=["A dog runs on grass!"])
    assert scores["corpus"]["novel"] == pytest.approx(2 / 3)
    assert scores["corpus"]["bad_endings"] == pytest.approx(1 / 3)
    assert not {"unfinished", "mBLEU"} & set(scores["corpus"])
    assert scores["unavailable"] == {
        "unfinished": "give model=DIR: this file does not tell",
        "mBLEU": "give equally many captions of each image (search.n=5): there are 0",
    }
    several = [{**p, "captions": [p["caption"], "a cat"], "finished": False} for p in GOOD]
    scores = evaluate("language", several)
    assert "novel" not in scores["corpus"] and scores["corpus"]["unfinished"] == 1
    assert scores["unavailable"] == {"novel": "give training=CAPTIONS.json"}
    assert 0 <= scores["corpus"]["mBLEU"] < 0.1
    few = [{**several[0], "captions": ["a dog"]}, *several[1:]]
    scores = evaluate("language", few, training=InputError("no such file"))
    assert "mBLEU" not in scores["corpus"] and "there are 1 to 2" in scores["unavailable"]["mBLEU"]
    assert scores["unavailable"]["novel"] == "no such file"


class Letters:
    """An embedder: how often a picture's name, or a caption, has each of some letters."""

    def images(self, paths):
        return self.texts([f"{path}x" for path in paths])

    def texts(self, captions):
        return np.array([[text.count(letter) for letter in "abcxdg"] for text in captions]) + 0.1


def test_any_embedder_makes_clip_scores(tmp_path):
    records = [record._replace(image=tmp_path / f"{record.image}") for record in RECORDS]
    for record in records:
        record.image.touch()
    scores = evaluate("clip", records=records, embedder=Letters)
    embed = Letters()
    image, text = embed.images([records[0].image])[0], embed.texts(["a dog runs on grass"])[0]
    cosine = image @ text / np.linalg.norm(image) / np.linalg.norm(text)
    assert scores["per_image"][1]["CLIPScore"] == pytest.approx(2.5 * cosine)
    assert scores["per_image"][1]["RefCLIPScore"] == pytest.approx(5 * cosine / (2.5 * cosine + 1))
    scores = evaluate("clip", embedder=Letters)
    assert "no picture a: give data=NAME data.root=DIR" in scores["unavailable"]["clip"]


@pytest.mark.parametrize(
    "metric, remedy",
    [
        ("chair", "objects=INSTANCES.json"),
        ("scenes", "data=scenes"),
        ("clip", "clip.name="),
        ("perplexity", "model=DIR"),
        ("retrieval", "model=DIR"),
    ],
)
def test_what_lacks_something_is_unavailable_and_not_0(metric, remedy):
    scores = scoring.evaluate(Case(RECORDS, GOOD), ["bleu", metric])
    assert list(scores["corpus"]) == ["Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4"]
    assert list(scores["unavailable"]) == [metric] and remedy in scores["unavailable"][metric]
    text = f"unavailable: {scores['unavailable'][metric][:20]}"
    assert text in printed(scoring.scores_table(scores, "t"))


def test_official_tokens_are_those_of_captions_in_a_row():
    predictions = [{"image_id": 1, "caption": "reads K."}, {"image_id": 2, "caption": "The end"}]
    records = [Record(i, Path("x"), ("reads K.", "an end"), "val") for i in (1, 2)]
    for official, expected in ((False, "reads k."), (True, "reads k")):
        case = Case(records, predictions, official=official, training=["reads K."])
        assert case.texts.captions[0] == expected
        # what is novel does not depend on neighbours
        assert scoring.evaluate(case, ["language"])["corpus"]["novel"] == 0.5


@pytest.mark.parametrize(
    "metric, options, message",
    [
        ("bleu", {"resamples": 50}, "resamples=50"),
        ("bleu", {"resamples": -5}, "resamples=-5"),
        ("bleu", {"seed": -1}, "seed=-1"),
        ("blue", {}, r"metrics=\['blue'\]: give some of bleu, rouge, cider"),
    ],
)
def test_metrics_resamples_and_seed_are_checked_first(metric, options, message):
    with pytest.raises(InputError, match=message):
        scoring.check_metrics([metric], **options)


def test_a_picture_has_one_prediction():
    """Missing and foreign ones: see test_bad_input.py."""
    with pytest.raises(InputError, match="image 1 has two predictions"):
        Case(RECORDS, [*GOOD, GOOD[0]])


def test_a_number_can_be_traced():
    case = Case(RECORDS, GOOD)
    origin = scoring.origin(case, seed=7)
    assert origin["images"] == 3 and origin["captions"] == 5 and origin["options"] == {"seed": 7}
    assert {"captioner", "torch", "numpy", "python", "tokenizer"} <= set(origin["versions"])
    assert scoring.origin(Case(RECORDS, GOOD[::-1]))["sha256"] == origin["sha256"]
    other = [RECORDS[0]._replace(captions=("x",)), *RECORDS[1:]]
    changed = scoring.origin(Case(other, GOOD))["sha256"]
    assert changed["references"] != origin["sha256"]["references"]
    assert changed["predictions"] == origin["sha256"]["predictions"]


def test_the_headline_is_cider_or_the_first_that_has_a_value():
    assert headline({"corpus": {"Bleu_1": 0.1, "CIDEr": 0.5}}) == 0.5
    assert headline({"corpus": {"novel": None, "words": 9.0}}) == 9
    assert math.isnan(headline({"corpus": {}}))


def test_scores_json_is_json(tmp_path):
    scores = scoring.evaluate(Case(RECORDS, GOOD), ["language", "chair"])
    files.write_json(tmp_path / "scores.json", scores)

    def refuse(constant):
        raise AssertionError(constant)

    again = json.loads((tmp_path / "scores.json").read_text(), parse_constant=refuse)
    assert again["corpus"] == scores["corpus"]


def test_tables_print_scores_times_100_and_neither_markup_nor_control_characters():
    text = printed(runs.runs_table({"a": {"CIDEr": 0.4812}, "b": {"CIDEr": 1, "x": 0.5}}))
    assert "48.1" in text and "100.0" in text and "50.0" in text and "-" in text
    assert "run[bold]\\x1b[2J" in printed(runs.runs_table({"run[bold]\x1b[2J": {"CIDEr": 1}}))
    scores = {"corpus": {}, "intervals": {}, "unavailable": {"clip": "captioner[clip]\x1b[2J"}}
    assert "captioner[clip]\\x1b[2J" in printed(scoring.scores_table(scores, "t"))


def test_runs_of_different_classes_are_told_apart_by_the_class_alone():
    a = {"config": {"decoder._target_": "x.A", "decoder.size": 1, "seed": 0}, "CIDEr": 0.5}
    b = {"config": {"decoder._target_": "x.B", "decoder.heads": 2, "seed": 1}, "CIDEr": 0.25}
    names, rows = runs.columns({"a": a, "b": b, "c": {"CIDEr": 0.1}})
    assert names == ["run", "decoder._target_", "seed", "CIDEr"]
    assert rows == [["a", "x.A", "0", "50.0"], ["b", "x.B", "1", "25.0"], ["c", "-", "-", "10.0"]]
