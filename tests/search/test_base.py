"""Laws of every strategy, over random decoders."""

import math

import pytest
import torch

from captioner.errors import InputError
from captioner.search import Beam, Consensus, Greedy, Sample, StochasticBeam
from captioner.search.base import top
from captioner.search.include import MustInclude
from captioner.search.rules import forbid, min_length
from captioner.types import EOS, PAD, UNK, Features
from tests.helpers import brute
from tests.helpers.brute import (
    every_short_strategy,
    every_strategy,
    hypotheses_of,
    random_decoder,
    run,
)


@every_strategy
@pytest.mark.parametrize("rules", [(), (forbid(UNK), min_length(2))])
def test_scores_are_teacher_forced_log_probabilities(name, rules):
    strategy, lengths = brute.STRATEGIES[name], set()
    for seed in range(8):
        decoder = random_decoder(seed, vocabulary=9)
        features, captions = run(strategy, decoder, rules=rules)
        for b, hypotheses in enumerate(hypotheses_of(captions)):
            assert len(set(hypotheses)) == len(hypotheses) or isinstance(strategy, Sample)
            assert rules or len(hypotheses) >= min(2, strategy.rows)
            truth = brute.log_probs(decoder, brute.one(features, b), hypotheses)
            for k, tokens in enumerate(hypotheses):
                lengths.add(len(tokens))
                assert EOS not in tokens[:-1] and len(tokens) <= 6
                assert abs(captions.log_prob_BK[b, k].item() - truth[k]) < 1e-9
                if isinstance(strategy, Consensus):  # its scores have a test of their own
                    continue
                grade = brute.GRADES[getattr(strategy, "score", "power")]
                score = grade(truth[k], len(tokens), getattr(strategy, "length_penalty", 0))
                assert abs(captions.score_BK[b, k].item() - score) < 1e-9
        assert (captions.score_BK.nan_to_num(neginf=-1e9).diff(dim=1) <= 0).all()
    assert len(lengths) >= 3  # some ended early, some late or never


@every_strategy
def test_batches_and_their_order_change_nothing(name):
    """In float64, though images leave at other times; alone, by seven, and in another order."""
    strategy, decoder = brute.STRATEGIES[name], random_decoder(1, vocabulary=9)
    features, together = run(strategy, decoder, 24)
    shuffled = torch.randperm(24).tolist()
    for size, order in ((1, range(24)), (7, range(24)), (24, shuffled)):
        for start in range(0, 24, size):
            numbers = list(order)[start : start + size]
            chosen = Features(*(part[numbers] for part in features[:2]))
            _, alone = run(strategy, decoder, chosen, image_numbers=numbers)
            T = alone.token_BKT.shape[2]
            assert torch.equal(alone.token_BKT, together.token_BKT[numbers, :, :T])
            assert (together.token_BKT[numbers, :, T:] == PAD).all()
            torch.testing.assert_close(alone.score_BK, together.score_BK[numbers])


@every_strategy
def test_half_precision_is_summed_in_float32(name):
    decoder = random_decoder(0, vocabulary=9).to(torch.bfloat16)
    features = Features(*(part.to(torch.bfloat16) for part in brute.pictures(4)[:2]))
    _, captions = run(brute.STRATEGIES[name], decoder, features)
    assert captions.score_BK.dtype == captions.log_prob_BK.dtype == torch.float32
    assert (captions.score_BK[:, 0] > -torch.inf).all()


@every_strategy
def test_a_language_model_has_no_image(name):
    decoder, strategy = random_decoder(0, vocabulary=9), brute.STRATEGIES[name]
    with torch.no_grad():
        captions = strategy(decoder.step, *decoder.start(None, 2 * strategy.rows))
    assert captions.token_BKT.shape[0] == 2 and (captions.score_BK[:, 0] > -torch.inf).all()


@every_short_strategy
def test_a_decoder_that_has_diverged_is_named(strategy):
    decoder = random_decoder()
    decoder.W_hy.weight.data[:] = torch.nan
    with pytest.raises(InputError, match="diverged"):
        run(strategy, decoder)


