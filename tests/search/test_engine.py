"""The beam engine against every hypothesis there is, and what must not change its results."""

import pytest
import torch

from captioner.search import SCORES, Beam, Greedy, Sample
from tests.helpers import brute, decoders
from tests.helpers.brute import V, agrees, random_decoder
from tests.helpers.laws import OnOne

DECODERS = decoders.DECODERS | {
    "ensemble": lambda vocabulary: OnOne(
        [decoders.transformer(vocabulary), decoders.DECODERS["SoftAttention-LSTM-dot"](vocabulary)],
        "prob",
    )
}


@pytest.mark.parametrize("make", DECODERS.values(), ids=DECODERS)
def test_a_wide_beam_equals_brute_force(make):
    decoder = make(V).eval()
    for parameter in decoder.parameters():
        parameter.data += 0.7 * torch.randn_like(parameter)
    assert agrees(decoder, Beam(27, 0.7, n=27, max_length=3)) == [40, 40]


def counted(decoder):
    """Its step, and the list of how many rows each call of it has."""
    sizes = []

    def step(token_N, memory, state):
        sizes.append(len(token_N))
        return decoder.step(token_N, memory, state)

    return step, sizes


@pytest.mark.parametrize(
    "strategy", [Beam(2, max_length=20), Greedy(20), Sample(n=2, max_length=20)]
)
def test_images_that_are_done_leave_the_batch(strategy):
    left = 0
    for seed in range(5):
        decoder = random_decoder(seed, vocabulary=9)
        step, sizes = counted(decoder)
        strategy(step, *decoder.start(brute.pictures(40), 40 * strategy.rows))
        if isinstance(strategy, Beam):
            assert sizes.pop(0) == 40  # the rows of an image are still equal
        assert sizes[0] == 40 * strategy.rows and sizes == sorted(sizes, reverse=True)
        left += sizes[-1] < sizes[0]
    assert left >= 2  # in the others all are done at once


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("n", [1, 2])
def test_stopping_early_changes_nothing(n, score):
    """The first of n are the first of n = K, which is searched for longer."""
    shorter = 0
    for seed in range(20):
        decoder = random_decoder(seed)
        step, sizes = counted(decoder)
        memory, state = decoder.start(brute.pictures(4), 16)
        few = Beam(4, 0.8, n, 8, score)(step, memory, state)
        first = len(sizes)
        all_four = Beam(4, 0.8, 4, 8, score)(step, memory, state)
        shorter += first < len(sizes) - first
        assert torch.equal(few.token_BKT, all_four.token_BKT[:, :n])
        assert torch.equal(few.score_BK, all_four.score_BK[:, :n])
    assert shorter
