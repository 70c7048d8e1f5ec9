"""Mind's Eye is its paper's equations."""

import numpy as np
import pytest
import torch

from tests.helpers import laws
from tests.helpers.decoders import SIZE, minds_eye
from tests.helpers.equations import equation
from tests.helpers.laws import LENGTH_N, C, N, features, tokens


def transcribed(decoder, W, v, a):
    s = u = [np.zeros((len(v), SIZE))]
    while True:
        x = yield
        s = equation(decoder.s, x, s, v @ W["W_ih.weight"].T)
        u = equation(decoder.u, x, u, np.zeros(1))
        yield np.concatenate([*s, *u], 1), {"s_h": s[0], "u_h": u[0]}


def test_step_is_the_equation():
    laws.step_is_the_equation(laws.randomised(minds_eye("GRU")), transcribed)


def test_the_visual_memory_never_sees_the_image_but_must_give_it_back():
    decoder = laws.randomised(minds_eye("RNN", reconstruction=0.7))
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
