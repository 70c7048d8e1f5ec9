"""The native metrics against the official ones, against equations by hand, and against laws."""

import math
import pickle
import random
from collections import Counter

import numpy as np
import pytest

from captioner.errors import InputError
from captioner.metrics import bleu as bleu_module
from captioner.metrics import rouge as rouge_module
from captioner.metrics.cider import Cider, DocumentFrequencies
from captioner.metrics.ngrams import NOTHING, References
from captioner.metrics.score import METRICS, USUAL, score, tokens
from tests.helpers.golden import needs_golden, read_golden

SETS = {
    "coco_magic": "coco_karpathy_test_4982_refs",
    "coco_topk": "coco_karpathy_test_5000_refs",
    "flickr30k_magic": "flickr30k_test_1000_refs",
}


# --- the official values


@needs_golden
@pytest.mark.parametrize(("name", "references_name"), SETS.items())
def test_raw_captions_give_the_official_tokens_and_scores(name, references_name):
    """By default those of the corpus, closely; in official mode those of every image, exactly."""
    official, tokenized = read_golden(f"{name}_official"), read_golden(f"{name}_tokenized")
    references: dict[int, list[str]] = {}
    for annotation in read_golden(references_name)["annotations"]:
        references.setdefault(annotation["image_id"], []).append(annotation["caption"])
    captions = {row["image_id"]: row["caption"] for row in read_golden(f"{name}_cands")}
    for metric, value in score(references, captions)["corpus"].items():
        assert value == pytest.approx(official["corpus"][metric], abs=1e-6), metric
    images = official["images"]
    texts = tokens([references[i] for i in images], [captions[i] for i in images], official=True)
    assert texts.references == [tokenized["refs"][str(i)] for i in images]
    assert texts.captions == [tokenized["cands"][str(i)][0] for i in images]
    for statistics in (METRICS[metric](texts) for metric in USUAL):
        for metric, values in zip(statistics.names, statistics.per_image().T, strict=True):
            corpus, per_image = official["corpus"][metric], official["per_image"][metric]
            assert statistics.corpus()[metric] == pytest.approx(corpus, abs=1e-12), metric
            np.testing.assert_allclose(values, per_image, rtol=0, atol=1e-12)


# --- equations, by hand


def bleu(references, captions) -> tuple[np.ndarray, np.ndarray]:
    """Of the corpus (4,) and of each image (4, B)."""
    sums = bleu_module.bleu(References(references).match(captions))
    return np.array(list(sums.corpus().values())), sums.per_image().T


def rouge_l(references, captions) -> tuple[float, np.ndarray]:
    sums = rouge_module.rouge_l(references, captions)
    return sums.corpus()["ROUGE_L"], sums.per_image()[:, 0]


def cider(references, captions, frequencies=None, plain=False) -> tuple[float, np.ndarray]:
    counted = References(references, frequencies.numbers if frequencies else NOTHING)
    score_B = Cider(counted, frequencies, plain)(counted.match(captions))
    return float(score_B.mean()), score_B


def document_frequencies(references) -> DocumentFrequencies:
    return DocumentFrequencies.from_references(References(references))


def test_bleu_by_hand():
    corpus_4, image_4B = bleu(
        [["the cat sat", "a the the"], ["a b c", "a b c d e"]], ["the the the cat", "a b c d"]
    )
    # "the" counts twice, as in the reference that has it most
    np.testing.assert_allclose(image_4B[:2, 0], [3 / 4, (3 / 4 * 2 / 3) ** 0.5], rtol=1e-8)
    # 3 and 5 words are as close to 4: the shorter counts, so there is no brevity penalty
    np.testing.assert_allclose(image_4B[:, 1], 1, rtol=1e-8)
    np.testing.assert_allclose(corpus_4[:2], [7 / 8, (7 / 8 * 5 / 6) ** 0.5], rtol=1e-8)
    brief, _ = bleu([["a b c d e f g h"]], ["a b c d"])
    np.testing.assert_allclose(brief, math.exp(1 - 8 / 4), rtol=1e-8)


def test_rouge_by_hand():
    mean, score_B = rouge_l([["a x c", "b d"], ["x"]], ["a b c d", "y"])
    best = (1 + 1.2**2) * (2 / 4) * 1 / (1 + 1.2**2 * (2 / 4))  # P 2/4 of both, R 2/2 of "b d"
    np.testing.assert_allclose(score_B, [best, 0])
    assert mean == pytest.approx(best / 2)
    # a no-break space: one word for ROUGE, two for BLEU
    assert rouge_l([["3 1/2"]], ["3\xa01/2"])[0] == 0
    assert bleu([["3 1/2"]], ["3\xa01/2"])[0][1] == pytest.approx(1)


