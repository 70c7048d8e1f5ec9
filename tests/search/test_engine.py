"""The beam engine against every hypothesis there is, and what must not change its results."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as draws

from captioner.search import SCORES, Beam, Greedy, Sample
from captioner.types import BOS, EOS, PAD
from tests.helpers import brute, decoders
from tests.helpers.brute import GRADES, V, agrees, hypotheses_of, random_decoder, rows
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


@settings(max_examples=200, deadline=None)
@given(
    draws.integers(0, 2**31), draws.integers(1, 4), draws.integers(1, 5), draws.integers(1, 5),
    draws.sampled_from(SCORES), draws.floats(0, 2), draws.booleans(),
)  # fmt: skip
def test_on_any_step(seed, images, width, max_length, score, penalty, peaked):
    """Random steps: scores are those of what is said, best first, distinct, in every image."""
    random = torch.Generator().manual_seed(seed)
    table_VV = (8 if peaked else 1) * torch.randn(V, V, generator=random).double()
    table_VV[:, [PAD, BOS]] = -torch.inf
    table_VV = table_VV.log_softmax(1)
    captions = Beam(width, penalty, width, max_length, score)(
        lambda token_N, memory, state: (table_VV[token_N], state), {}, rows(images * width)
    )
    for b, hypotheses in enumerate(hypotheses_of(captions)):
        assert hypotheses and len(set(hypotheses)) == len(hypotheses)
        for k, tokens in enumerate(hypotheses):
            assert tokens[-1] == EOS or len(tokens) == max_length
            total = sum(table_VV[a, z].item() for a, z in zip((BOS, *tokens), tokens))
            expected = GRADES[score](total, len(tokens), penalty)
            assert abs(expected - captions.score_BK[b, k].item()) < 1e-9
        assert (captions.score_BK[b].nan_to_num(neginf=-1e9).diff() <= 0).all()
        assert torch.equal(captions.token_BKT[b], captions.token_BKT[0])
