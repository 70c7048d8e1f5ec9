"""The native metrics against the official ones, against equations by hand, and against laws."""

import gzip
import json
import math
import os
import random
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from captioner.metrics.bleu import bleu
from captioner.metrics.cider import cider, document_frequencies
from captioner.metrics.rouge import rouge_l
from captioner.metrics.score import score
from captioner.metrics.tokenize import tokenize
from captioner.types import InputError

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / os.environ.get("CAPTIONER_DATA", "../shared/data") / "metrics_golden"
needs_golden = pytest.mark.skipif(
    not GOLDEN.is_dir(), reason=f"no official values in {GOLDEN}: set CAPTIONER_DATA"
)
SETS = {
    "coco_magic": "coco_karpathy_test_4982_refs",
    "coco_topk": "coco_karpathy_test_5000_refs",
    "flickr30k_magic": "flickr30k_test_1000_refs",
}


def read(name: str):
    path = GOLDEN / name
    if path.suffix == ".gz":
        return [json.loads(line) for line in gzip.open(path, "rt", encoding="utf-8")]
    return json.loads(path.read_text(encoding="utf-8"))


# --- the official values


@needs_golden
@pytest.mark.parametrize("name", SETS)
def test_official_tokens_give_the_official_scores(name):
    official, tokens = read(f"{name}_official.json"), read(f"{name}_tokenized.json")
    captions = {image: texts[0] for image, texts in tokens["cands"].items()}
    ours = score(tokens["refs"], captions, tokenized=True)
    for metric, value in ours["corpus"].items():
        assert value == pytest.approx(official["corpus"][metric], abs=1e-12), metric
        per_image = [ours["per_image"][str(image)][metric] for image in official["images"]]
        np.testing.assert_allclose(
            per_image, official["per_image"][metric], rtol=0, atol=1e-12, err_msg=metric
        )


@needs_golden
@pytest.mark.parametrize(("name", "references_name"), SETS.items())
def test_raw_captions_give_the_official_corpus_scores(name, references_name):
    official = read(f"{name}_official.json")["corpus"]
    references: dict[int, list[str]] = {}
    for annotation in read(f"{references_name}.json")["annotations"]:
        references.setdefault(annotation["image_id"], []).append(annotation["caption"])
    captions = {row["image_id"]: row["caption"] for row in read(f"{name}_cands.json")}
    for metric, value in score(references, captions)["corpus"].items():
        assert value == pytest.approx(official[metric], abs=1e-6), metric


# --- the tokenizer


@needs_golden
@pytest.mark.parametrize(("name", "share"), [("45000", 0.9999), ("fuzz_10000", 0.998)])
def test_tokens_equal_the_official_ones(name, share):
    """What is left of the first: a lone letter at the end ("Wii U."), which the next line rules."""
    rows = read(f"tokenizer_{name}.jsonl.gz")
    different = [(raw, official) for raw, official in rows if joined(raw) != official]
    assert len(different) <= (1 - share) * len(rows), different[:20]


@needs_golden
@pytest.mark.parametrize("case", ["lower", "title", "upper"])
def test_abbreviations_keep_their_period(case):
    write = getattr(str, case)
    for word in read("abbreviations_blackbox.json")[f"{case}_end"]:
        assert tokenize(f"the {write(word)}.") == ["the", f"{word}."]
        assert tokenize(f"the {write(word)}. again") == ["the", f"{word}.", "again"]
    keeps = case != "lower"  # "in Mass." but "a big mass."
    assert tokenize(write("a mass.")) == ["a", "mass." if keeps else "mass"]
    assert tokenize(write("a table.")) == ["a", "table"]


def joined(caption: str) -> str:
    return " ".join(tokenize(caption))


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("", ""),
        (" . ", ""),
        ("A man, a plan.", "a man a plan"),
        ("Two dogs (one black).", "two dogs -lrb- one black -rrb-"),
        ("It's a dog's life, isn't it?", "it 's a dog 's life is n't it"),
        ("It’s theirs; we’re late, can’t wait", "it 's theirs we 're late ca n't wait"),
        ("THEY'LL STAY, DON'T GO", "they 'll stay do n't go"),
        ("I cannot see what is gonna come", "i can not see what is gon na come"),
        ("at 5 o'clock, o'clock", "at 5 o'clock o'clock"),
        ("a black-and-white t-shirt and/or tie", "a black-and-white t-shirt and/or tie"),
        ("a tub.In between", "a tub.in between"),
        ("at the corner of 11th St. and Ave. B", "at the corner of 11th st. and ave. b"),
        ("J.R. Tolkien in Washington D.C.", "j.r. tolkien in washington d.c."),
        ("It is I. The end.", "it is i the end"),
        ("at 5:54pm, 1,000 people", "at 5:54 pm 1,000 people"),
        ("at 22 3/4 Street", "at 22\xa03/4 street"),
        ("salt &amp; pepper & AT&T", "salt & pepper & at&t"),
        ("for £5, €5 or $5: ½ off", "for # 5 $ 5 or $ 5 1/2 off"),
        ("Stop! Now!! Why?", "stop now !! why"),
        ("<b>bold</b> #tag @home", "<b> bold </b> #tag @home"),
        ("see http://a.b/c?d or me@x.org", "see http://a.b/c?d or me@x.org"),
        ("“typographic” quotes – and dashes—all… gone", "typographic quotes and dashes all gone"),
        ("Ein Café für Ñandús", "ein café für ñandús"),
    ],
)
def test_tokens_as_observed(caption, tokens):
    assert joined(caption) == tokens


@pytest.mark.parametrize("separator", ["\n", "\r", "\r\n", "\v", "\f", "\x85", "\u2028", "\u2029"])
def test_a_line_separator_is_a_space(separator):
    caption = "A man{0}isn't{0}here{0}"
    assert tokenize(caption.format(separator)) == tokenize(caption.format(" "))


def test_plain_captions_get_the_same_tokens_by_the_short_way(monkeypatch):
    captions = ["A man, a dog  and a cat.", "we cannot, no ", "on Main St.", "a Wii U.", "plan b"]
    if GOLDEN.is_dir():
        captions += [raw for raw, _ in read("tokenizer_45000.jsonl.gz")[:5000]]
    short = [tokenize(caption) for caption in captions]
    monkeypatch.setitem(tokenize.__globals__, "_PLAIN", re.compile(r"(?!)"))
    assert [tokenize(caption) for caption in captions] == short


# --- equations, by hand


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


def test_no_break_space_is_one_word_for_rouge_and_two_for_bleu():
    assert rouge_l([["3 1/2"]], ["3\xa01/2"])[0] == 0
    assert bleu([["3 1/2"]], ["3\xa01/2"])[0][1] == pytest.approx(1)


def test_cider_by_hand():
    mean, score_B = cider([["a b"], ["c d"], ["e"]], ["a b", "c c d", "x"])
    penalty = math.exp(-1 / (2 * 6**2))  # one word too many
    second = 10 / 4 * penalty * (2 / (5**0.5 * 2**0.5) + 1 / (2**0.5 * 1))
    np.testing.assert_allclose(score_B, [10 / 4 * 2, second, 0])
    assert mean == pytest.approx((5 + second) / 3)
    # an n-gram of every image weighs nothing
    np.testing.assert_allclose(cider([["a"], ["a"]], ["a", "a"])[1], 0)


def random_texts(seed: int, images: int = 6) -> tuple[list[list[str]], list[str]]:
    draw = random.Random(seed)

    def text() -> str:
        return " ".join(draw.choices("abcde", k=draw.randint(0, 9)))

    return [[text() for _ in range(draw.randint(1, 4))] for _ in range(images)], [
        text() for _ in range(images)
    ]


def grams(text: str, n: int) -> Counter:
    words = text.split()
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def plain_cider(references, captions, corpus) -> list[float]:
    """The equation, word for word, with the document frequencies of `corpus`."""

    def vector(text: str, n: int) -> dict:
        frequency = Counter(g for texts in corpus for g in {g for t in texts for g in grams(t, n)})
        return {
            gram: count * math.log(len(corpus) / max(1, frequency[gram]))
            for gram, count in grams(text, n).items()
        }

    def cosine(hypothesis: dict, reference: dict) -> float:
        product = sum(min(hypothesis.get(g, 0), w) * w for g, w in reference.items())
        norm = math.hypot(*hypothesis.values()) * math.hypot(*reference.values())
        return product / norm if norm else 0.0

    scores = []
    for texts, caption in zip(references, captions, strict=True):
        total = 0.0
        for text in texts:
            difference = sum(grams(caption, 2).values()) - sum(grams(text, 2).values())
            for n in (1, 2, 3, 4):
                total += math.exp(-(difference**2) / 72) * cosine(
                    vector(caption, n), vector(text, n)
                )
        scores.append(10 / 4 * total / len(texts))
    return scores


@pytest.mark.parametrize("seed", range(10))
def test_cider_equals_its_equation(seed):
    references, captions = random_texts(seed)
    expected = plain_cider(references, captions, references)
    np.testing.assert_allclose(cider(references, captions)[1], expected, atol=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_cider_with_the_frequencies_of_other_images(seed):
    corpus, _ = random_texts(seed, images=20)
    references, captions = random_texts(seed + 100, images=3)
    captions[0] += " z z y"  # words that the frequencies do not know
    references[1][0] += " z y"
    expected = plain_cider(references, captions, corpus)
    frequencies = document_frequencies(corpus)
    np.testing.assert_allclose(cider(references, captions, frequencies)[1], expected, atol=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_rouge_equals_the_table_of_its_subsequences(seed):
    draw = random.Random(seed)
    a, b = (draw.choices("abcd", k=draw.randint(1, 90)) for _ in range(2))
    table = np.zeros((len(a) + 1, len(b) + 1), int)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1, j + 1] = (
                table[i, j] + 1 if x == y else max(table[i, j + 1], table[i + 1, j])
            )
    precision, recall = table[-1, -1] / len(a), table[-1, -1] / len(b)
    expected = 2.44 * precision * recall / (recall + 1.44 * precision) if precision else 0
    assert rouge_l([[" ".join(b)]], [" ".join(a)])[0] == pytest.approx(expected)


# --- laws


def toy() -> tuple[dict[int, list[str]], dict[int, str]]:
    references = {
        1: ["A man rides a horse.", "A rider on a brown horse"],
        2: ["Two dogs play in the snow.", "Dogs are playing outside", "Snow, and two dogs"],
        3: ["A red bus on the street"],
    }
    return references, {1: "A man on a horse", 2: "Two dogs in the snow!", 3: "A bus"}


def test_a_caption_equal_to_its_only_reference_is_perfect():
    captions = {1: "A man rides a brown horse.", 2: "Two dogs play in the snow"}
    result = score({image: [text] for image, text in captions.items()}, captions)
    for values in (result["corpus"], *result["per_image"].values()):
        perfect = {"Bleu_1": 1, "Bleu_2": 1, "Bleu_3": 1, "Bleu_4": 1, "ROUGE_L": 1, "CIDEr": 10}
        assert values == pytest.approx(perfect)


def test_the_order_of_images_and_references_changes_nothing():
    references, captions = toy()
    result = score(references, captions)
    turned = {image: references[image][::-1] for image in (3, 1, 2)}
    again = score(turned, {image: captions[image] for image in (2, 3, 1)})
    assert again["corpus"] == pytest.approx(result["corpus"], abs=1e-12)
    for image, values in result["per_image"].items():
        assert again["per_image"][image] == pytest.approx(values, abs=1e-12)


def test_other_names_for_the_words_change_nothing():
    references, captions = random_texts(0)
    rename = str.maketrans("abcde", "vzxwy")
    renamed = [[text.translate(rename) for text in texts] for texts in references]
    for metric in (bleu, rouge_l, cider):
        ours, theirs = (
            metric(references, captions),
            metric(renamed, [c.translate(rename) for c in captions]),
        )
        np.testing.assert_allclose(theirs[1], ours[1], atol=1e-12)


def test_a_reward_does_not_depend_on_its_batch():
    references, captions = random_texts(1, images=12)
    frequencies = document_frequencies(references)
    _, all_B = cider(references, captions, frequencies)
    np.testing.assert_allclose(all_B, cider(references, captions)[1], atol=1e-12)
    for b in range(12):
        _, alone = cider(references[b : b + 1], captions[b : b + 1], frequencies)
        np.testing.assert_allclose(alone, all_B[b], atol=1e-12)


def test_an_empty_caption_scores_0_and_an_empty_reference_is_legal():
    references, captions = toy()
    result = score({**references, 3: ["...", "A bus"]}, {**captions, 2: ""})
    assert result["per_image"][2] == pytest.approx(dict.fromkeys(result["corpus"], 0), abs=1e-12)
    assert result["per_image"][3]["ROUGE_L"] == pytest.approx(1)
    both = score({1: ["."], 2: ["."]}, {1: "", 2: "?"})["corpus"]
    assert both.pop("ROUGE_L") == 1  # officially, one empty word equals another
    assert both == pytest.approx(dict.fromkeys(both, 0), abs=1e-12)


def test_cider_of_one_image_is_0_with_a_warning():
    with pytest.warns(UserWarning, match="of one image it is 0"):
        result = score({1: ["a man rides a horse"]}, {1: "a man rides a horse"})
    assert result["corpus"]["CIDEr"] == 0
    assert result["corpus"]["Bleu_4"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("references", "captions", "message"),
    [
        ({1: ["a"]}, {1: "a", 2: "b"}, r"1 image \(2\) captioned but without references"),
        ({1: ["a"]}, {"1": "a"}, r"1 image \('1'\) captioned .*\(1 is not '1'\)"),
        ({i: ["a"] for i in range(9)}, {8: "a"}, r"8 images \(0, 1, 2, 3, 4, \.\.\.\) .* caption "),
        ({1: ["a"], 2: []}, {1: "a", 2: "b"}, r"1 image \(2\) with an empty list"),
        ({1: "a man"}, {1: "a"}, r"1 image \(1\) with one string as references"),
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
