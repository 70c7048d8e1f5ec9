"""Samples are drawn from the distribution that the options describe."""

import pytest
import torch

from captioner.search import Sample, base
from captioner.search.rules import forbid
from captioner.types import BOS, EOS, PAD
from tests.helpers.brute import STRATEGIES, chi_square, markov, random_decoder, rows, run

P = {3: 0.12, 4: 0.5, 5: 0.08, 6: 0.3}


@pytest.mark.parametrize(
    "options, kept",
    [
        (dict(), [3, 4, 5, 6]),
        (dict(temperature=0.5), [3, 4, 5, 6]),
        (dict(top_k=2), [4, 6]),
        (dict(top_p=0.75), [4, 6]),
        (dict(top_p=0.85), [3, 4, 6]),
        (dict(typical_p=0.25), [6]),  # entropy 1.16; -log p: 2.12, 0.69, 2.53, 1.20
        (dict(typical_p=0.6), [4, 6]),
        (dict(typical_p=0.85), [3, 4, 6]),
    ],
)
def test_sampling_frequencies_match_probabilities(options, kept):
    n = 4000
    captions = Sample(n=n, max_length=3, **options)(markov({BOS: P}), {}, rows(n))
    counts = torch.bincount(captions.token_BKT[0, :, 0], minlength=7).double()
    q = torch.zeros(7).double()
    for word in kept:
        q[word] = P[word] ** (1 / options.get("temperature", 1))
    assert chi_square(counts, n * q / q.sum()) < 16.3  # p = 0.001 at 3 degrees of freedom


def test_a_sample_that_a_rule_stops_leaves_the_others():
    step = markov({BOS: {3: 0.5, 4: 0.5}})
    captions = Sample(n=20)(step, {}, rows(20), [forbid((3, EOS))])
    ended = (captions.score_BK > -torch.inf).sum().item()
    assert 0 < ended < 20 and captions.error_B == [None]
    assert (captions.token_BKT[0, :ended, :2] == torch.tensor([4, EOS])).all()
    assert (captions.token_BKT[0, ended:] == PAD).all()


def test_without_float64_on_the_device_the_cpu_draws_the_same(monkeypatch):
    """As on MPS."""
    features, captions = run(STRATEGIES["hot"], random_decoder())
    mps, cpu = torch.device("mps"), torch.device("cpu")
    assert (base.float64_device(mps), base.float64_device(cpu)) == (cpu, cpu)
    moved = []
    monkeypatch.setattr(base, "float64_device", lambda device: moved.append(device) or cpu)
    again = run(STRATEGIES["hot"], random_decoder(), features)[1]
    assert moved and torch.equal(again.token_BKT, captions.token_BKT)
