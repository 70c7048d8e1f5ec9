"""m-RNN is its paper's equations."""

import numpy as np

from tests.helpers import laws
from tests.helpers.decoders import mrnn


def transcribed(decoder, W, v, a):
    r = np.zeros((len(v), len(W["U.weight"])))
    while True:
        w = (yield) @ W["E_2.weight"].T + W["E_2.bias"]
        r = np.maximum(r @ W["U.weight"].T + w, 0)
        assert (r > 0).any()
        m = w @ W["V_w.weight"].T + W["V_w.bias"] + r @ W["V_r.weight"].T + v @ W["V_I.weight"].T
        yield 1.7159 * np.tanh(2 * m / 3), {"r": r}


def test_step_is_the_equation():
    laws.step_is_the_equation(laws.randomised(mrnn()), transcribed)
