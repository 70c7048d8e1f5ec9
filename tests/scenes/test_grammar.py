"""Laws of the grammar: every caption is true and has one meaning, other text has none."""

import re
from random import Random

import numpy as np
import pytest

from captioner.scenes import captions
from captioner.scenes.grammar import CLAIMS, FRAMES, parse
from tests.helpers.scenes import CAPTIONED, DRAWN, a_scene, thing, true_of


def test_captions_are_true_distinct_and_of_natural_length():
    for i, drawn in enumerate(DRAWN):
        texts = captions(drawn, Random(i))
        assert len(set(texts)) == 5
        for text in texts:
            assert true_of(text, drawn), (text, drawn)
            assert parse(re.sub(r"[^a-z ]", "", text.lower())) == parse(text)  # as tokens
            assert 5 <= len(text.split()) <= 16, text


def test_every_frame_of_the_grammar_has_one_meaning():
    frames = [frame for claim in FRAMES.values() for frame in claim]
    assert len(set(frames)) == len(frames) == len(CLAIMS)
    assert set(CLAIMS.values()) == set(FRAMES)


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


def test_no_caption_is_true_of_many_pictures():
    for text, _ in CAPTIONED[::120]:
        assert np.mean([true_of(text, drawn) for drawn in DRAWN[:300]]) < 0.04, text
