"""Laws of the embedded data: every caption is true, every wrong word makes it false."""

import hashlib
import json
import os
import re
import subprocess
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from random import Random

import numpy as np
import pytest
from pycocotools.coco import COCO

from captioner import scenes
from captioner.errors import InputError
from captioner.scenes import Scene, Thing, captions, parse, render, scene, true_of, truth
from tests.helpers.forks import python

COMMAND = Path(__file__).parents[2] / "data_prep" / "scenes.py"
DRAWN = [scene(7, split, i) for split in scenes.SPLITS for i in range(400)]
SAID = [(text, drawn) for i, drawn in enumerate(DRAWN) for text in captions(drawn, Random(i))]
# Words of which exactly one is right where it stands.
RIVALS = [
    list(scenes.COLOURS),
    list(scenes.SHAPES),
    ["circles", "squares", "triangles", "stars", "hearts", "crosses"],
    ["two", "three", "four"],
    ["small", "large"],
    ["left", "right"],
    ["above", "below"],
    ["above", "under"],
    ["top", "bottom"],
    ["upper", "lower"],
    ["row", "column", "grid"],
    ["striped", "checked", "dotted"],
]


def thing(colour="red", shape="circle", x=0.5, y=0.5, size="small"):
    return Thing(shape, colour, size, x, y, scenes.SIZES[size][0])


def a_scene(*things):
    return Scene(things, "plain", 0)


