"""Laws of the truth of captions: a wrong word makes a caption false, in its attribute alone."""

import re
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest

from captioner.scenes import truth
from captioner.scenes.accuracy import ATTRIBUTES
from captioner.scenes.drawing import COLOURS, SHAPES
from captioner.scenes.grammar import NUMBERS, parse
from tests.helpers.scenes import CAPTIONED, a_scene, thing, true_of

BLUE_STAR = thing("blue", "star", 0.5, 0.8)


def rights(text, drawn):
    """{attribute: whether a caption is right in it}, of those it mentions, and its accuracy."""
    values = truth([text], [drawn]).corpus()
    return {k.removeprefix("scene_"): v == 1 for k, v in values.items() if not np.isnan(v)}


@pytest.mark.parametrize(
    ("attribute", "rivals"),  # words of which exactly one is right in its place
    [
        ("colour", list(COLOURS)),
        ("shape", SHAPES),
        ("shape", [f"{shape}{'es' if shape == 'cross' else 's'}" for shape in SHAPES]),
        ("number", ["two", "three", "four"]),
        ("size", ["small", "large"]),
        *(("place", pair.split()) for pair in ("left right", "top bottom", "upper lower")),
        *(("relation", pair.split()) for pair in ("left right", "above below", "above under")),
        ("arrangement", ["row", "column", "grid"]),
        ("background", ["striped", "checked", "dotted"]),
    ],
)
def test_a_wrong_word_makes_a_caption_false_in_its_attribute_alone(attribute, rivals):
    changed = parsed = compared = 0
    for text, drawn in CAPTIONED[:: 2 * len(rivals)]:
        text = text.lower()
        shown = " ".join(f"{thing.colour} {thing.shape}s {thing.shape}es" for thing in drawn.things)
        for word, rival in permutations(rivals, 2):
            for match in re.finditer(rf"\b{word}\b", text):
                wrong = text[: match.start()] + rival + text[match.end() :]
                wrong = re.sub(r"\ban?(?= (orange )?)", lambda m: "an" if m[1] else "a", wrong)
                assert not true_of(wrong, drawn), (text, wrong, drawn)
                changed += 1
                if parse(wrong) is None:
                    continue
                parsed += 1
                right = rights(text, drawn)
                if attribute in right and rival not in shown:  # what other things have may be right
                    compared += 1
                    expected = {**right, "accuracy": False, attribute: False}
                    assert rights(wrong, drawn) == expected, (text, wrong, drawn)
    assert compared > 10
    assert parsed > 0.5 * changed  # false because of the meaning, not for want of one


@pytest.mark.parametrize(
    ("text", "true", "false"),  # scenes that it is true of, and false of
    [
        ("a red circle at the top", [[thing(y=0.39)]], [[thing(y=0.41)]]),
        ("A LARGE red circle at the top!", [[thing(y=0.39, size="large")]], [[thing(y=0.39)]]),
        ("a red circle at the top left", [[thing(x=0.1, y=0.1)]], [[thing(y=0.1)]]),
        ("a red circle in the middle", [[thing(x=0.41, y=0.59)]], [[thing(x=0.39, y=0.5)]]),
        ("a red circle above a blue star", [[thing(y=0.3), thing("blue", "star", y=0.6)]], [
            [thing(y=0.4), thing("blue", "star", y=0.6)],
            [thing(y=0.2), thing("blue", "star", 0.85, 0.8)],
        ]),
        ("a blue star with a red circle above it", [[thing(y=0.2), thing("blue", "star")]], []),
        ("a red circle with a blue star above it", [], [[thing(y=0.2), thing("blue", "star")]]),
        ("a red circle and a red circle", [[thing(), thing(x=0.2)]], [[thing()]]),
        ("two red circles side by side",
            [[thing(), thing(x=0.2)], [thing(), thing(x=0.2, size="large")]],
            [[thing(), thing(x=0.2), thing(x=0.8)], [thing(), thing(y=0.2)]]),
        ("two small red circles side by side",
            [[thing(), thing(x=0.2), thing(x=0.8, size="large")]], []),
        ("two shapes: a red circle and a red circle",
            [[thing(), thing(x=0.2)]], [[thing(), thing(x=0.2), thing(y=0.2)]]),
        ("a red circle on a striped background", [], [[thing()]]),
    ],
)  # fmt: skip
def test_truth_conditions(text, true, false):
    assert parse(text) is not None
    assert all(true_of(text, a_scene(*things)) for things in true)
    assert not any(true_of(text, a_scene(*things)) for things in false)


