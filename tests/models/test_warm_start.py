"""A new model starts from an older one: known words keep their rows, misfits are named."""

import pytest
import torch

from captioner.errors import InputError
from captioner.models.caption_model import build_captioner
from captioner.models.warm_start import warm_start
from tests.helpers.models import tiny_captioner, tiny_language_model

GROWN = ["a dog runs", "the cat sat"]


def language_model(**options):
    return tiny_language_model(layers=1, kind="word", size=5, **options)


def start(model, old):
    """`model` with its tokenizer grown out of the old one's, started from `old`."""
    tokenizer = old.tokenizer.grown(model.tokenizer)
    model = build_captioner(model.config, tokenizer)
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    warm_start(model, old, "runs/old")
    return model.state_dict(), fresh


@pytest.mark.parametrize("make_old", [tiny_captioner, language_model])
def test_known_words_keep_their_rows_and_new_ones_stay_fresh(make_old):
    old = make_old()
    tensors, fresh = start(tiny_captioner([*GROWN, "a zebra"]), old)
    V = len(old.tokenizer)
    assert len(tensors["decoder.embed.weight"]) > V
    same_kind = make_old is tiny_captioner
    copied = {name for name in old.state_dict() if "standard" not in name or same_kind}
    for name, tensor in tensors.items():
        expected = old.state_dict()[name].to(tensor) if name in copied else fresh[name]
        assert torch.equal(tensor[: len(expected)] if tensor.ndim else tensor, expected), name
        if tensor.shape != expected.shape:
            assert torch.equal(tensor[V:], fresh[name][V:]), name
    assert ("decoder.W_ih.weight" in copied) == same_kind


@pytest.mark.parametrize(
    "options, message",
    [
        ({"hidden_size": 8}, r"W_hh is \(32, 8\), in the old model \(20, 5\)"),
        ({"cell": "GRU"}, 'another model: decoder.*give it the same .*"hidden_size": 5'),
        ({"layers": 2}, "cells.1.W_hh is in one of them only"),
        ({"kind": "char"}, "tokenizer.kind=char: the model to start from has word"),
    ],
)
@pytest.mark.parametrize("make_old", [tiny_captioner, language_model])
def test_what_does_not_fit_is_named(make_old, options, message):
    if make_old is language_model and "layers" in options:
        options, message = {"cell": "RNN"}, "runs/old: another model"  # a second layer stays fresh
    with pytest.raises(InputError, match=message):
        start(tiny_captioner(**options), make_old())


def test_a_language_model_starts_from_its_own_kind_only():
    model, old = language_model(), language_model()
    torch.nn.init.normal_(old.decoder.embed.weight)
    warm_start(model, old, "runs/old")
    torch.testing.assert_close(model.state_dict(), old.state_dict(), rtol=0, atol=0)
    with pytest.raises(InputError, match="runs/old: a captioner; a language model starts from"):
        warm_start(model, tiny_captioner(), "runs/old")
