"""Rules, alone and in pairs, against every hypothesis there is."""

import itertools

import pytest
import torch

from captioner.errors import InputError
from captioner.search import Beam
from captioner.search import rules as on_words
from captioner.search.include import MustInclude
from captioner.types import BOS, EOS
from tests.helpers.brute import V, agrees, every_short_strategy, hypotheses_of, random_decoder, run
from tests.helpers.rules import RULES

ALONE_AND_IN_PAIRS = [*itertools.combinations(RULES, 1), *itertools.combinations(RULES, 2)]


@pytest.mark.parametrize("names", ALONE_AND_IN_PAIRS, ids=" and ".join)
def test_a_wide_beam_under_rules_equals_brute_force(names):
    def allowed(hypothesis, b):
        return all(RULES[name][1](hypothesis, b) for name in names)

    rules = [RULES[name][0] for name in names]
    counts = agrees(random_decoder(5, V), Beam(81, 0.7, 81, 4), allowed, rules=rules)
    assert counts[1] < 121  # the rules say something


@pytest.mark.parametrize("name", RULES)
@every_short_strategy
def test_every_strategy_keeps_every_rule(strategy, name):
    rule, allowed = RULES[name]
    broken = 0
    for seed in range(40):
        decoder = random_decoder(seed, V)
        decoder.W_hy.bias.data[EOS] -= seed % 6 / 5  # from short to long captions
        features, captions = run(strategy, decoder, 2, rules=[rule])
        assert captions.error_B == [None, None]
        for b, hypotheses in enumerate(hypotheses_of(captions)):
            assert all(allowed(tokens, b) for tokens in hypotheses)
        free = hypotheses_of(run(strategy, decoder, features)[1])[1]
        broken += any(not allowed(tokens, 1) for tokens in free)
        if broken and seed >= 5:
            break
    assert broken


def test_rules_only_forbid_and_leave_their_arguments_alone():
    torch.manual_seed(0)
    token_NT = torch.randint(3, V, (50, 4))
    token_NT[:, 0] = BOS
    before_NV = torch.randn(50, V).log_softmax(1)
    before_NV[:, :2] = -torch.inf
    image_N = torch.arange(50) % 2
    for name, (rule, _) in RULES.items():
        given = before_NV.clone()
        after_NV = rule(token_NT, given, image_N)
        assert torch.equal(given, before_NV), name
        assert ((after_NV == before_NV) | (after_NV == -torch.inf)).all(), name


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: on_words.no_repeated_ngram(0), "no_repeated_ngram"),
        (lambda: on_words.forbid(()), "forbid"),
        (lambda: on_words.forbid(4, -1), "words are 0 or more"),
        (lambda: on_words.forbid(in_image={1: [()]}), "forbid"),
        (lambda: on_words.max_length(0), "max_length"),
        (lambda: on_words.no_ending(), "no_ending"),
        (lambda: MustInclude(()), "must-include"),
    ],
)
def test_a_rule_without_effect_is_an_error(make, message):
    with pytest.raises(InputError, match=message):
        make()
