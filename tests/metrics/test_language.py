"""What captions are like as language: by hand, and against BLEU over every set of others."""

import random

import numpy as np
import pytest

from captioner.metrics.bleu import bleu
from captioner.metrics.language import DANGLING, language, sameness, variety
from captioner.metrics.ngrams import References

CAPTIONS = ["a dog runs", "a dog runs", "a a cat with a", "<unk> cat", ""]


def test_shares_by_hand():
    result = language(CAPTIONS, training=["a dog  runs"], finished=[True, True, False, True, True])
    expected = {"words": 13 / 5, "repeated_words": 1 / 5, "unknown_words": 1 / 13}
    expected |= {"bad_endings": 2 / 5, "novel": 3 / 5, "unfinished": 1 / 5}
    assert result.corpus() == pytest.approx(expected)
    assert result.per_image()[2, :3].tolist() == [5, 1, 1]
    assert language(CAPTIONS).names == result.names[:4]  # neither training nor finished given


def test_whole_words_dangle_and_only_those_directly_after_themselves_are_repeated():
    texts = ["a man and a man on a sofa", "a man man looking on", "a man in his"]
    assert language(texts).per_image()[:, 1:3].tolist() == [[0, 0], [1, 1], [1, 0]]
    assert not DANGLING & {"dog", "grass", "it", "him", "out", "up"}


def test_variety_by_hand():
    result = variety(CAPTIONS)
    assert result.pop("self_BLEU") == pytest.approx(others([CAPTIONS]))
    different_words, different_pairs = 6, 7  # "a dog" and "dog runs" come twice
    expected = {"vocabulary": different_words, "unique": 4 / 5}
    expected |= {"distinct_1": different_words / 13, "distinct_2": different_pairs / 9}
    assert result == pytest.approx(expected)


def others(captions: list[list[str]]) -> float:
    """BLEU-4 of each caption with the others of its group as its references."""
    pairs = [
        (group[:i] + group[i + 1 :], one)
        for group in captions
        if len(group) > 1
        for i, one in enumerate(group)
    ]
    sums = bleu(References([rest for rest, _ in pairs]).match([one for _, one in pairs]))
    return sums.corpus()["Bleu_4"]


@pytest.mark.parametrize("seed", range(20))
def test_bleu_against_the_others_equals_bleu_with_them_as_references(seed):
    draw = random.Random(seed)
    captions = [
        [" ".join(draw.choices("abcd", k=draw.randint(0, 8))) for _ in range(draw.randint(2, 5))]
        for _ in range(4)
    ]
    mbleu, div = sameness(captions)
    assert mbleu.corpus()["mBLEU"] == pytest.approx(others(captions), abs=1e-15)
    flat = [text for group in captions for text in group]
    assert variety(flat)["self_BLEU"] == pytest.approx(others([flat]), abs=1e-15)
    assert mbleu.image_BS.shape == (4, 10) and div.names == ("div_1", "div_2")


def test_equal_captions_are_as_alike_as_can_be():
    mbleu, div = sameness([["a dog runs on grass"] * 4] * 2)
    assert mbleu.corpus()["mBLEU"] == pytest.approx(1)
    assert div.corpus() == pytest.approx({"div_1": 1 / 4, "div_2": 1 / 4})
    mbleu, div = sameness([["a b c d e", "f g h i j"]])
    assert mbleu.corpus()["mBLEU"] == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(div.per_image(), 1)
