"""Search by trying everything, for the tests of search and of rules."""

import itertools
import math

import pytest
import torch

from captioner.decoders.base import token_log_probs
from captioner.decoders.recurrent import Recurrent
from captioner.search import Beam, Consensus, Greedy, Sample, StochasticBeam
from captioner.tokenizers import frame
from captioner.types import BOS, EOS, PAD, Features
from tests.helpers.laws import D, R

V = 6  # unk and two words; with END three of them go on

GRADES = {
    "power": lambda total, length, a: total / length**a,
    "wu": lambda total, length, a: total / ((5 + length) / 6) ** a,
    "reward": lambda total, length, a: total + a * length,
}


def random_decoder(seed=0, vocabulary=7, inject="par", cell="LSTM", sharp=2.0):
    """Far from uniform, so that beams differ from greedy, and END comes at different times."""
    torch.manual_seed(seed)
    decoder = Recurrent(vocabulary, D, cell, 6, 6, inject=inject, dropout=0.0).double().eval()
    for parameter in decoder.parameters():
        parameter.data = sharp * torch.randn_like(parameter) / parameter.shape[-1] ** 0.5
    decoder.W_hy.bias.data[EOS] += 1.5
    return decoder


def pictures(images):
    return Features(torch.rand(images, D).double(), torch.rand(images, R, D).double())


def run(strategy, decoder, images=4, **options):
    """Features (given, or drawn) and what the strategy finds."""
    features = images if isinstance(images, Features) else pictures(images)
    with torch.no_grad():
        memory, state = decoder.start(features, len(features.pooled_BD) * strategy.rows)
        return features, strategy(decoder.step, memory, state, **options)


def one(features, b):
    return Features(features.pooled_BD[b : b + 1], features.grid_BRD[b : b + 1])


def unpadded(tokens):
    return tuple(t for t in tokens if t != PAD)


def hypotheses_of(captions):
    """Those of each image, best first, without padding."""
    return [[unpadded(t) for t in rows if unpadded(t)] for rows in captions.token_BKT.tolist()]


def log_probs(decoder, features, hypotheses):
    """Teacher-forced log-probabilities of captions (END included, where it is) of one image."""
    if not hypotheses:
        return []
    with torch.no_grad():
        return token_log_probs(decoder, features, *frame(hypotheses)).log_prob_NT.sum(1).tolist()


def every_hypothesis(vocabulary, max_length):
    """All that can be said: what ends, and unfinished ones of full length."""
    words = [w for w in range(vocabulary) if w not in (PAD, BOS, EOS)]
    prefixes = [p for length in range(max_length) for p in itertools.product(words, repeat=length)]
    return [(*p, EOS) for p in prefixes] + list(itertools.product(words, repeat=max_length))


def agrees(decoder, beam, allowed=lambda hypothesis, b: True, images=2, **options):
    """A wide beam finds the best of all that is allowed, in its order, with its scores.

    Returns how many hypotheses are allowed for each image.
    """
    features, captions = run(beam, decoder, images, **options)
    counts = []
    for b in range(images):
        possible = [
            h for h in every_hypothesis(decoder.vocab_size, beam.max_length) if allowed(h, b)
        ]
        totals = log_probs(decoder, one(features, b), possible)
        scored = [
            (GRADES[beam.score](total, len(h), beam.length_penalty), h)
            for total, h in zip(totals, possible)
        ]
        best = sorted(scored, reverse=True)[: beam.n]
        missing = beam.n - len(best)
        got = [unpadded(tokens) for tokens in captions.token_BKT[b].tolist()]
        assert got == [h for _, h in best] + [()] * missing
        expected = torch.tensor([s for s, _ in best] + [-math.inf] * missing, dtype=torch.float64)
        torch.testing.assert_close(captions.score_BK[b], expected, atol=1e-9, rtol=0)
        assert (captions.error_B[b] is None) == bool(possible)
        counts.append(len(possible))
    return counts


def markov(table):
    """A step whose words depend on the last word: {word: {next word: probability}}."""
    words = {BOS, EOS} | set(table) | {word for row in table.values() for word in row}
    log_prob_VV = torch.full((max(words) + 1, max(words) + 1), -torch.inf).double()
    log_prob_VV[:, EOS] = 0.0
    for last, row in table.items():
        log_prob_VV[last] = -torch.inf
        for word, probability in row.items():
            log_prob_VV[last, word] = math.log(probability)
    return lambda token_N, memory, state: (log_prob_VV[token_N], state)


def rows(count):
    """The state of so many rows of a decoder without memory."""
    return {"h": torch.zeros(count, 1).double()}


STRATEGIES = {
    "greedy": Greedy(6),
    "sum": Beam(4, 0.0, n=4, max_length=6),
    "mean": Beam(4, 1.0, n=4, max_length=6),
    "wu": Beam(4, 0.9, n=4, max_length=6, score="wu"),
    "reward": Beam(4, 0.5, n=4, max_length=6, score="reward"),
    "diverse": Beam(4, 0.8, n=4, max_length=6, groups=2),
    "sample": Sample(n=3, max_length=6),
    "best of n": Sample(n=3, max_length=6, length_penalty=0.7),
    "best by wu": Sample(n=3, max_length=6, score="wu", length_penalty=0.9),
    "hot": Sample(temperature=1.5, top_k=4, top_p=0.9, typical_p=0.9, n=3, max_length=6),
    "stochastic": StochasticBeam(n=3, max_length=6),
    "warm stochastic": StochasticBeam(n=3, temperature=1.5, max_length=6),
    "consensus": Consensus(3, samples=9, n=3, max_length=6),
}


every_strategy = pytest.mark.parametrize("name", STRATEGIES)
every_short_strategy = pytest.mark.parametrize(
    "strategy",
    [
        Greedy(4), Beam(3, n=3, max_length=4), Beam(4, n=4, max_length=4, groups=2),
        Sample(n=3, max_length=4), StochasticBeam(3, max_length=4),
        Consensus(3, samples=3, n=3, max_length=4),
    ],
)  # fmt: skip


def chi_square(counts, expected):
    assert (counts[expected == 0] == 0).all()
    return ((counts - expected) ** 2 / expected)[expected > 0].sum().item()
