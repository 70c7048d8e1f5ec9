"""Mind's Eye is its paper's equations, and obeys the laws."""

import numpy as np
import pytest
import torch

from captioner.decoders.cells import CELLS
from captioner.decoders.minds_eye import MindsEye
from captioner.errors import InputError
from captioner.types import BOS
from tests.helpers import laws
from tests.helpers.equations import equation
from tests.helpers.laws import LENGTH_N, B, C, D, N, V, features, tokens

every_cell = pytest.mark.parametrize("cell", CELLS)


def make(cell, vocabulary=V, size=(6, 6, 6), **options):
    return MindsEye(vocabulary, D, cell, *size, dropout=0.0, **options).double()


@every_cell
@laws.every_law(*laws.LAWS)
def test_law(law, cell):
    law(lambda vocabulary: laws.randomised(make(cell, vocabulary)))


@every_cell
@laws.every_law(*laws.FIRST)
def test_law_of_the_first_weights(law, cell):
    law(lambda vocabulary: make(cell, vocabulary, (32, 32, 32)))


def test_step_is_the_equation():
    decoder, inputs = laws.randomised(make("GRU")), features()
    W = {name: p.detach().numpy() for name, p in decoder.named_parameters()}
    memory, state = decoder.start(inputs, B)
    v = laws.standardised(decoder, inputs.pooled_BD)
    s, u = [np.zeros((B, 6))], [np.zeros((B, 6))]
    for token in (BOS, 5, 7):
        x = W["embed.weight"][[token] * B]
        s = equation(decoder.s, x, s, v @ W["W_ih.weight"].T)
        u = equation(decoder.u, x, u, np.zeros(1))
        y = np.concatenate([*s, *u], 1) @ W["W_hy.weight"].T + W["W_hy.bias"]
        logits, state = decoder.step(torch.full((B,), token), memory, state)
        np.testing.assert_allclose(logits[:, BOS + 1 :].detach(), y[:, BOS + 1 :], atol=1e-12)


def test_the_visual_memory_never_sees_the_image_but_must_give_it_back():
    decoder = laws.randomised(make("RNN", reconstruction=0.7))
    inputs, token_NT = features(), tokens()

    def kept(pooled_BD):
        memory, state = decoder.start(inputs._replace(pooled_BD=pooled_BD), N)
        return decoder(token_NT, LENGTH_N, memory, state, keep=("s", "u"))[2]

    one, other = kept(inputs.pooled_BD), kept(inputs.pooled_BD + 1)
    assert torch.equal(one["u"], other["u"]) and not torch.equal(one["s"], other["s"])
    expected = 0.0
    for n, length in enumerate(LENGTH_N.tolist()):
        for u_H in one["u"][n, :length]:
            wrong_D = decoder.standard(inputs.pooled_BD[n // C]) - decoder.W_vu(u_H)
            expected += 0.7 * wrong_D.square().sum().item()
    penalty = decoder.penalty(inputs, one, LENGTH_N)
    assert penalty.item() == pytest.approx(expected, abs=1e-9)


def test_a_wrong_option_is_named():
    for options in ({"reconstruction": -1.0}, {"memory_size": 0}, {"cell": "XXX"}):
        (name,) = options
        with pytest.raises(InputError, match=name):
            MindsEye(V, D, **options)