def test_a_true_caption_is_right_in_all_it_mentions():
    sums = truth([text for text, _ in CAPTIONED], [drawn for _, drawn in CAPTIONED])
    assert sums.names == tuple(f"scene_{name}" for name in ("accuracy", *ATTRIBUTES))
    assert set(sums.corpus().values()) == {1.0}
    for (text, _), values in zip(CAPTIONED, sums.per_image(), strict=True):
        (kind, value), phrases = parse(text)
        mentioned = {"accuracy", "colour", "shape", kind} - {"list"}
        if phrases[0].size:
            mentioned.add("size")
        if value in NUMBERS or any(phrase.number > 1 for phrase in phrases):
            mentioned.add("number")
        names = {name for name, v in zip(sums.names, values, strict=True) if not np.isnan(v)}
        assert names == {f"scene_{name}" for name in mentioned}, text


@pytest.mark.parametrize(
    ("text", "wrong", "things"),
    [
        # colours exchanged: both occur, and a circle is above a star
        ("a blue circle above a red star", "", [thing("red", y=0.2), thing("blue", "star")]),
        ("a pink circle above a blue star", "colour", [thing(y=0.2), BLUE_STAR]),
        ("a pink cross above a blue star", "colour shape", [thing(y=0.2), BLUE_STAR]),
        ("a pink heart above a green cross", "colour shape", [thing(y=0.2), BLUE_STAR]),
        ("a blue star above a pink cross", "colour shape relation", [thing(y=0.2), BLUE_STAR]),
        ("a blue star above a red circle", "relation", [thing(y=0.2), BLUE_STAR]),
        ("a red circle above a blue circle", "shape", [thing(y=0.2), BLUE_STAR]),
        ("a red circle at the top", "colour shape", [thing("blue", "star", y=0.1)]),
        ("a red circle at the top", "place", [thing("red", "star"), thing("blue"), thing()]),
        ("a red circle and a red circle", "colour shape", [thing()]),
        ("two red circles side by side", "number", [thing(x=x) for x in (0.2, 0.5, 0.8)]),
        ("two red circles side by side", "number arrangement", [thing(), thing("blue", x=0.2)]),
        ("two red circles side by side", "arrangement", [thing(), thing(y=0.2)]),
        ("two red stars side by side", "shape", [thing(), thing(x=0.2)]),
        ("two pink stars side by side", "colour shape", [thing(), thing(x=0.2)]),
        ("two small red circles in a row", "size", [thing(x=x, size="large") for x in (0.2, 0.5)]),
        ("two red circles and a blue star", "number", [thing(), BLUE_STAR]),
        ("two pink circles and a blue star", "colour", [thing(), thing(x=0.2), BLUE_STAR]),
        # of the things mentioned, if there are any; without them no number is right
        ("two red circles and three blue stars", "number", [
            *(thing(x=x) for x in (0.2, 0.5, 0.8)), BLUE_STAR, thing("blue", "star")
        ]),
        ("three shapes: a red circle and a blue star", "number", [thing(), BLUE_STAR]),
        ("a red circle on a striped background", "colour background", [thing("blue")]),
    ],
)  # fmt: skip
def test_right_by_attribute(text, wrong, things):
    right = rights(text, a_scene(*things))
    assert not right.pop("accuracy")
    assert " ".join(name for name, value in right.items() if not value) == wrong
    if "background" in right:  # it may be right, whatever stands before it
        assert rights(text, replace(a_scene(*things), texture="stripes"))["background"]


def test_shares_are_of_the_captions_that_mention_it_and_of_those_without_a_parse():
    texts = [
        "a red circle at the top",
        "a red star at the top",
        "a dog",
        "two red circles in a row",
    ]
    drawn = [a_scene(thing(y=0.1))] * 3 + [a_scene(thing(), thing("blue"))]
    scores = {"accuracy": 1 / 4, "colour": 3 / 4, "shape": 2 / 4, "size": 0, "number": 0 / 2}
    scores |= {"place": 2 / 3, "relation": 0, "arrangement": 0 / 2, "background": 0}
    assert truth(texts, drawn).corpus() == {f"scene_{name}": v for name, v in scores.items()}
    assert np.isnan(truth(texts[:2], drawn[:2]).corpus()["scene_relation"])
    assert truth(texts, drawn).per_image()[2].tolist() == [0] * 9
    assert truth([], []).image_BS.shape == (0, 18)
    with pytest.raises(ValueError):
        truth(texts, drawn[:2])
