"""Consensus against CIDEr-D by its definition."""

import math
from collections import Counter

import pytest
import torch

from captioner.search import Beam, Consensus, Sample
from captioner.types import EOS, PAD
from tests.helpers.brute import random_decoder, run, unpadded


def same(one, other):
    """CIDEr-D of two texts by its definition, each n-gram weighing 1."""
    total = 0.0
    for n in (1, 2, 3, 4):
        g, h = (Counter(zip(*(text[i:] for i in range(n)))) for text in (one, other))
        norm = math.sqrt(sum(x * x for x in g.values()) * sum(x * x for x in h.values()))
        total += sum(min(g[x], h[x]) * h[x] for x in g) / norm if norm else 0.0
    words = [max(len(text) - 1, 0) for text in (one, other)]
    return 10 / 4 * total * math.exp(-((words[0] - words[1]) ** 2) / 72)


def words_of(tokens):
    return tuple(t for t in tokens if t not in (EOS, PAD))


def test_consensus_is_the_hypothesis_that_agrees_most_with_samples():
    decoder, strategy = random_decoder(3, 9, sharp=2.0), Consensus(6, 0.7, 40, 0.8, n=6)
    features, captions = run(strategy, decoder)
    beam = run(Beam(6, 0.7, n=6), decoder, features)[1]
    samples = run(Sample(0.8, n=40), decoder, features)[1]
    samples, changed = samples.token_BKT.tolist(), 0
    for b, hypotheses in enumerate(beam.token_BKT.tolist()):
        truth = {}
        for tokens in map(unpadded, hypotheses):
            agreements = [same(words_of(tokens), words_of(other)) for other in samples[b]]
            truth[tokens] = sum(agreements) / 40
        order = [unpadded(tokens) for tokens in captions.token_BKT[b].tolist()]
        assert sorted(order) == sorted(truth)
        scores = [truth[tokens] for tokens in order]
        assert captions.score_BK[b].tolist() == pytest.approx(scores, abs=1e-9)
        assert scores == sorted(scores, reverse=True)
        changed += order[0] != unpadded(beam.token_BKT[b, 0].tolist())
    assert changed
    best = run(Consensus(6, 0.7, 40, 0.8), decoder, features)[1]
    assert torch.equal(best.token_BKT, captions.token_BKT[:, :1])