def digest(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_captions_are_true_distinct_and_of_natural_length():
    for i, drawn in enumerate(DRAWN):
        texts = captions(drawn, Random(i))
        assert len(set(texts)) == 5
        for text in texts:
            assert true_of(text, drawn), (text, drawn)
            assert 5 <= len(text.split()) <= 16, text


def test_tokenised_captions_mean_the_same():
    for text, _ in SAID:
        assert parse(re.sub(r"[^a-z ]", "", text.lower())) == parse(text) is not None


def test_every_frame_of_the_grammar_has_one_meaning():
    frames = [frame for claim in scenes.FRAMES.values() for frame in claim]
    assert len(set(frames)) == len(frames) == len(scenes.CLAIMS)
    assert set(scenes.CLAIMS.values()) == set(scenes.FRAMES)


def test_a_wrong_word_makes_a_caption_false():
    tried = parsed = 0
    for text, drawn in SAID[::3]:
        words = text.lower().rstrip(".").split()
        for rivals in RIVALS:
            for i, word in enumerate(words):
                for rival in rivals:
                    if word.strip(",") in rivals and word.strip(",") != rival:
                        wrong = [*words[:i], rival, *words[i + 1 :]]
                        for article in (
                            ("a", "an") if i and words[i - 1] in ("a", "an") else (None,)
                        ):
                            wrong[i - 1 : i] = [article] if article else wrong[i - 1 : i]
                            tried, parsed = tried + 1, parsed + (parse(" ".join(wrong)) is not None)
                            assert not true_of(" ".join(wrong), drawn), (text, wrong, drawn)
    assert parsed > 0.5 * tried > 10_000  # false because of what they say, not for want of a parse


@pytest.mark.parametrize(
    "text",
    ["", "a dog", "a red circle", "a circle above a star", "two red circle in a row"]
    + ["a red circles at the top", "an red circle at the top", "a orange star at the top"]
    + ["a red circle at the top at the top", "ONE at the top", "a red circle above 7 blue stars"]
    + ["a red circle above a blue star and a green square", "a blood-red circle at the top"]
    + ["two red circles arranged", "one red circle at the top", "a red circle at the top of"],
)
def test_other_text_is_refused(text):
    assert parse(text) is None
    assert not true_of(text, a_scene(thing(y=0.1)))


@pytest.mark.parametrize(
    ("text", "true", "things"),
    [
        ("a red circle at the top", True, [thing(y=0.39)]),
        ("a red circle at the top", False, [thing(y=0.41)]),
        ("A LARGE red circle at the top!", False, [thing(y=0.39)]),
        ("a red circle at the top left", False, [thing(x=0.5, y=0.1)]),
        ("a red circle in the middle", True, [thing(x=0.41, y=0.59)]),
        ("a red circle in the middle", False, [thing(x=0.39, y=0.5)]),
        ("a red circle above a blue star", True, [thing(y=0.3), thing("blue", "star", y=0.6)]),
        ("a red circle above a blue star", False, [thing(y=0.4), thing("blue", "star", y=0.6)]),
        ("a red circle above a blue star", False, [thing(y=0.2), thing("blue", "star", 0.85, 0.8)]),
        ("a blue star with a red circle above it", True, [thing(y=0.2), thing("blue", "star")]),
        ("a red circle with a blue star above it", False, [thing(y=0.2), thing("blue", "star")]),
        ("a red circle and a red circle", False, [thing()]),
        ("a red circle and a red circle", True, [thing(), thing(x=0.2)]),
        ("two red circles side by side", True, [thing(), thing(x=0.2)]),
        ("two red circles side by side", False, [thing(), thing(x=0.2), thing(x=0.8)]),
        ("two red circles side by side", False, [thing(), thing(y=0.2)]),
        ("two red circles side by side", True, [thing(), thing(x=0.2, size="large")]),
        ("two small red circles side by side", True, [
            thing(), thing(x=0.2), thing(x=0.8, size="large")
        ]),
        ("two shapes: a red circle and a red circle", True, [thing(), thing(x=0.2)]),
        ("two shapes: a red circle and a red circle", False, [thing(), thing(x=0.2), thing(y=0.2)]),
        ("a red circle on a striped background", False, [thing()]),
    ],
)  # fmt: skip
def test_truth_conditions(text, true, things):
    assert parse(text) is not None
    assert true_of(text, a_scene(*things)) == true


def rights(text, drawn):
    """{attribute: whether a caption is right in it}, of those it speaks of, and its accuracy."""
    values = truth([text], [drawn]).corpus()
    return {k.removeprefix("scene_"): v == 1 for k, v in values.items() if not np.isnan(v)}


def test_a_true_caption_is_right_in_all_it_speaks_of():
    sums = truth([text for text, _ in SAID], [drawn for _, drawn in SAID])
    assert sums.names == tuple(f"scene_{name}" for name in ("accuracy", *scenes.ATTRIBUTES))
    assert set(sums.corpus().values()) == {1.0}
    for (text, _), values in zip(SAID, sums.per_image(), strict=True):
        (kind, value), phrases = parse(text)
        spoken = {"accuracy", "colour", "shape", kind} - {"list"}
        spoken |= {"size"} if phrases[0].size else set()
        counts = value in scenes.NUMBERS or any(phrase.number > 1 for phrase in phrases)
        spoken |= {"number"} if counts else set()
        names = {name for name, v in zip(sums.names, values, strict=True) if not np.isnan(v)}
        assert names == {f"scene_{name}" for name in spoken}, text


@pytest.mark.parametrize(
    ("attribute", "rivals"),
    [
        ("colour", RIVALS[0]),
        ("shape", RIVALS[1]),
        ("shape", RIVALS[2]),
        ("number", RIVALS[3]),
        ("size", RIVALS[4]),
        ("place", RIVALS[5]),
        ("place", RIVALS[8]),
        ("place", RIVALS[9]),
        ("relation", RIVALS[5]),
        ("relation", RIVALS[6]),
        ("relation", RIVALS[7]),
        ("arrangement", RIVALS[10]),
        ("background", RIVALS[11]),
    ],
)
def test_one_wrong_word_is_wrong_in_its_attribute_alone(attribute, rivals):
    tried = 0
    for text, drawn in SAID[::4]:
        right = rights(text, drawn)
        shown = " ".join(f"{thing.colour} {thing.shape}s {thing.shape}es" for thing in drawn.things)
        for word, rival in permutations(rivals, 2):
            if attribute not in right or rival in shown:
                continue  # a colour or shape that other things have may be right
            for match in re.finditer(rf"\b{word}\b", text.lower()):
                wrong = text.lower()[: match.start()] + rival + text.lower()[match.end() :]
                wrong = re.sub(r"\ban?(?= (orange )?)", lambda m: "an" if m[1] else "a", wrong)
                if parse(wrong) is not None:
                    tried += 1
                    expected = {**right, "accuracy": False, attribute: False}
                    assert rights(wrong, drawn) == expected, (text, wrong, drawn)
    assert tried > 10


SEEN = thing("blue", "star", 0.5, 0.8)


@pytest.mark.parametrize(
    ("text", "wrong", "things"),
    [
        # the colours exchanged: each is there, and a circle is above a star
        ("a blue circle above a red star", "", [thing("red", y=0.2), thing("blue", "star")]),
        ("a pink circle above a blue star", "colour", [thing(y=0.2), SEEN]),
        ("a pink cross above a blue star", "colour shape", [thing(y=0.2), SEEN]),
        ("a pink heart above a green cross", "colour shape", [thing(y=0.2), SEEN]),
        ("a blue star above a pink cross", "colour shape relation", [thing(y=0.2), SEEN]),
        ("a blue star above a red circle", "relation", [thing(y=0.2), SEEN]),
        ("a red circle above a blue circle", "shape", [thing(y=0.2), SEEN]),
        ("a red circle at the top", "colour shape", [thing("blue", "star", y=0.1)]),
        ("a red circle at the top", "place", [thing("red", "star"), thing("blue"), thing()]),
        ("a red circle and a red circle", "colour shape", [thing()]),
        ("two red circles side by side", "number", [thing(x=x) for x in (0.2, 0.5, 0.8)]),
        ("two red circles side by side", "number arrangement", [thing(), thing("blue", x=0.2)]),
        ("two red circles side by side", "arrangement", [thing(), thing(y=0.2)]),
        ("two red stars side by side", "shape", [thing(), thing(x=0.2)]),
        ("two pink stars side by side", "colour shape", [thing(), thing(x=0.2)]),
        ("two small red circles in a row", "size", [thing(x=x, size="large") for x in (0.2, 0.5)]),
        ("two red circles and a blue star", "number", [thing(), SEEN]),
        ("two pink circles and a blue star", "colour", [thing(), thing(x=0.2), SEEN]),
        # of things spoken of, where there are such; no number is right for want of them
        ("two red circles and three blue stars", "number", [
            *(thing(x=x) for x in (0.2, 0.5, 0.8)), SEEN, thing("blue", "star")
        ]),
        ("three shapes: a red circle and a blue star", "number", [thing(), SEEN]),
        ("a red circle on a striped background", "colour background", [thing("blue")]),
    ],
)  # fmt: skip
def test_right_by_attribute(text, wrong, things):
    found = rights(text, a_scene(*things))
    assert not found.pop("accuracy")
    assert " ".join(name for name, right in found.items() if not right) == wrong


def test_a_background_is_right_whatever_stands_before_it():
    drawn = replace(a_scene(thing("pink", "heart")), texture="dots")
    found = rights("a red circle and a blue star on a dotted background", drawn)
    assert found == {"accuracy": False, "colour": False, "shape": False, "background": True}


def test_shares_are_of_the_captions_that_speak_of_it_and_of_those_without_a_parse():
    texts = [
        "a red circle at the top",
        "a red star at the top",
        "a dog",
        "two red circles in a row",
    ]
    drawn = [a_scene(thing(y=0.1))] * 3 + [a_scene(thing(), thing("blue"))]
    scores = truth(texts, drawn).corpus()
    assert scores == {
        "scene_accuracy": 1 / 4,
        "scene_colour": 3 / 4,
        "scene_shape": 2 / 4,
        "scene_size": 0,
        "scene_number": 0 / 2,
        "scene_place": 2 / 3,
        "scene_relation": 0,
        "scene_arrangement": 0 / 2,
        "scene_background": 0,
    }
    assert np.isnan(truth(texts[:2], drawn[:2]).corpus()["scene_relation"])
    assert truth(texts, drawn).per_image()[2].tolist() == [0] * 9
    assert truth([], []).image_BS.shape == (0, 18)
    with pytest.raises(ValueError):
        truth(texts, drawn[:2])


def test_no_caption_is_true_of_many_pictures():
    for text, _ in SAID[::60]:
        assert np.mean([true_of(text, drawn) for drawn in DRAWN[:300]]) < 0.04, text


def test_test_pictures_hold_pairs_never_seen_in_training():
    pairs = {
        split: [{(t.shape, t.colour) for t in scene(0, split, i).things} for i in range(1500)]
        for split in scenes.SPLITS
    }
    held_out = set(scenes.HELD_OUT)
    assert not held_out & set().union(*pairs["train"], *pairs["val"])
    assert all(held_out & pair for pair in pairs["test"])
    assert {word for pair in held_out for word in pair} <= {
        word for pair in set().union(*pairs["train"]) for word in pair
    }


def test_shapes_neither_touch_nor_leave_the_picture():
    for drawn in DRAWN:
        for i, a in enumerate(drawn.things):
            assert min(a.x, a.y, 1 - a.x, 1 - a.y) > a.radius
            assert all(
                np.hypot(a.x - b.x, a.y - b.y) > a.radius + b.radius for b in drawn.things[:i]
            )


@pytest.mark.parametrize("texture", scenes.TEXTURES)
@pytest.mark.parametrize("shape", scenes.SHAPES)
def test_a_shape_shows_its_colour_inside_and_the_background_outside(texture, shape):
    for seed, (colour, rgb) in enumerate(scenes.COLOURS.items()):
        drawn = Scene((thing(colour, shape, size="large"),), texture, seed)
        picture = np.asarray(render(drawn)).astype(int)
        bare = np.asarray(render(replace(drawn, things=()))).astype(int)
        assert picture.shape == (224, 224, 3)
        assert np.abs(picture[108:116, 108:116] - rgb).max() <= 12
        far = np.hypot(*(np.mgrid[:224, :224] - 112)) > 0.12 * 224 + 2
        assert (picture == bare)[far].all()
        assert np.abs(bare - rgb).max(-1).min() > 40  # visible everywhere


def test_anti_aliasing():
    picture = np.asarray(render(a_scene(thing("black", size="large")))).astype(int)[..., 0]
    assert len(np.unique(picture)) > 20  # a plain background, a fill, an edge, and what is between


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        scenes.write_scenes(tmp_path / name, train=6, val=3, test=3, seed=5)
    scenes.write_scenes(tmp_path / "other", train=6, val=3, test=3, seed=6)
    one, two, other = (digest(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two and len(one) == 12 + 3
    assert all(one[name] != other[name] for name in one)


def test_coco_reads_it_and_scenes_come_back(tmp_path, capsys):
    scenes.write_scenes(tmp_path, train=4, val=3, test=2, seed=1)
    seen: set[int] = set()
    for split, size in (("train", 4), ("val", 3), ("test", 2)):
        path = tmp_path / f"captions_{split}.json"
        coco, back = COCO(path), scenes.read_scenes(path)
        assert list(back.values()) == [scene(1, split, i) for i in range(size)]
        assert back.keys() == set(coco.getImgIds()) and not seen & back.keys()
        seen |= back.keys()
        for number, image in coco.imgs.items():
            assert (tmp_path / "images" / image["file_name"]).exists()
            texts = [annotation["caption"] for annotation in coco.imgToAnns[number]]
            assert len(texts) == 5
            assert all(true_of(text, back[number]) for text in texts)


def test_a_second_run_does_nothing_and_an_interrupted_one_goes_on(tmp_path):
    calls: list[tuple[int, int]] = []

    def stop(done, total):
        calls.append((done, total))
        if done == 5:
            raise KeyboardInterrupt

    sizes = {"train": 3, "val": 3, "test": 1}
    with pytest.raises(KeyboardInterrupt):
        scenes.write_scenes(tmp_path / "cut", **sizes, progress=stop)
    assert sorted(p.name for p in tmp_path.glob("cut/*")) == ["captions_train.json", "images"]
    scenes.write_scenes(tmp_path / "cut", **sizes, progress=lambda *call: calls.append(call))
    assert calls == [(i, 7) for i in range(1, 6)] + [(i, 4) for i in range(1, 5)]
    scenes.write_scenes(tmp_path / "whole", **sizes)
    assert digest(tmp_path / "cut") == digest(tmp_path / "whole")
    scenes.write_scenes(tmp_path / "cut", **sizes, progress=stop)
    assert len(calls) == 9


def test_wrong_folders_and_sizes_are_named(tmp_path):
    scenes.write_scenes(tmp_path / "mine", 1, 1, 1)
    (tmp_path / "file").write_text("a file")
    (tmp_path / "empty.json").write_text("{}")
    with pytest.raises(InputError, match="made otherwise"):
        scenes.write_scenes(tmp_path / "mine", 1, 1, 2)
    with pytest.raises(InputError, match="something else"):
        scenes.write_scenes(tmp_path)
    with pytest.raises(InputError, match="cannot write"):
        scenes.write_scenes(tmp_path / "file")
    with pytest.raises(InputError, match="negative"):
        scenes.write_scenes(tmp_path / "new", train=-1)
    for path, message in (("file", "cannot read"), ("empty.json", "no scenes"), ("no", "cannot")):
        with pytest.raises(InputError, match=message):
            scenes.read_scenes(tmp_path / path)
    assert not (tmp_path / "images").exists() and not (tmp_path / "new").exists()


def test_the_command(tmp_path):
    def run(*sizes):
        command = [python(), str(COMMAND), str(tmp_path / "data"), "--train=2", *sizes]
        environment = {**os.environ, "PYTHONPATH": str(COMMAND.parents[1])}
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    done = run("--val=1", "--test=1")
    assert done.returncode == 0 and "4/4 pictures" in done.stderr, done.stderr
    assert json.loads((tmp_path / "data" / "captions_test.json").read_text())["info"]["test"] == 1
    done = run("--val=1", "--test=2")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr
