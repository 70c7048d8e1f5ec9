"""Perplexity and retrieval against the unrolled step, by hand, and as laws."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from captioner.data.records import Record
from captioner.decoders.ensemble import Ensemble
from captioner.decoders.recurrent import Recurrent
from captioner.encoders import Blind, Encoders
from captioner.errors import InputError
from captioner.evaluation import likelihood
from captioner.models.caption_model import CaptionModel
from captioner.tokenizers import Char, Tokenizer, Word
from captioner.types import BOS, EOS, UNK, Features, PerMember

TEXTS = [("A dog runs.", "dogs run"), ("a cat sits on grass",), ("the red dog",), ("a cat runs",)]
RECORDS = [Record(i, Path("x"), texts, "val") for i, texts in enumerate(TEXTS)]
FEATURES = torch.randn(4, 5, generator=torch.Generator().manual_seed(3)).double()


def source(index, draw):
    return Features(FEATURES[list(index)])


def model(tokenizer: Tokenizer, seed: int = 0) -> CaptionModel:
    torch.manual_seed(seed)
    decoder = Recurrent(len(tokenizer), 5, embed_size=6, hidden_size=7)
    for parameter in decoder.parameters():
        nn.init.normal_(parameter, std=0.7)
    return CaptionModel(Blind(size=5), decoder, tokenizer, {}).double().eval()


def words(*texts: str) -> Word:
    return Word.train(texts or [text for group in TEXTS for text in group])


def stepwise(captioner: CaptionModel, image: int, ids: list[int]) -> float:
    """The log-probability of ids and END, one `step` after the other."""
    memory, state = captioner.decoder.start(Features(FEATURES[image : image + 1]), 1)
    total = 0.0
    for read, target in zip([BOS, *ids], [*ids, EOS], strict=True):
        logits_NV, state = captioner.decoder.step(torch.tensor([read]), memory, state)
        total += logits_NV.log_softmax(1)[0, target].item()
    return total


@pytest.mark.parametrize("kind, batch_size", [(Word, 1), (Word, 3), (Word, 64), (Char, 32)])
def test_perplexity_is_that_of_the_unrolled_step(kind, batch_size, monkeypatch):
    """Per word and per character, whatever the model reads."""
    monkeypatch.setattr(likelihood, "BATCH", batch_size)
    captioner = model(kind.train(text for texts in TEXTS for text in texts))
    statistics = likelihood.perplexity(captioner, RECORDS, source)
    nats = [
        -sum(stepwise(captioner, i, captioner.tokenizer.encode(text)) for text in texts)
        for i, texts in enumerate(TEXTS)
    ]
    lengths = [3 + 1 + 2 + 1, 6, 4, 4]  # words and an END each
    letters = [11 + 1 + 8 + 1, 20, 12, 11]
    perplexity = math.exp(sum(nats) / sum(lengths))
    bits = sum(nats) / sum(letters) / math.log(2)
    expected = {"perplexity": perplexity, "bits_per_character": bits}
    assert statistics.corpus() == pytest.approx(expected)
    np.testing.assert_allclose(statistics.per_image()[:, 0], np.exp(np.divide(nats, lengths)))


def test_an_unknown_word_is_spelled():
    captioner = model(words("a dog runs", "a cat"))
    unknown = [Record(0, Path("x"), ("a zebra runs",), "val")]
    ids = captioner.tokenizer.encode("a zebra runs")
    assert ids[1] == UNK
    nats = -stepwise(captioner, 0, ids) + 6 * math.log(len(set("a zebra runs")) + 1)
    corpus = likelihood.perplexity(captioner, unknown, source).corpus()
    assert corpus["perplexity"] == pytest.approx(math.exp(nats / 4))


def test_every_word_counts_of_a_caption_longer_than_training_allows():
    tokenizer = Word.train((text for group in TEXTS for text in group), max_length=2)
    corpus = likelihood.perplexity(model(tokenizer), RECORDS, source).corpus()
    assert corpus == pytest.approx(likelihood.perplexity(model(words()), RECORDS, source).corpus())


def test_retrieval_ranks_the_images_by_the_probability_of_the_caption(monkeypatch):
    monkeypatch.setattr(likelihood, "ROWS", 48)  # blocks of 2 and of 2 images
    captioner = model(words())
    sums, corpus = likelihood.retrieval(captioner, RECORDS, source)
    ids = [captioner.tokenizer.encode(texts[0]) for texts in TEXTS]
    log_prob_NB = np.array([[stepwise(captioner, b, row) for b in range(4)] for row in ids])
    ranks = 1 + (log_prob_NB > np.diag(log_prob_NB)[:, None]).sum(1)
    assert len(set(ranks)) > 1
    assert corpus == {"median_rank": np.median(ranks)}
    assert sums.corpus() == {f"R@{k}": np.mean(ranks <= k) for k in (1, 5, 10)}


def test_a_blind_model_finds_nothing():
    def blind(index, draw):
        return Features(torch.zeros(len(index), 5).double())

    many = [Record(i, Path("x"), ("a dog runs",), "val") for i in range(21)]
    sums, corpus = likelihood.retrieval(model(words()), many, blind)
    assert corpus == {"median_rank": 11} and sums.corpus() == {"R@1": 0, "R@5": 0, "R@10": 0}


def test_a_diverged_model_is_no_perfect_one():
    captioner = model(words())
    nn.init.constant_(captioner.decoder.W_hy.weight, math.nan)
    with pytest.raises(InputError, match="its training has diverged"):
        likelihood.retrieval(captioner, RECORDS, source)


def test_ensembles_are_measured_as_one_model():
    members = [model(words(), seed) for seed in (0, 1)]
    encoder = Encoders([member.encoder for member in members])  # type: ignore[misc]
    both = CaptionModel(encoder, Ensemble([m.decoder for m in members]), words(), {}).double()

    def twice(index, draw):
        return PerMember([source(index, draw)] * 2)

    alone = likelihood.perplexity(members[0], RECORDS, source).corpus()["perplexity"]
    together = likelihood.perplexity(both, RECORDS, twice).corpus()["perplexity"]
    assert together != pytest.approx(alone)
    sums, _ = likelihood.retrieval(both, RECORDS, twice)
    assert sums.corpus()["R@5"] == 1
