"""Each attention decoder is its paper's equations."""

import numpy as np
import pytest
import torch

from captioner.decoders.attention import SoftAttention
from captioner.decoders.attention_base import SCORES
from tests.helpers import laws
from tests.helpers.decoders import ATTENTION, SIZE, attention
from tests.helpers.equations import equation, s
from tests.helpers.laws import LENGTH_N, B, C, N, R, features, tokens


def fit(decoder, W, regions, q, key=None):
    """The score of each query with the regions, or with the keys that are given."""
    key = regions @ W["regions.U.weight"].T + W["regions.U.bias"] if key is None else key
    if decoder.regions.w is None:
        return np.einsum("bra,ba->br", key, q) / np.sqrt(5)
    return np.tanh(key + q[:, None]) @ W["regions.w.weight"][0]


def softmax(score):
    share = np.exp(score - score.max(1, keepdims=True))
    return share / share.sum(1, keepdims=True)


def soft(decoder, W, mean, a):
    entries = np.split(np.tanh(mean @ W["W_init.weight"].T + W["W_init.bias"]), 2, axis=1)
    W_q, b_q = np.split(W["W_q.weight"], [5]), np.split(W["W_q.bias"], [5])
    while True:
        x = yield
        h = entries[0]
        alpha = softmax(fit(decoder, W, a, h @ W_q[0].T + b_q[0]))
        z = s(h @ W_q[1].T + b_q[1]) * np.einsum("br,brd->bd", alpha, a)
        entries = equation(decoder.cell, x, entries, z @ W["W_zh.weight"].T)
        yield x + entries[0] @ W["L_h.weight"].T + z @ W["L_z.weight"].T, {"alpha": alpha}


def adaptive(decoder, W, mean, a):
    entries = (np.zeros((B, SIZE)),) * 2
    a = np.maximum(a @ W["W_a.weight"].T + W["W_a.bias"], 0)
    v = np.maximum(mean @ W["W_b.weight"].T + W["W_b.bias"], 0) @ W["W_ih.weight"].T
    while True:
        x = yield
        gate = x @ W["W_sx.weight"].T + W["W_sx.bias"] + entries[0] @ W["W_sh.weight"].T
        entries = equation(decoder.cell, x, entries, v[:, :-SIZE])
        h, c = entries
        sentinel = s(gate + v[:, -SIZE:]) * np.tanh(c)
        q = h @ W["W_q.weight"].T
        key = sentinel @ W["W_s.weight"].T + W["W_s.bias"]
        sentinel_score = fit(decoder, W, None, q, key[:, None])
        alpha = softmax(np.concatenate([fit(decoder, W, a, q), sentinel_score], axis=1))
        seen = np.einsum("br,brd->bd", alpha[:, :-1], a) + alpha[:, -1:] * sentinel
        yield seen + h, {"alpha": alpha}


def updown(decoder, W, mean, a):
    one = two = (np.zeros((B, SIZE)),) * 2
    while True:
        x = yield
        image = mean @ W["W_ih.weight"].T + two[0] @ W["W_21.weight"].T
        one = equation(decoder.first, x, one, image)
        alpha = softmax(fit(decoder, W, a, one[0] @ W["W_q.weight"].T))
        z = np.einsum("br,brd->bd", alpha, a)
        two = equation(decoder.second, one[0], two, z @ W["W_zh.weight"].T)
        yield two[0], {"alpha": alpha}


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("Kind, transcribed", list(zip(ATTENTION, (soft, adaptive, updown))))
def test_step_is_the_equation(Kind, transcribed, score):
    laws.step_is_the_equation(laws.randomised(attention(Kind, "LSTM", score)), transcribed)


@pytest.mark.parametrize("Kind", ATTENTION)
def test_training_drops_entries_of_the_regions(Kind):
    decoder, inputs = attention(Kind, "LSTM", "dot"), features()
    decoder.dropout.p = 0.5
    seen = []
    decoder.begin = lambda features: seen.append(features.grid_BRD) or ({}, ())
    for mode in (False, True):
        decoder.train(mode).start(inputs, N)
    kept, dropped = seen
    gone = dropped == 0
    assert 0.2 < gone.double().mean() < 0.8
    torch.testing.assert_close(dropped[~gone], 2 * kept[~gone])


def test_the_doubly_stochastic_penalty_is_its_equation():
    decoder = laws.randomised(attention(SoftAttention, "LSTM", "dot", doubly_stochastic=0.7))
    inputs, token_NT = features(), tokens()
    kept = decoder(token_NT, LENGTH_N, *decoder.start(inputs, N), keep=("alpha",))[2]
    expected = 0.0
    for n, length in enumerate(LENGTH_N.tolist()):
        for r in range(R) if length else ():
            if inputs.mask_BR[n // C, r]:
                expected += 0.7 * (1 - kept["alpha"][n, :, r].sum().item()) ** 2
    assert decoder.penalty(inputs, kept, LENGTH_N).item() == pytest.approx(expected, abs=1e-9)
