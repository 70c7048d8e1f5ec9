"""Words that captions must include, against every hypothesis there is."""

import pytest
import torch

from captioner.errors import InputError
from captioner.search import Beam, Consensus, Guided
from captioner.search import rules as on_words
from captioner.search.include import DynamicBeamAllocation, MustInclude
from captioner.types import BOS, EOS, UNK
from tests.helpers.brute import V, agrees, hypotheses_of, random_decoder, run, unpadded
from tests.helpers.rules import ngrams

MUST = {
    "a word": {0: [4], 1: [5]},
    "a phrase": {0: [(4, 5)], 1: [(5, 5, UNK)]},
    "two phrases": {0: [(4, 5), (5, UNK)], 1: [UNK, (4, 4)]},
    "three words": {0: [4, 5, UNK], 1: [5]},
    "in one image": {1: [(4, 4, 5)]},
    "twice the same": {0: [4, 4, (4, 4)], 1: [4]},
}


def says(hypothesis, phrases):
    wanted = [(p,) if isinstance(p, int) else p for p in phrases]
    return all(phrase in ngrams(hypothesis, len(phrase)) for phrase in wanted)


@pytest.mark.parametrize("score", ["power", "reward"])
@pytest.mark.parametrize("name", MUST)
@pytest.mark.parametrize("phrases", [(), (4,)])
def test_a_wide_beam_that_must_include_words_equals_brute_force(name, score, phrases):
    """Those of all images, and those of one."""

    def allowed(hypothesis, b):
        return says(hypothesis, [*phrases, *MUST[name].get(b, [])])

    beam, must_include = Beam(81, 0.7, 81, 4, score), MustInclude(*phrases, in_image=MUST[name])
    assert agrees(random_decoder(4, V), beam, allowed, must_include=must_include)[1] < 121


@pytest.mark.parametrize(
    "strategy",
    [Beam(2, n=2, max_length=12), Beam(5, n=2, max_length=12), Consensus(5, n=2, max_length=12)],
)
def test_a_narrow_beam_includes_improbable_words_too(strategy):
    """A thousand times less likely than the others, in captions of 12 tokens of 20 words."""
    missed = 0
    for seed in range(10):
        decoder = random_decoder(seed, 20)
        decoder.W_hy.bias.data[[7, 8, 9]] -= 7
        must = {0: [(7, 8)], 1: [(8, 9), (8, 7)], 3: [7, 8, 9]}
        features, captions = run(strategy, decoder, 4, must_include=MustInclude(in_image=must))
        for b in range(4):
            hypotheses = hypotheses_of(captions)[b]
            assert hypotheses, captions.error_B[b]
            assert len(set(hypotheses)) == len(hypotheses)  # 8 begins two phrases of image 1
            assert all(says(tokens, must.get(b, [])) for tokens in hypotheses)
        _, free = run(strategy, decoder, features)
        assert torch.equal(free.token_BKT[2], captions.token_BKT[2])  # it has nothing to say
        missed += not says(unpadded(free.token_BKT[3, 0].tolist()), must[3])
    assert missed >= 8


def test_met_and_next_words():
    progress = MustInclude(in_image={7: [(3, 4, 5), 4], 9: [(5, 5)]})
    steps = [
        ([BOS], 7, 0, {3, 4}),
        ([BOS, 3], 7, 1, {4}),  # 4 goes on with the one and is the other
        ([BOS, 3, 4], 7, 3, {5}),
        ([BOS, 3, 5], 7, 0, {3, 4}),  # begun, and left
        ([BOS, 3, 4, 5], 7, 4, set()),
        ([BOS, 3, 4, 5, 3], 7, 4, set()),
        ([BOS, 5], 9, 1, {5}),
        ([BOS, 5, 3], 9, 0, {5}),
        ([BOS, 5, 5], 9, 2, set()),
        ([BOS, 5], 8, 0, set()),  # an image without phrases
    ]
    for prefix, image, met, next_words in steps:
        met_N, next_NC = progress(torch.tensor([prefix]), torch.tensor([image]))
        assert (met_N.item(), set(next_NC[0].tolist()) - {-1}) == (met, next_words), prefix


