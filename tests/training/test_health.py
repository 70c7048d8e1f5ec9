"""Signs of captions that are no longer language."""

import pytest

from captioner.training.health import health_of, warnings_of

WELL = [f"a {colour} {thing} runs" for colour in ("red", "big") for thing in ("dog", "cat", "man")]


def test_healthy_captions_give_no_warnings():
    health = health_of(WELL, [True] * 6)
    assert warnings_of(health) == []
    expected = {"words": 4, "bad_endings": 0, "unfinished": 0, "unique": 1, "vocabulary": 7}
    assert {name: health[name] for name in expected} == expected


@pytest.mark.parametrize(
    "captions, finished, line",
    [
        ([*WELL, "a man with a"], [True] * 7, "14 % end in the middle of a phrase"),
        (WELL, [True] * 5 + [False], "17 % were cut off"),
        ([*WELL, "a dog dog runs"], [True] * 7, "14 % say a word twice in a row"),
        ([*WELL, "a <unk> <unk>"], [True] * 7, "7 % is the share of unknown words"),
        (["a man in a hat"] * 30, [True] * 30, "only 3 % are different"),
        (["dogs", "cats"], [True] * 2, "captions have 1.0 words on average"),
        (["", ""], [True] * 2, "captions have 0.0 words on average"),
    ],
)
def test_warnings_are_in_words(captions, finished, line):
    assert any(line in warning for warning in warnings_of(health_of(captions, finished)))
