"""m-RNN is its paper's equations, and obeys the laws."""

import numpy as np
import pytest
import torch

from captioner.decoders.mrnn import MRNN
from captioner.errors import InputError
from captioner.types import BOS
from tests.helpers import laws
from tests.helpers.laws import B, D, V, features


def make(vocabulary=V, size=(3, 4, 5)):
    return MRNN(vocabulary, D, *size, dropout=0.0).double()


@laws.every_law(*laws.LAWS)
def test_law(law):
    law(lambda vocabulary: laws.randomised(make(vocabulary)))


@laws.every_law(*laws.FIRST)
def test_law_of_the_first_weights(law):
    law(lambda vocabulary: make(vocabulary, (16, 32, 32)))


def test_step_is_the_equation():
    decoder, inputs = laws.randomised(make()), features()
    W = {name: p.detach().numpy() for name, p in decoder.named_parameters()}
    memory, state = decoder.start(inputs, B)
    r, v = np.zeros((B, 4)), laws.standardised(decoder, inputs.pooled_BD)
    for token in (BOS, 5, 7):
        w = W["embed.weight"][[token] * B] @ W["E_2.weight"].T + W["E_2.bias"]
        r = np.maximum(r @ W["U.weight"].T + w, 0)
        m = w @ W["V_w.weight"].T + W["V_w.bias"] + r @ W["V_r.weight"].T + v @ W["V_I.weight"].T
        m = 1.7159 * np.tanh(2 * m / 3)
        y = m @ W["W_hy.weight"].T + W["W_hy.bias"]
        logits, state = decoder.step(torch.full((B,), token), memory, state)
        np.testing.assert_allclose(logits[:, BOS + 1 :].detach(), y[:, BOS + 1 :], atol=1e-12)
    assert (r > 0).any()


def test_a_wrong_size_is_named():
    for name in ("embed_size", "hidden_size", "multimodal_size"):
        with pytest.raises(InputError, match=f"decoder.{name}=0: give 1 or more"):
            MRNN(V, D, **{name: 0})