@every_short_strategy
def test_rules_that_leave_nothing_are_reported_for_their_image_alone(strategy):
    """Images 5 and 7 are stopped by different rules, after different words; 6 is not disturbed."""
    rules = [
        min_length(1),
        forbid(in_image={5: [EOS, UNK, 4, 5, 6]}),
        forbid(in_image={7: [(w, v) for w in range(2, 7) for v in range(2, 7)]}),
    ]
    decoder = random_decoder()
    features, captions = run(strategy, decoder, 3, rules=rules, image_numbers=[5, 6, 7])
    assert captions.error_B == [
        "the rule forbid(in_image) leaves no word possible after 0 words",
        None,
        "the rule forbid(in_image) leaves no word possible after 1 word",
    ]
    assert (captions.score_BK[[0, 2]] == -torch.inf).all()
    assert (captions.token_BKT[[0, 2]] == PAD).all()
    _, alone = run(strategy, decoder, brute.one(features, 1), rules=rules, image_numbers=[6])
    T = alone.token_BKT.shape[2]
    assert torch.equal(captions.token_BKT[1:2, :, :T], alone.token_BKT)


def test_samples_repeat_with_their_seed_only():
    decoder = random_decoder(0, vocabulary=20, sharp=1.0)
    for make in (lambda seed: Sample(n=5, seed=seed), lambda seed: StochasticBeam(5, seed=seed)):
        torch.manual_seed(5)
        features, first = run(make(1), decoder)
        before = torch.get_rng_state()
        assert torch.equal(first.token_BKT, run(make(1), decoder, features)[1].token_BKT)
        assert torch.equal(before, torch.get_rng_state())
        other = run(make(2), decoder, features)[1]
        assert first.log_prob_BK.tolist() != other.log_prob_BK.tolist()


def test_numbers_are_those_of_the_images():
    with pytest.raises(InputError, match="2 image numbers for 3 images"):
        run(Greedy(), random_decoder(), 3, image_numbers=[0, 1])
    with pytest.raises(InputError, match="0 or more"):
        run(Greedy(), random_decoder(), 2, image_numbers=[0, -1])
    features, captions = run(
        Sample(n=2, seed=1), random_decoder(), 2, image_numbers=torch.tensor([4, 9])
    )
    _, again = run(Sample(n=2, seed=1), random_decoder(), features, image_numbers=[4, 9])
    assert torch.equal(captions.token_BKT, again.token_BKT)


@pytest.mark.parametrize("strategy", [Greedy(3), Sample(max_length=3), StochasticBeam(2)])
def test_must_include_needs_beam_search(strategy):
    with pytest.raises(InputError, match="search=beam"):
        run(strategy, random_decoder(), must_include=MustInclude(4))


WRONG = {
    Beam: dict(
        width=[0, 2.5, True], n=[0, 6], length_penalty=[-1.0, math.nan], max_length=[0],
        score=["best"], groups=[2], diversity=[-1, math.inf],
    ),
    Greedy: dict(max_length=[0]),
    Sample: dict(
        temperature=[0.0, math.inf], seed=[-1], top_k=[0], top_p=[1.5], typical_p=[0.0], n=[0],
        score=["sum"],
    ),
    StochasticBeam: dict(n=[0], temperature=[-1], seed=[1.5]),
    Consensus: dict(samples=[0], n=[6], length_penalty=[-1.0], temperature=[0.0]),
}  # fmt: skip


@pytest.mark.parametrize(
    "Strategy, name, value",
    [(S, name, value) for S in WRONG for name in WRONG[S] for value in WRONG[S][name]],
)
def test_a_wrong_option_is_named(Strategy, name, value):
    with pytest.raises(InputError, match=rf"^search\.{name}={value}: "):
        Strategy(**{name: value})


@pytest.mark.parametrize("words", [4, 63, 1000, 1024])
def test_top_is_the_start_of_the_sorted_row(words):
    x_NV = torch.randn(7, words).masked_fill(torch.rand(7, words) < 0.3, -torch.inf)
    best_NC, word_NC = top(x_NV, 6)
    assert torch.equal(best_NC, x_NV.sort(dim=1, descending=True).values[:, :6])
    assert torch.equal(x_NV.gather(1, word_NC), best_NC)
    assert all(len(row) == len(set(row)) for row in word_NC.tolist())
