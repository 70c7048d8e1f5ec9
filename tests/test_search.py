"""Search over random decoders: the laws that neuraltalk2's tests hold, and brute force."""

import itertools
import math

import pytest
import torch

from captioner.decoders.base import real_positions
from captioner.decoders.recurrent import INJECT, Recurrent
from captioner.search import Beam, Greedy, Sample, forbid, min_length
from captioner.types import BOS, EOS, PAD, UNK, Features, InputError

D = 4


def random_decoder(seed=0, vocabulary=7, inject="par", cell="LSTM", sharp=2.0):
    """Far from uniform, so that beams differ from greedy, and END comes at different times."""
    torch.manual_seed(seed)
    decoder = Recurrent(vocabulary, D, cell, 5, 6, inject=inject, dropout=0.0).double().eval()
    for parameter in decoder.parameters():
        parameter.data = sharp * torch.randn_like(parameter) / parameter.shape[-1] ** 0.5
    decoder.W_hy.bias.data[EOS] += 1.5
    return decoder


def run(strategy, decoder, images=4, rules=()):
    features = Features(torch.rand(images, D, dtype=torch.float64))
    with torch.no_grad():
        memory, state = decoder.start(features, images * strategy.rows)
        return features, strategy(decoder.step, memory, state, rules)


def log_prob(decoder, features, tokens):
    """Teacher-forced log-probability of one caption (END included where it has one) of image 0."""
    length = len(tokens)
    token_NT = torch.tensor([[BOS, *tokens[:-1]]])
    memory, state = decoder.start(features, 1)
    logits, _, _ = decoder(token_NT, torch.tensor([length]), memory, state)
    return logits.log_softmax(1)[torch.arange(length), list(tokens)].sum().item()


def exhaustive(decoder, features, max_length, penalty):
    """Every hypothesis there is, best first: those that end, and unfinished ones of full length."""
    words = [w for w in range(decoder.vocab_size) if w not in (PAD, BOS, EOS)]
    hypotheses = []
    for length in range(1, max_length + 1):
        for prefix in itertools.product(words, repeat=length - 1):
            hypotheses.append((*prefix, EOS))
    hypotheses += itertools.product(words, repeat=max_length)
    scored = [(log_prob(decoder, features, h) / len(h) ** penalty, h) for h in hypotheses]
    return sorted(scored, reverse=True)