def test_words_that_do_not_fit_are_the_error_of_their_image():
    error = "the words it must include are not all in it after 3 words"
    cases = [((4, 5, 4, 5, 4), [], error), (4, [on_words.forbid(4)], f"{error}, under forbid(4)")]
    for phrase, rules, message in cases:
        must_include = MustInclude(in_image={0: [phrase]})
        options = dict(rules=rules, must_include=must_include)
        _, captions = run(Beam(5, max_length=4), random_decoder(1, V), 2, **options)
        assert captions.error_B == [message, None]


def test_banks_take_turns():
    """One step by hand: a row that has said one word of two, and one that has said none."""
    including = DynamicBeamAllocation(MustInclude((7, 8)), 2, 30)
    prefix_NT = torch.tensor([[BOS, 7], [BOS, 9]])
    log_prob_NV = torch.full((2, 12), -9.0)
    log_prob_NV[:, [0, 1]] = -torch.inf
    log_prob_NV[0, [9, 10]] = torch.tensor([-1.0, -2.0])
    log_prob_NV[1, [9, 7]] = torch.tensor([-0.5, -3.0])
    image_N = torch.zeros(2, dtype=torch.long)
    value_NCS, word_NC = including(log_prob_NV, torch.zeros(2, 2), prefix_NT, image_N)
    order = value_NCS[..., 1].flatten().argsort(descending=True).tolist()
    words = list(zip([0] * word_NC.shape[1] + [1] * word_NC.shape[1], word_NC.flatten().tolist()))
    # The best of each bank, the fullest first: both words, one (begun anew), none; then the second.
    assert [words[at] for at in order[:5]] == [(0, 8), (1, 7), (1, 9), (0, 7), (0, 9)]
    assert all(word != EOS for at, (_, word) in enumerate(words) if at in order[:5])


def test_must_include_and_groups_do_not_go_together():
    with pytest.raises(InputError, match="search.groups=1"):
        run(Beam(4, groups=2), random_decoder(), must_include=MustInclude(in_image={0: [4]}))


ANY = {
    "a word": {0: [4, 5], 1: [UNK]},
    "phrases": {0: [(4, 5), (5, 5, UNK)], 1: [(4, 4), (5, 5, UNK)]},
}


@pytest.mark.parametrize("name", ANY)
def test_one_of_several_is_enough(name):
    must = {0: [(4, 4)]}

    def allowed(hypothesis, b):
        one = any(says(hypothesis, [phrase]) for phrase in ANY[name][b])
        return one and says(hypothesis, must.get(b, []))

    must_include = MustInclude(in_image=must, any_of=ANY[name])
    beam = Beam(81, 0.7, 81, 4)
    assert agrees(random_decoder(4, V), beam, allowed, must_include=must_include)[1] < 121


def test_a_guided_beam_searches_again_where_nothing_says_it():
    """And leaves the others as they are."""
    decoder = random_decoder(3, 20)
    beam, guided = Beam(4, n=2, max_length=8), Guided(4, n=2, max_length=8)
    features, free = run(beam, decoder, 4)
    assert guided_tokens(guided, decoder, features, None) == hypotheses_of(free)
    second = {b: [hypotheses[1][0]] for b, hypotheses in enumerate(hypotheses_of(free))}
    assert guided_tokens(guided, decoder, features, second) == hypotheses_of(free)
    decoder.W_hy.bias.data[[7, 8, 9]] -= 5
    features, free = run(beam, decoder, features)
    wanted = {1: [7, (8, 9)], 3: [9]}
    guide = MustInclude(any_of=wanted)
    _, captions = run(guided, decoder, features, guide=guide)
    assert captions.forced_B == [False, True, False, True]
    _, forced = run(beam, decoder, features, must_include=guide)
    for b in range(4):
        source = forced if b in wanted else free
        assert hypotheses_of(captions)[b] == hypotheses_of(source)[b]
        assert captions.score_BK[b].tolist() == source.score_BK[b].tolist()


def guided_tokens(guided, decoder, features, wanted):
    guide = wanted and MustInclude(any_of=wanted)
    _, captions = run(guided, decoder, features, guide=guide)
    assert captions.forced_B == [False] * 4
    return hypotheses_of(captions)