def test_cider_by_hand():
    mean, score_B = cider([["a b"], ["c d"], ["e"]], ["a b", "c c d", "x"])
    penalty = math.exp(-1 / (2 * 6**2))  # one word too many
    second = 10 / 4 * penalty * (2 / (5**0.5 * 2**0.5) + 1 / (2**0.5 * 1))
    np.testing.assert_allclose(score_B, [10 / 4 * 2, second, 0])
    assert mean == pytest.approx((5 + second) / 3)
    # an n-gram of every image weighs nothing
    np.testing.assert_allclose(cider([["a b"], ["a c"]], ["a", "a"])[1], 0)


def random_texts(seed: int, images: int = 6) -> tuple[list[list[str]], list[str]]:
    draw = random.Random(seed)

    def texts(count: int) -> list[str]:
        return [" ".join(draw.choices("abcde", k=draw.randint(0, 9))) for _ in range(count)]

    return [texts(draw.randint(1, 4)) for _ in range(images)], texts(images)


def grams(text: str, n: int) -> Counter:
    words = text.split()
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def slow_cider(references, captions, corpus, plain=False) -> list[float]:
    """The equation, word for word, with the document frequencies of `corpus`."""

    def vector(text: str, n: int) -> dict:
        frequency = Counter(g for texts in corpus for g in {g for t in texts for g in grams(t, n)})
        return {
            gram: count * math.log(len(corpus) / max(1, frequency[gram]))
            for gram, count in grams(text, n).items()
        }

    def cosine(hypothesis: dict, reference: dict) -> float:
        least = (lambda h, r: h) if plain else min
        product = sum(least(hypothesis.get(g, 0), w) * w for g, w in reference.items())
        norm = math.hypot(*hypothesis.values()) * math.hypot(*reference.values())
        return product / norm if norm else 0.0

    scores = []
    for texts, caption in zip(references, captions, strict=True):
        total = 0.0
        for text in texts:
            difference = sum(grams(caption, 2).values()) - sum(grams(text, 2).values())
            for n in (1, 2, 3, 4):
                penalty = 1 if plain else math.exp(-(difference**2) / 72)
                total += penalty * cosine(vector(caption, n), vector(text, n))
        scores.append(10 / 4 * total / len(texts))
    return scores


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("plain", [False, True])
def test_cider_equals_its_equation(seed, plain):
    """With document frequencies of the references, and of other images."""
    references, captions = random_texts(seed)
    expected = slow_cider(references, captions, references, plain)
    np.testing.assert_allclose(cider(references, captions, plain=plain)[1], expected, atol=1e-12)
    corpus, _ = random_texts(seed + 100, images=20)
    captions[0] += " z z y"  # words that the frequencies do not know
    references[1][0] += " z y"
    expected = slow_cider(references, captions, corpus, plain)
    frequencies = document_frequencies(corpus)
    scores = cider(references, captions, frequencies, plain)[1]
    np.testing.assert_allclose(scores, expected, atol=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_rouge_equals_the_table_of_its_subsequences(seed):
    draw = random.Random(seed)
    a, b = (draw.choices("abcd", k=draw.randint(1, 90)) for _ in range(2))
    table = np.zeros((len(a) + 1, len(b) + 1), int)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            longest = max(table[i, j + 1], table[i + 1, j])
            table[i + 1, j + 1] = table[i, j] + 1 if x == y else longest
    precision, recall = table[-1, -1] / len(a), table[-1, -1] / len(b)
    expected = 2.44 * precision * recall / (recall + 1.44 * precision) if precision else 0
    assert rouge_l([[" ".join(b)]], [" ".join(a)])[0] == pytest.approx(expected)


# --- laws


REFERENCES = {
    1: ["A man rides a horse.", "A rider on a brown horse"],
    2: ["Two dogs play in the snow.", "Dogs are playing outside", "Snow, and two dogs"],
    3: ["A red bus on the street"],
}
CAPTIONS = {1: "A man on a horse", 2: "Two dogs in the snow!", 3: "A bus"}


def test_a_caption_equal_to_its_only_reference_is_perfect():
    captions = {1: "A man rides a brown horse.", 2: "Two dogs play in the snow"}
    result = score({image: [text] for image, text in captions.items()}, captions)
    for values in (result["corpus"], *result["per_image"].values()):
        perfect = {"Bleu_1": 1, "Bleu_2": 1, "Bleu_3": 1, "Bleu_4": 1, "ROUGE_L": 1, "CIDEr": 10}
        assert values == pytest.approx(perfect)


def test_the_order_of_images_and_references_changes_nothing():
    result = score(REFERENCES, CAPTIONS)
    turned = {image: REFERENCES[image][::-1] for image in (3, 1, 2)}
    again = score(turned, {image: CAPTIONS[image] for image in (2, 3, 1)})
    assert again["corpus"] == pytest.approx(result["corpus"], abs=1e-12)
    for image, values in result["per_image"].items():
        assert again["per_image"][image] == pytest.approx(values, abs=1e-12)


@pytest.mark.parametrize("image_N", [[7, 0, 7, 7, 3, 11, 0], [4]])
def test_rewards_of_any_captions_in_any_order_equal_those_of_the_whole(image_N):
    """Several captions of an image, some images only: as the reward of samples needs them."""
    references, captions = random_texts(2, images=12)
    counted = References(references)
    predicted = [captions[(image * 5 + n) % 12] for n, image in enumerate(image_N)]
    matches = counted.match(predicted, image_N)
    frequencies = document_frequencies(references)
    expected = cider([references[i] for i in image_N], predicted, frequencies)[1]
    np.testing.assert_allclose(Cider(counted)(matches), expected, atol=1e-12)
    _, expected_4N = bleu([references[i] for i in image_N], predicted)
    np.testing.assert_array_equal(bleu_module.bleu(matches).per_image().T, expected_4N)


def test_saved_document_frequencies_give_the_same_scores_and_no_other_file_is_read(tmp_path):
    corpus, _ = random_texts(3, images=20)
    references, captions = random_texts(4)
    frequencies, path = document_frequencies(corpus), tmp_path / "table.npz"
    frequencies.save(path)
    again = DocumentFrequencies.load(path)
    expected = cider(references, captions, frequencies)[1]
    np.testing.assert_array_equal(cider(references, captions, again)[1], expected)
    assert expected.any() and not np.allclose(expected, cider(references, captions)[1])
    with np.load(path) as table:
        arrays = dict(table)
    for change in (
        {"tokenizer": np.array("0")},
        {"images": np.array(0)},
        {"keys_0": arrays["keys_0"][::-1]},
        {"numbers_1": arrays["numbers_1"][:-1]},
        {"frequencies": arrays["frequencies"][:-1]},
        {"frequencies": arrays["frequencies"] + 100},
        {"words": np.array([object()])},
        b"",
        b"PK\x03\x04 no zip",
        b"\x93NUMPY",
        pickle.dumps({}),
    ):
        path.unlink()
        path.write_bytes(change) if isinstance(change, bytes) else np.savez(path, **arrays | change)
        with pytest.raises(InputError, match=r"table\.npz: no table of document frequencies"):
            DocumentFrequencies.load(path)
    with pytest.raises(InputError, match=r"gone\.npz: No such file"):
        DocumentFrequencies.load(tmp_path / "gone.npz")


def test_an_empty_caption_scores_0_and_an_empty_reference_is_legal():
    result = score({**REFERENCES, 3: ["...", "A bus"]}, {**CAPTIONS, 2: ""})
    assert result["per_image"][2] == pytest.approx(dict.fromkeys(result["corpus"], 0), abs=1e-12)
    assert result["per_image"][3]["ROUGE_L"] == pytest.approx(1)
    with pytest.warns(UserWarning, match="references of all images are alike"):
        both = score({1: ["."], 2: ["."]}, {1: "", 2: "?"})["corpus"]
    assert both.pop("ROUGE_L") == 1  # officially, one empty word equals another
    assert both == pytest.approx(dict.fromkeys(both, 0), abs=1e-12)


@pytest.mark.parametrize("images, why", [([1], "of one image"), ([1, 2], "references .* alike")])
def test_cider_is_0_with_a_warning_if_no_n_gram_tells_images_apart(images, why):
    with pytest.warns(UserWarning, match=f"{why} it is 0"):
        horse = "a man rides a horse"
        result = score(dict.fromkeys(images, [horse]), dict.fromkeys(images, horse))
    assert result["corpus"]["CIDEr"] == 0 and result["corpus"]["Bleu_4"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("references", "captions", "message"),
    [
        ({1: ["a"]}, {"1": "a"}, r"1 image \('1'\) captioned but without .*\(1 is not '1'\)"),
        ({i: ["a"] for i in range(9)}, {8: "a"}, r"8 images \(0, 1, 2, 3, 4, \.\.\.\) .* caption "),
        ({1: ["a"], 2: []}, {1: "a", 2: "b"}, r"1 image \(2\) with an empty list"),
        ({1: "a man"}, {1: "a"}, r"1 image \(1\) with a string as references"),
        ({}, {}, "no captions to score"),
    ],
)
def test_errors_name_the_images_and_the_way_out(references, captions, message):
    with pytest.raises(InputError, match=message):
        score(references, captions)


def test_metrics_refuse_what_does_not_fit():
    with pytest.raises(InputError, match="index 1 has no reference"):
        bleu([["a"], []], ["a", "a"])
    for metric in (bleu, rouge_l, cider):
        with pytest.raises(ValueError):
            metric([["a"], ["b"]], ["a"])
    with pytest.raises(ValueError, match="numbers"):  # each has counted for itself
        Cider(References([["a"]]), document_frequencies([["a"]]))