@pytest.mark.parametrize("penalty", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("inject", INJECT)
@pytest.mark.parametrize("cell", ["RNN", "LSTM"])
def test_a_wide_beam_equals_brute_force(cell, inject, penalty):
    max_length = 3
    decoder = random_decoder(3, 6, inject, cell)  # words: unk and two more
    width = 3**max_length
    features, found = run(Beam(width, penalty, n=width, max_length=max_length), decoder, images=2)
    for image in range(2):
        one = Features(features.pooled_BD[image : image + 1])
        expected = exhaustive(decoder, one, max_length, penalty)[:width]
        got = [tuple(t for t in tokens if t != PAD) for tokens in found.token_BKT[image].tolist()]
        assert got == [hypothesis for _, hypothesis in expected]
        torch.testing.assert_close(
            found.score_BK[image],
            torch.tensor([s for s, _ in expected], dtype=torch.float64),
            atol=1e-9,
            rtol=0,
        )


@pytest.mark.parametrize("seed", range(5))
def test_beam_of_one_equals_greedy_in_tokens_and_scores(seed):
    decoder = random_decoder(seed)
    features, greedy = run(Greedy(max_length=8), decoder)
    memory, state = decoder.start(features, len(features.pooled_BD))
    beam = Beam(1, 0.0, max_length=8)(decoder.step, memory, state)
    T = greedy.token_BKT.shape[2]
    assert torch.equal(beam.token_BKT[:, :, :T], greedy.token_BKT)
    assert (beam.token_BKT[:, :, T:] == PAD).all()
    torch.testing.assert_close(beam.score_BK, greedy.score_BK, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    "strategy",
    [Beam(4, 0.0, n=4, max_length=6), Beam(4, 1.0, n=4, max_length=6), Sample(n=3, max_length=6)],
)
def test_scores_are_teacher_forced_log_probabilities(strategy):
    lengths = set()
    for seed in range(8):
        decoder = random_decoder(seed, vocabulary=9)
        features, found = run(strategy, decoder)
        for image, hypotheses in enumerate(found.token_BKT.tolist()):
            one = Features(features.pooled_BD[image : image + 1])
            for k, tokens in enumerate(hypotheses):
                said = [t for t in tokens if t != PAD]
                lengths.add(len(said))
                assert EOS not in said[:-1]
                truth = log_prob(decoder, one, said)
                assert abs(found.log_prob_BK[image, k].item() - truth) < 1e-9
                score = truth / len(said) ** getattr(strategy, "length_penalty", 0)
                assert abs(found.score_BK[image, k].item() - score) < 1e-9
        assert (found.score_BK.diff(dim=1) <= 0).all()
    assert len(lengths) >= 4  # some ended early, some late or never


def test_the_mean_score_does_not_fall_with_the_width():
    means = []
    for width in (1, 2, 4, 8):
        scores = [
            run(Beam(width, 0.0, max_length=6), random_decoder(seed))[1].score_BK
            for seed in range(30)
        ]
        means.append(torch.stack(scores).mean().item())
    assert means == sorted(means)
    assert means[-1] > means[0] + 0.01


def test_images_do_not_disturb_each_other():
    """In float64 every batch size gives the same captions, though images leave at other times."""
    decoder = random_decoder(1, vocabulary=9)
    strategy = Beam(3, 0.5, n=2, max_length=9)
    features, together = run(strategy, decoder, images=17)
    for start, stop in ((0, 1), (1, 8), (8, 17)):
        memory, state = decoder.start(Features(features.pooled_BD[start:stop]), 3 * (stop - start))
        alone = strategy(decoder.step, memory, state)
        assert torch.equal(alone.token_BKT, together.token_BKT[start:stop])
        torch.testing.assert_close(alone.score_BK, together.score_BK[start:stop])


def test_images_that_are_done_leave_the_batch():
    left = 0
    for seed in range(5):
        decoder = random_decoder(seed, vocabulary=9)
        rows = []

        def step(token_N, memory, state, decoder=decoder, rows=rows):
            rows.append(len(token_N))
            return decoder.step(token_N, memory, state)

        memory, state = decoder.start(Features(torch.rand(40, D).double()), 40 * 2)
        Beam(2, max_length=20)(step, memory, state)
        assert rows[0] == 80 and rows == sorted(rows, reverse=True)
        left += rows[-1] < 80
    assert left >= 2  # in the others all are done at once


def test_stopping_early_changes_nothing():
    """The first of n = 1 is the first of n = K, which is searched for longer."""
    for seed in range(20):
        decoder = random_decoder(seed)
        features, one = run(Beam(4, 0.8, n=1, max_length=8), decoder)
        memory, state = decoder.start(features, 4 * len(features.pooled_BD))
        four = Beam(4, 0.8, n=4, max_length=8)(decoder.step, memory, state)
        assert torch.equal(one.token_BKT[:, 0], four.token_BKT[:, 0])


def test_hypotheses_are_distinct():
    _, found = run(Beam(6, n=6, max_length=7), random_decoder(2, vocabulary=9))
    for hypotheses in found.token_BKT.tolist():
        assert len(set(map(tuple, hypotheses))) == 6


def test_forbidden_words_are_not_said_and_scores_stay_true():
    decoder = random_decoder(0)
    for strategy in (Greedy(6), Beam(3, max_length=6), Sample(n=4, max_length=6)):
        features, found = run(strategy, decoder, rules=[forbid(UNK, 5)])
        assert not torch.isin(found.token_BKT, torch.tensor([UNK, 5])).any()
        said = [t for t in found.token_BKT[0, 0].tolist() if t != PAD]
        truth = log_prob(decoder, Features(features.pooled_BD[:1]), said)
        assert abs(found.log_prob_BK[0, 0].item() - truth) < 1e-9


def test_a_caption_has_its_least_number_of_words():
    decoder = random_decoder(0)
    decoder.W_hy.bias.data[EOS] += 50
    for strategy in (Greedy(6), Beam(3, max_length=6), Sample(n=4, max_length=6)):
        assert (run(strategy, decoder)[1].token_BKT[:, 0, 0] == EOS).all()
        _, found = run(strategy, decoder, rules=[min_length(2)])
        assert (found.token_BKT[:, :, :3] == EOS).sum() == found.token_BKT[:, :, 2].numel()
        assert (found.token_BKT[:, :, 2] == EOS).all()


every_strategy = pytest.mark.parametrize(
    "strategy", [Greedy(3), Beam(2, max_length=3), Sample(n=2, max_length=3)]
)


@every_strategy
def test_rules_that_leave_nothing_are_an_error_and_not_an_empty_caption(strategy):
    with pytest.raises(InputError, match=r"rules forbid\(0, 1, 2, 3, 4, 5, 6\) leave"):
        run(strategy, random_decoder(), rules=[forbid(*range(7))])


@every_strategy
def test_a_decoder_that_has_diverged_is_named(strategy):
    decoder = random_decoder()
    decoder.W_hy.weight.data[:] = torch.nan
    with pytest.raises(InputError, match="diverged"):
        run(strategy, decoder)


def fixed_step(logits):
    """A decoder that always says the same distribution, then ends."""

    def step(token_N, memory, state):
        now = torch.where(
            (token_N == BOS)[:, None],
            torch.tensor(logits).double(),
            torch.full((len(logits),), -torch.inf).double().index_fill(0, torch.tensor(EOS), 0.0),
        )
        return now, state

    return step


@pytest.mark.parametrize(
    "options, kept",
    [
        (dict(), [3, 4, 5, 6]),
        (dict(temperature=0.5), [3, 4, 5, 6]),
        (dict(top_k=2), [4, 6]),
        (dict(top_p=0.75), [4, 6]),
        (dict(top_p=0.85), [3, 4, 6]),
    ],
)
def test_sampling_frequencies_match_probabilities(options, kept):
    p = [0.0, 0.0, 0.0, 0.12, 0.5, 0.08, 0.3]
    logits = [math.log(x) if x else -math.inf for x in p]
    n = 4000
    state = {"h": torch.zeros(n, 1)}
    found = Sample(n=n, max_length=3, **options)(fixed_step(logits), {}, state)
    counts = torch.bincount(found.token_BKT[0, :, 0], minlength=len(p)).double()
    q = torch.tensor([x ** (1 / options.get("temperature", 1)) for x in p]).double()
    q[[i for i in range(len(p)) if i not in kept]] = 0
    expected = n * q / q.sum()
    assert (counts[expected == 0] == 0).all()
    chi_square = ((counts - expected) ** 2 / expected)[expected > 0].sum().item()
    assert chi_square < 16.3  # p = 0.001 at 3 degrees of freedom


def test_samples_of_an_image_do_not_depend_on_its_batch():
    decoder = random_decoder(0, vocabulary=20, sharp=1.0)
    pooled_BD = torch.rand(1, D).double().expand(6, D)  # six equal images
    strategy = Sample(n=2, seed=3, max_length=9)

    def sample(numbers):
        memory, state = decoder.start(Features(pooled_BD[: len(numbers)]), 2 * len(numbers))
        found = strategy(decoder.step, memory, state, (), numbers).token_BKT.tolist()
        return [[[t for t in tokens if t != PAD] for tokens in image] for image in found]

    together = sample([0, 1, 2, 3, 4, 5])
    assert together == sample([0, 1]) + sample([2, 3, 4]) + sample([5])
    assert len({str(image) for image in together}) == 6


def test_sampling_repeats_with_its_seed_only():
    decoder = random_decoder(0, vocabulary=20, sharp=1.0)
    torch.manual_seed(5)
    features, first = run(Sample(n=5, seed=1), decoder)
    memory, state = decoder.start(features, 5 * len(features.pooled_BD))
    before = torch.get_rng_state()
    assert torch.equal(first.token_BKT, Sample(n=5, seed=1)(decoder.step, memory, state).token_BKT)
    other = Sample(n=5, seed=2)(decoder.step, memory, state)
    assert first.token_BKT.shape != other.token_BKT.shape or not torch.equal(
        first.token_BKT, other.token_BKT
    )
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Beam(0), "search.width=0"),
        (lambda: Beam(2.5), "search.width=2.5"),
        (lambda: Beam(2, n=3), "search.n=3"),
        (lambda: Beam(2, -1.0), "search.length_penalty=-1.0"),
        (lambda: Beam(max_length=0), "search.max_length=0"),
        (lambda: Greedy(0), "search.max_length=0"),
        (lambda: Sample(temperature=0.0), "search.temperature=0.0"),
        (lambda: Sample(top_k=0), "search.top_k=0"),
        (lambda: Sample(top_p=1.5), "search.top_p=1.5"),
        (lambda: Sample(n=0), "search.n=0"),
    ],
)
def test_a_wrong_option_is_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_the_first_k_rows_of_an_image_stand_together():
    """Row n belongs to image n // K: greedy over K rows of an image says K times the same."""
    decoder = random_decoder(4, vocabulary=9)
    features = Features(torch.rand(3, D).double())
    memory, state = decoder.start(features, 6)
    token_NT = torch.full((6, 1), BOS)
    logits_PV, _, _ = decoder(token_NT, torch.ones(6, dtype=torch.long), memory, state)
    assert torch.equal(logits_PV[0::2], logits_PV[1::2])
    assert not torch.equal(logits_PV[0], logits_PV[2])
    assert real_positions(torch.tensor([2, 0]), 3).tolist() == [[True, True, False], [False] * 3]
