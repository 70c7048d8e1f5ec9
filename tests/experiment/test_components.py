"""What a run is put together from; eval.py uses the saved search, unless told otherwise."""

import pytest
from omegaconf import OmegaConf

from captioner import search
from captioner.errors import InputError
from captioner.experiment.components import build_model, choose_strategy, make_strategy
from tests.helpers.runs import composed

SAVED = search.Beam(width=3, length_penalty=0.5, max_length=20)


@pytest.mark.parametrize(
    "overrides, expected",
    [
        ([], SAVED),
        (["search.length_penalty=0.7"], search.Beam(3, length_penalty=0.7, max_length=20)),
        (["search=beam"], search.Beam(5, length_penalty=0.8)),
        (["search=beam", "search.length_penalty=0.7"], search.Beam(5, length_penalty=0.7)),
        (["search=greedy"], search.Greedy()),
        (["search=sample", "search.top_k=9"], search.Sample(top_k=9)),
        (["search=consensus", "search.samples=7"], search.Consensus(samples=7)),
    ],
)
def test_the_saved_search_with_what_was_given(overrides, expected):
    assert choose_strategy(composed(*overrides, name="eval").search, SAVED) == expected


@pytest.mark.parametrize("strategy", search.STRATEGIES)
def test_options_make_an_equal_strategy(strategy):
    assert make_strategy(strategy().options()) == strategy()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"samples": 7}, "Beam: no option 'samples'; it has width"),
        ({"width": 0}, "search.width=0"),
        (
            {"width": 10**8},
            "search.width=100000000: give a whole number, 1 to 10,000",
        ),
        ({"_target_": "captioner.search.Captions"}, "not a class of captioner.search"),
        ({"_target_": "os.system"}, "not a class of captioner.search"),
    ],
)
def test_only_searches_are_made(options, message):
    with pytest.raises(InputError, match=message):
        choose_strategy(OmegaConf.create(options), SAVED)


def test_a_model_starts_from_one_other():
    config = composed("data=scenes", "model.init_from=a", "+decoder.init_from=b")
    with pytest.raises(InputError, match="model.init_from and decoder.init_from: give one"):
        build_model(config, build=None, texts=["a dog"] * 9)
