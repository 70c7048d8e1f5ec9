"""Beam search with every score, in groups, and without replacement."""

import math
from functools import partial

import pytest
import torch

from captioner.search import SCORES, Beam, Greedy, StochasticBeam
from captioner.search.rules import forbid
from captioner.types import BOS, EOS, PAD
from tests.helpers import brute
from tests.helpers.brute import V, agrees, hypotheses_of, random_decoder, rows, run, unpadded


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("penalty", [0.0, 0.7, 1.0, 2.0])
@pytest.mark.parametrize("n", [1, 81])
def test_with_every_score(score, penalty, n):
    decoder = random_decoder(3, V)
    assert agrees(decoder, Beam(81, penalty, n, 4, score)) == [121, 121]


@pytest.mark.parametrize("seed", range(20))
def test_beam_of_one_equals_greedy_in_tokens_and_scores(seed):
    features, greedy = run(Greedy(max_length=8), random_decoder(seed))
    _, beam = run(Beam(1, 0.0, max_length=8), random_decoder(seed), features)
    T = greedy.token_BKT.shape[2]
    assert torch.equal(beam.token_BKT[:, :, :T], greedy.token_BKT)
    assert (beam.token_BKT[:, :, T:] == PAD).all()
    torch.testing.assert_close(beam.score_BK, greedy.score_BK, atol=1e-12, rtol=0)


def test_the_mean_score_does_not_fall_with_the_width():
    means = []
    for width in (1, 2, 4, 8):
        beam = Beam(width, 0.0, max_length=6)
        scores = [run(beam, random_decoder(seed), 40)[1].score_BK for seed in range(20)]
        means.append(torch.stack(scores).mean().item())
    assert means == sorted(means)
    assert means[-1] > means[0] + 0.01


def beam_by_lists(table_VV, width, groups, diversity, T, grade):
    """Diverse beam search of one image as a page of Python: {tokens: score}. With one group it is
    beam search, whatever the diversity."""
    V, k = len(table_VV), width // groups
    live = [[(0.0, (BOS,))] for _ in range(groups)]
    finished = [[] for _ in range(groups)]
    for t in range(1, T + 1):
        used = []
        for g in range(groups):
            grown = [
                (total + table_VV[words[-1]][v], (*words, v))
                for total, words in live[g]
                for v in range(V)
            ]
            grown = [one for one in grown if one[0] > -math.inf]
            grown.sort(key=lambda one: -(one[0] - diversity * used.count(one[1][-1])))
            finished[g] += [
                (grade(total, t), words) for total, words in grown[:k] if words[-1] == EOS or t == T
            ]
            live[g] = [one for one in grown if one[1][-1] != EOS][:k]
            used += [words[-1] for _, words in live[g]]
    best = [sorted(group, reverse=True)[:k] for group in finished]
    return {words[1:]: score for group in best for score, words in group}


@pytest.mark.parametrize("width, groups", [(1, 1), (4, 1), (2, 2), (3, 3), (4, 2), (6, 3), (6, 2)])
@pytest.mark.parametrize("diversity", [0.0, 0.3, 1.0, 5.0])
@pytest.mark.parametrize("score", SCORES)
def test_beam_search_by_lists(width, groups, diversity, score):
    for seed in range(10):
        penalty, max_length = seed % 4 / 2, 1 + seed % 5
        grade = partial(brute.GRADES[score], a=penalty)
        random = torch.Generator().manual_seed(seed)
        table_VV = torch.randn(8, 8, generator=random).double()
        table_VV[:, [PAD, BOS]] = -torch.inf
        table_VV[torch.rand(8, 8, generator=random) < 0.3] = -torch.inf  # groups can die out
        table_VV[:, EOS] = table_VV[:, EOS].nan_to_num(neginf=-1.0)
        table_VV = table_VV.log_softmax(1)
        captions = Beam(width, penalty, width, max_length, score, groups, diversity)(
            lambda token_N, memory, state, p=table_VV: (p[token_N], state), {}, rows(2 * width)
        )
        expected = beam_by_lists(table_VV.tolist(), width, groups, diversity, max_length, grade)
        for hypotheses, score_K in zip(hypotheses_of(captions), captions.score_BK.tolist()):
            assert len(hypotheses) == len(expected)  # what two groups find is there once
            assert dict(zip(hypotheses, score_K)) == pytest.approx(expected, abs=1e-9)
            assert score_K == sorted(score_K, reverse=True)


def test_gumbels_of_many_words_in_float32():
    """A uniform number that is rounded to 1 would be infinite noise."""
    table_NV = torch.randn(1, 9487, generator=torch.Generator().manual_seed(0))
    table_NV[:, [PAD, BOS]] = -torch.inf
    step = lambda token_N, memory, state: (table_NV.expand(len(token_N), -1), state)  # noqa: E731
    for first in range(0, 150, 25):
        numbers = list(range(first, first + 25))
        captions = StochasticBeam(5, max_length=4)(step, {}, rows(125), image_numbers=numbers)
        assert captions.log_prob_BK.isfinite().all()


@pytest.mark.parametrize("rules", [(), (forbid(5),)])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_sampling_without_replacement_is_drawing_one_after_the_other(rules, temperature):
    """Two of three or four: pairs come as often as when drawn from an urn; two steps deep."""
    images = 6000
    step = brute.markov({BOS: {3: 0.4, 4: 0.6}, 3: {5: 0.5, 6: 0.5}, 4: {5: 0.3, 6: 0.7}})
    strategy = StochasticBeam(2, temperature, max_length=4)
    captions = strategy(step, {}, rows(2 * images), rules)
    p = {}
    for first, row in ((3, {5: 0.5, 6: 0.5}), (4, {5: 0.3, 6: 0.7})):
        power = {w: x ** (1 / temperature) for w, x in row.items() if w != 5 or not rules}
        outer = {3: 0.4 ** (1 / temperature), 4: 0.6 ** (1 / temperature)}
        for word, x in power.items():
            p[first, word] = outer[first] / sum(outer.values()) * x / sum(power.values())
    pairs = {}
    for a in p:
        for b in p:
            if a != b:
                key = frozenset((a, b))
                pairs[key] = pairs.get(key, 0) + p[a] * p[b] / (1 - p[a])
    keys = list(pairs)
    counts = torch.zeros(len(keys)).double()
    for hypotheses in captions.token_BKT.tolist():
        counts[keys.index(frozenset(unpadded(tokens)[:2] for tokens in hypotheses))] += 1
    expected = images * torch.tensor([pairs[key] for key in keys]).double()
    assert brute.chi_square(counts, expected) < 20.6  # p = 0.001 at 5 degrees of freedom


def test_without_replacement_every_hypothesis_comes_if_there_are_no_more():
    decoder = random_decoder(2, V)
    features, captions = run(StochasticBeam(45, max_length=3), decoder, 1)
    assert set(hypotheses_of(captions)[0]) == set(brute.every_hypothesis(V, 3))
    torch.testing.assert_close(captions.log_prob_BK.exp().sum(), torch.tensor(1.0).double())
    assert captions.log_prob_BK[0, 40:].tolist() == [-math.inf] * 5
