"""Search over random decoders: laws, and every hypothesis there is."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from captioner.decoders.attention import AdaptiveAttention, SoftAttention, UpDown
from captioner.decoders.cells import CELLS
from captioner.decoders.ensemble import Ensemble
from captioner.decoders.minds_eye import MindsEye
from captioner.decoders.mrnn import MRNN
from captioner.decoders.recurrent import INJECT, Recurrent
from captioner.decoders.transformer import Transformer
from captioner.errors import InputError
from captioner.search import SCORES, Beam, Consensus, Greedy, Sample, StochasticBeam
from captioner.search.include import MustInclude
from captioner.search.rules import forbid, min_length
from captioner.types import BOS, EOS, PAD, UNK, Features, PerMember
from tests.helpers import brute
from tests.helpers.brute import GRADES, V, agrees, log_probs, one, random_decoder, run, said
from tests.helpers.laws import D


class OnOne(Ensemble):
    """Every member sees the same features."""

    def start(self, features, rows):
        return super().start(PerMember([features] * len(self.members)), rows)


DECODERS = {
    **{
        f"{cell}-{inject}": lambda cell=cell, inject=inject: Recurrent(
            V, D, cell, 6, 6, inject=inject, dropout=0.0
        )
        for cell in CELLS
        for inject in INJECT
    },
    "two layers": lambda: Recurrent(V, D, ["GRU", "LSTM"], 5, 6, layers=2, dropout=0.0),
    "mrnn": lambda: MRNN(V, D, 4, 5, 6, dropout=0.0),
    "minds_eye": lambda: MindsEye(V, D, "GRU", 4, 5, 6, dropout=0.0),
    "soft": lambda: SoftAttention(V, D, "LSTM", 4, 5, 6, dropout=0.0),
    "adaptive": lambda: AdaptiveAttention(V, D, "GRU", 4, 5, 6, "dot", dropout=0.0),
    "up_down": lambda: UpDown(V, D, "LSTM", 4, 5, 6, dropout=0.0),
    "transformer": lambda: Transformer(V, D, 8, 2, 2, 12, dropout=0.0),
    "ensemble": lambda: OnOne([DECODERS["transformer"](), DECODERS["soft"]()], "prob"),
}


@pytest.mark.parametrize("name", DECODERS)
def test_a_wide_beam_equals_brute_force(name):
    torch.manual_seed(0)
    decoder = DECODERS[name]().double().eval()
    for parameter in decoder.parameters():
        parameter.data += 0.7 * torch.randn_like(parameter)
    assert agrees(decoder, Beam(27, 0.7, n=27, max_length=3)) == [40, 40]


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


@every_strategy
@pytest.mark.parametrize("rules", [(), (forbid(UNK), min_length(2))])
def test_scores_are_teacher_forced_log_probabilities(name, rules):
    strategy, lengths = STRATEGIES[name], set()
    for seed in range(8):
        decoder = random_decoder(seed, vocabulary=9)
        features, found = run(strategy, decoder, rules=rules)
        for b, hypotheses in enumerate(found.token_BKT.tolist()):
            hypotheses = [said(tokens) for tokens in hypotheses if said(tokens)]
            truth = log_probs(decoder, one(features, b), hypotheses)
            for k, tokens in enumerate(hypotheses):
                lengths.add(len(tokens))
                assert EOS not in tokens[:-1] and len(tokens) <= 6
                assert abs(found.log_prob_BK[b, k].item() - truth[k]) < 1e-9
                if isinstance(strategy, Consensus):  # its scores have a test of their own
                    continue
                grade = GRADES[getattr(strategy, "score", "power")]
                score = grade(truth[k], len(tokens), getattr(strategy, "length_penalty", 0))
                assert abs(found.score_BK[b, k].item() - score) < 1e-9
        assert (found.score_BK.nan_to_num(neginf=-1e9).diff(dim=1) <= 0).all()
    assert len(lengths) >= 3  # some ended early, some late or never


def test_the_mean_score_does_not_fall_with_the_width():
    means = []
    for width in (1, 2, 4, 8):
        scores = [
            run(Beam(width, 0.0, max_length=6), random_decoder(seed))[1].score_BK
            for seed in range(200)
        ]
        means.append(torch.stack(scores).mean().item())
    assert means == sorted(means)
    assert means[-1] > means[0] + 0.01


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
    return {"h": torch.zeros(count, 1).double()}


def test_that_it_never_falls_for_one_image_is_no_law():
    """Two better beginnings push out what ends well."""
    A, B, x, junk = 3, 4, 5, range(10, 20)
    step = markov(
        {
            BOS: {A: 0.6, B: 0.4},
            A: {x: 0.3, 6: 0.25, 7: 0.25, 8: 0.2},
            B: {9: 0.5, 20: 0.5},
            9: {word: 0.1 for word in junk},
            20: {word: 0.1 for word in junk},
        }
    )
    narrow = Beam(1, 0.0, max_length=5)(step, {}, rows(1))
    wide = Beam(2, 0.0, max_length=5)(step, {}, rows(2))
    assert said(narrow.token_BKT[0, 0].tolist()) == (A, x, EOS)
    torch.testing.assert_close(narrow.score_BK.exp(), torch.tensor([[0.18]]).double())
    torch.testing.assert_close(wide.score_BK.exp(), torch.tensor([[0.02]]).double())


@every_strategy
def test_batches_and_their_order_change_nothing(name):
    """In float64, though images leave at other times; alone, by seven, and in another order."""
    strategy, decoder = STRATEGIES[name], random_decoder(1, vocabulary=9)
    features, together = run(strategy, decoder, 64)
    shuffled = torch.randperm(64).tolist()
    for size, order in ((1, range(64)), (7, range(64)), (64, shuffled)):
        for start in range(0, 64, size):
            numbers = list(order)[start : start + size]
            some_features = Features(*(part[numbers] for part in features[:2]))
            _, alone = run(strategy, decoder, some_features, image_numbers=numbers)
            T = alone.token_BKT.shape[2]
            assert torch.equal(alone.token_BKT, together.token_BKT[numbers, :, :T])
            assert (together.token_BKT[numbers, :, T:] == PAD).all()
            torch.testing.assert_close(alone.score_BK, together.score_BK[numbers])


@pytest.mark.parametrize(
    "strategy", [Beam(2, max_length=20), Greedy(20), Sample(n=2, max_length=20)]
)
def test_images_that_are_done_leave_the_batch(strategy):
    left = 0
    for seed in range(5):
        decoder, sizes = random_decoder(seed, vocabulary=9), []

        def step(token_N, memory, state, decoder=decoder, sizes=sizes):
            sizes.append(len(token_N))
            return decoder.step(token_N, memory, state)

        memory, state = decoder.start(brute.pictures(40), 40 * strategy.rows)
        strategy(step, memory, state)
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
        decoder, steps = random_decoder(seed), []

        def step(token_N, memory, state, decoder=decoder, steps=steps):
            steps.append(len(token_N))
            return decoder.step(token_N, memory, state)

        memory, state = decoder.start(brute.pictures(4), 16)
        few = Beam(4, 0.8, n, 8, score)(step, memory, state)
        first = len(steps)
        all_four = Beam(4, 0.8, 4, 8, score)(step, memory, state)
        shorter += first < len(steps) - first
        assert torch.equal(few.token_BKT, all_four.token_BKT[:, :n])
        assert torch.equal(few.score_BK, all_four.score_BK[:, :n])
    assert shorter


@every_strategy
def test_hypotheses_are_distinct(name):
    for seed in range(10):
        _, found = run(STRATEGIES[name], random_decoder(seed, vocabulary=9))
        for hypotheses in found.token_BKT.tolist():
            there = [said(tokens) for tokens in hypotheses if said(tokens)]
            assert len(set(there)) == len(there) or isinstance(STRATEGIES[name], Sample)
            assert len(there) >= (2 if len(hypotheses) > 2 else 1)


def test_one_group_is_beam_search():
    for seed in range(5):
        features, plain = run(Beam(4, n=4, max_length=7), random_decoder(seed))
        _, groups = run(
            Beam(4, n=4, max_length=7, groups=1, diversity=9.0), random_decoder(seed), features
        )
        for a, b in zip(plain, groups):
            assert a == b if isinstance(a, list) else torch.equal(a, b)


def test_groups_differ_where_they_are_told_to():
    """Without diversity every group finds the same; with much of it, other words at each step."""
    decoder = random_decoder(1, vocabulary=12, sharp=1.0)
    features, same = run(Beam(3, 0.0, 3, 5, groups=3, diversity=0.0), decoder)
    _, best = run(Beam(1, 0.0, max_length=5), decoder, features)
    assert torch.equal(same.token_BKT[:, :1], best.token_BKT)
    assert (same.score_BK[:, 1:] == -torch.inf).all() and (same.token_BKT[:, 1:] == PAD).all()
    no_end = [min_length(5)]
    _, other = run(Beam(3, 0.0, 3, 5, groups=3, diversity=1e3), decoder, features, rules=no_end)
    assert (other.score_BK > -torch.inf).all()
    for hypotheses in other.token_BKT.tolist():
        assert all(len({tokens[t] for tokens in hypotheses}) == 3 for t in range(5))


def test_diverse_beam_search_by_hand():
    """Group 2 takes the second word, 0.3 less likely than the first by 0.5 of Hamming diversity."""
    step = markov(
        {BOS: {3: 0.5, 4: 0.3, 5: 0.2}, 3: {EOS: 1.0}, 4: {EOS: 0.6, 5: 0.4}, 5: {EOS: 1.0}}
    )
    strong = Beam(2, 0.0, 2, 4, groups=2, diversity=math.log(0.5 / 0.3) + 0.01)(step, {}, rows(2))
    weak = Beam(2, 0.0, 2, 4, groups=2, diversity=math.log(0.5 / 0.3) - 0.01)(step, {}, rows(2))
    assert [said(tokens) for tokens in strong.token_BKT[0].tolist()] == [(3, EOS), (4, EOS)]
    torch.testing.assert_close(strong.score_BK.exp(), torch.tensor([[0.5, 0.18]]).double())
    assert [said(tokens) for tokens in weak.token_BKT[0].tolist()] == [(3, EOS), ()]


def diverse_by_lists(table_VV, width, groups, diversity, T):
    """Diverse beam search of one image as a page of Python: {tokens: log-probability}."""
    V, k = len(table_VV), width // groups
    live = [[(0.0, (BOS,))] for _ in range(groups)]
    finished = [[] for _ in range(groups)]
    for t in range(1, T + 1):
        said = []
        for g in range(groups):
            grown = [
                (total + table_VV[words[-1]][v], (*words, v))
                for total, words in live[g]
                for v in range(V)
            ]
            grown = [one for one in grown if one[0] > -math.inf]
            grown.sort(key=lambda one: -(one[0] - diversity * said.count(one[1][-1])))
            finished[g] += [one for one in grown[:k] if one[1][-1] == EOS or t == T]
            live[g] = [one for one in grown if one[1][-1] != EOS][:k]
            said += [words[-1] for _, words in live[g]]
    best = [sorted(some, reverse=True)[:k] for some in finished]
    return {words[1:]: total for some in best for total, words in some}


@pytest.mark.parametrize("width, groups", [(2, 2), (3, 3), (4, 2), (6, 3), (6, 2)])
@pytest.mark.parametrize("diversity", [0.3, 1.0, 5.0])
def test_diverse_beam_search_by_lists(width, groups, diversity):
    for seed in range(30):
        random = torch.Generator().manual_seed(seed)
        table_VV = torch.randn(8, 8, generator=random).double()
        table_VV[:, [PAD, BOS]] = -torch.inf
        table_VV[torch.rand(8, 8, generator=random) < 0.3] = -torch.inf  # groups can die out
        table_VV[:, EOS] = table_VV[:, EOS].nan_to_num(neginf=-1.0)
        table_VV = table_VV.log_softmax(1)
        found = Beam(width, 0.0, width, 5, groups=groups, diversity=diversity)(
            lambda token_N, memory, state, p=table_VV: (p[token_N], state), {}, rows(width)
        )
        expected = diverse_by_lists(table_VV.tolist(), width, groups, diversity, 5)
        got = dict(zip(map(said, found.token_BKT[0].tolist()), found.score_BK[0].tolist()))
        got.pop((), None)
        assert got.keys() == expected.keys()
        assert all(abs(got[words] - expected[words]) < 1e-9 for words in got)


def test_gumbels_of_many_words_in_float32():
    """A uniform number that is rounded to 1 would be infinite noise."""
    table_NV = torch.randn(1, 9487, generator=torch.Generator().manual_seed(0))
    table_NV[:, [PAD, BOS]] = -torch.inf
    step = lambda token_N, memory, state: (table_NV.expand(len(token_N), -1), state)  # noqa: E731
    for first in range(0, 150, 25):
        numbers = list(range(first, first + 25))
        found = StochasticBeam(5, max_length=4)(step, {}, rows(125), image_numbers=numbers)
        assert found.log_prob_BK.isfinite().all()


def chi_square(counts, expected):
    assert (counts[expected == 0] == 0).all()
    return ((counts - expected) ** 2 / expected)[expected > 0].sum().item()


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
    found = Sample(n=n, max_length=3, **options)(markov({BOS: P}), {}, rows(n))
    counts = torch.bincount(found.token_BKT[0, :, 0], minlength=7).double()
    q = torch.zeros(7).double()
    for word in kept:
        q[word] = P[word] ** (1 / options.get("temperature", 1))
    assert chi_square(counts, n * q / q.sum()) < 16.3  # p = 0.001 at 3 degrees of freedom


@pytest.mark.parametrize("rules", [(), (forbid(5),)])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_sampling_without_replacement_is_drawing_one_after_the_other(rules, temperature):
    """Two of three or four: pairs come as often as when drawn from an urn; two steps deep."""
    images = 6000
    step = markov({BOS: {3: 0.4, 4: 0.6}, 3: {5: 0.5, 6: 0.5}, 4: {5: 0.3, 6: 0.7}})
    strategy = StochasticBeam(2, temperature, max_length=4)
    found = strategy(step, {}, rows(2 * images), rules)
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
    for hypotheses in found.token_BKT.tolist():
        counts[keys.index(frozenset(said(tokens)[:2] for tokens in hypotheses))] += 1
    expected = images * torch.tensor([pairs[key] for key in keys]).double()
    assert chi_square(counts, expected) < 20.6  # p = 0.001 at 5 degrees of freedom


def test_without_replacement_everything_is_found_where_there_is_not_more():
    decoder = random_decoder(2, V)
    features, found = run(StochasticBeam(45, max_length=3), decoder, 1)
    assert {said(tokens) for tokens in found.token_BKT[0].tolist()} - {()} == set(
        brute.every_hypothesis(V, 3)
    )
    torch.testing.assert_close(found.log_prob_BK.exp().sum(), torch.tensor(1.0).double())
    assert found.log_prob_BK[0, 40:].tolist() == [-math.inf] * 5


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


every_short_strategy = pytest.mark.parametrize(
    "strategy",
    [
        Greedy(3), Beam(2, max_length=3), Sample(n=2, max_length=3),
        StochasticBeam(2, max_length=3), Consensus(2, samples=2, max_length=3),
    ],
)  # fmt: skip


@every_short_strategy
def test_rules_that_leave_nothing_are_said_of_their_image_alone(strategy):
    """Images 5 and 7 are stopped by different rules, after different words; 6 is not disturbed."""
    rules = [
        min_length(1),
        forbid(in_image={5: [EOS, UNK, 4, 5, 6]}),
        forbid(in_image={7: [(w, v) for w in range(2, 7) for v in range(2, 7)]}),
    ]
    decoder = random_decoder()
    features, found = run(strategy, decoder, 3, rules=rules, image_numbers=[5, 6, 7])
    assert found.error_B == [
        "the rule forbid(in_image) leaves no word possible after 0 words",
        None,
        "the rule forbid(in_image) leaves no word possible after 1 word",
    ]
    assert (found.score_BK[[0, 2]] == -torch.inf).all()
    assert (found.token_BKT[[0, 2]] == PAD).all()
    _, alone = run(strategy, decoder, one(features, 1), rules=rules, image_numbers=[6])
    T = alone.token_BKT.shape[2]
    assert torch.equal(found.token_BKT[1:2, :, :T], alone.token_BKT)


def test_a_sample_that_a_rule_stops_leaves_the_others():
    step = markov({BOS: {3: 0.5, 4: 0.5}})
    found = Sample(n=20)(step, {}, rows(20), [forbid((3, EOS))])
    ended = (found.score_BK > -torch.inf).sum().item()
    assert 0 < ended < 20 and found.error_B == [None]
    assert (found.token_BKT[0, :ended, :2] == torch.tensor([4, EOS])).all()
    assert (found.token_BKT[0, ended:] == PAD).all()


@every_strategy
def test_half_precision_is_summed_in_float32(name):
    decoder = random_decoder(0, vocabulary=9).to(torch.bfloat16)
    features = Features(*(part.to(torch.bfloat16) for part in brute.pictures(4)[:2]))
    _, found = run(STRATEGIES[name], decoder, features)
    assert found.score_BK.dtype == found.log_prob_BK.dtype == torch.float32
    assert (found.score_BK[:, 0] > -torch.inf).all()


@every_strategy
def test_a_language_model_has_no_image(name):
    decoder, strategy = random_decoder(0, vocabulary=9), STRATEGIES[name]
    with torch.no_grad():
        found = strategy(decoder.step, *decoder.start(None, 2 * strategy.rows))
    assert found.token_BKT.shape[0] == 2 and (found.score_BK[:, 0] > -torch.inf).all()


@every_short_strategy
def test_a_decoder_that_has_diverged_is_named(strategy):
    decoder = random_decoder()
    decoder.W_hy.weight.data[:] = torch.nan
    with pytest.raises(InputError, match="diverged"):
        run(strategy, decoder)


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
    features, found = run(strategy, decoder)
    beam = run(Beam(6, 0.7, n=6), decoder, features)[1]
    samples = run(Sample(0.8, n=40), decoder, features)[1]
    samples, changed = samples.token_BKT.tolist(), 0
    for b, hypotheses in enumerate(beam.token_BKT.tolist()):
        truth = {}
        for tokens in map(said, hypotheses):
            agreements = [same(words_of(tokens), words_of(other)) for other in samples[b]]
            truth[tokens] = sum(agreements) / 40
        order = [said(tokens) for tokens in found.token_BKT[b].tolist()]
        assert sorted(order) == sorted(truth)
        scores = [truth[tokens] for tokens in order]
        assert found.score_BK[b].tolist() == pytest.approx(scores, abs=1e-9)
        assert scores == sorted(scores, reverse=True)
        changed += order[0] != said(beam.token_BKT[b, 0].tolist())
    assert changed
    best = run(Consensus(6, 0.7, 40, 0.8), decoder, features)[1]
    assert torch.equal(best.token_BKT, found.token_BKT[:, :1])


@pytest.mark.parametrize("strategy", [Greedy(3), Sample(max_length=3), StochasticBeam(2)])
def test_what_must_be_said_needs_beam_search(strategy):
    with pytest.raises(InputError, match="search=beam"):
        run(strategy, random_decoder(), must_include=MustInclude(4))


@settings(max_examples=200, deadline=None)
@given(
    some.integers(0, 2**31), some.integers(1, 4), some.integers(1, 5), some.integers(1, 5),
    some.sampled_from(SCORES), some.floats(0, 2), some.booleans(),
)  # fmt: skip
def test_on_any_step(seed, images, width, max_length, score, penalty, peaked):
    """Random steps: scores are those of what is said, best first, distinct, in every image."""
    random = torch.Generator().manual_seed(seed)
    table_VV = (8 if peaked else 1) * torch.randn(V, V, generator=random).double()
    table_VV[:, [PAD, BOS]] = -torch.inf
    table_VV = table_VV.log_softmax(1)
    found = Beam(width, penalty, width, max_length, score)(
        lambda token_N, memory, state: (table_VV[token_N], state), {}, rows(images * width)
    )
    for b, hypotheses in enumerate(found.token_BKT.tolist()):
        there = [said(tokens) for tokens in hypotheses if said(tokens)]
        assert there and len(set(there)) == len(there)
        for k, tokens in enumerate(there):
            assert tokens[-1] == EOS or len(tokens) == max_length
            total = sum(table_VV[a, z].item() for a, z in zip((BOS, *tokens), tokens))
            assert (
                abs(GRADES[score](total, len(tokens), penalty) - found.score_BK[b, k].item()) < 1e-9
            )
        assert (found.score_BK[b].nan_to_num(neginf=-1e9).diff() <= 0).all()
        assert torch.equal(found.token_BKT[b], found.token_BKT[0])


def test_numbers_are_those_of_the_images():
    with pytest.raises(InputError, match="2 image numbers for 3 images"):
        run(Greedy(), random_decoder(), 3, image_numbers=[0, 1])
    with pytest.raises(InputError, match="0 or more"):
        run(Greedy(), random_decoder(), 2, image_numbers=[0, -1])
    features, found = run(
        Sample(n=2, seed=1), random_decoder(), 2, image_numbers=torch.tensor([4, 9])
    )
    _, again = run(Sample(n=2, seed=1), random_decoder(), features, image_numbers=[4, 9])
    assert torch.equal(found.token_BKT, again.token_BKT)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Beam(0), "search.width=0"),
        (lambda: Beam(2.5), "search.width=2.5"),
        (lambda: Beam(True), "search.width=True"),
        (lambda: Beam(2, n=3), "search.n=3"),
        (lambda: Beam(2, -1.0), "search.length_penalty=-1.0"),
        (lambda: Beam(max_length=0), "search.max_length=0"),
        (lambda: Beam(score="best"), "search.score=best: give one of power, wu, reward"),
        (lambda: Beam(5, groups=2), "search.groups=2: does not divide search.width=5"),
        (lambda: Beam(diversity=-1), "search.diversity=-1"),
        (lambda: Beam(diversity=math.inf), "search.diversity=inf"),
        (lambda: Beam(length_penalty=math.nan), "search.length_penalty=nan"),
        (lambda: Sample(temperature=math.inf), "search.temperature=inf"),
        (lambda: Sample(seed=-1), "search.seed=-1"),
        (lambda: StochasticBeam(seed=1.5), "search.seed=1.5"),
        (lambda: Greedy(0), "search.max_length=0"),
        (lambda: Sample(temperature=0.0), "search.temperature=0.0"),
        (lambda: Sample(top_k=0), "search.top_k=0"),
        (lambda: Sample(top_p=1.5), "search.top_p=1.5"),
        (lambda: Sample(typical_p=0.0), "search.typical_p=0.0"),
        (lambda: Sample(n=0), "search.n=0"),
        (lambda: Sample(score="sum"), "search.score=sum"),
        (lambda: StochasticBeam(0), "search.n=0"),
        (lambda: StochasticBeam(temperature=-1), "search.temperature=-1"),
        (lambda: Consensus(samples=0), "search.samples=0"),
        (lambda: Consensus(2, n=3), "search.n=3: give 1 to search.width=2"),
        (lambda: Consensus(length_penalty=-1.0), "search.length_penalty=-1.0"),
        (lambda: Consensus(temperature=0.0), "search.temperature=0.0"),
    ],
)
def test_a_wrong_option_is_named(make, message):
    with pytest.raises(InputError, match=message):
        make()
