"""Each attention decoder is its paper's equations, and obeys the laws."""

import numpy as np
import pytest
import torch

from captioner.decoders.attention import AdaptiveAttention, SoftAttention, UpDown
from captioner.decoders.attention_base import SCORES
from captioner.decoders.cells import CELLS
from captioner.errors import InputError
from captioner.types import BOS, Features
from tests.helpers import laws
from tests.helpers.equations import equation, s
from tests.helpers.laws import LENGTH_N, B, C, D, N, R, V, features, tokens

KINDS = (SoftAttention, AdaptiveAttention, UpDown)
every_form = pytest.mark.parametrize(
    "form",
    [(Kind, cell, score) for Kind in KINDS for cell in CELLS for score in SCORES],
    ids=lambda form: f"{form[0].__name__}-{form[1]}-{form[2]}",
)


def make(form, vocabulary=V, size=6, **options):
    Kind, cell, score = form
    return Kind(vocabulary, D, cell, size, size, 5, score, dropout=0.0, **options).double()


@every_form
@laws.every_law(*laws.LAWS, laws.regions_that_do_not_exist_change_nothing)
def test_law(law, form):
    law(lambda vocabulary: laws.randomised(make(form, vocabulary)))


@every_form
@laws.every_law(*laws.FIRST)
def test_law_of_the_first_weights(law, form):
    law(lambda vocabulary: make(form, vocabulary, 32))


def softmax(score):
    share = np.exp(score - score.max(1, keepdims=True))
    return share / share.sum(1, keepdims=True)


def soft(decoder, W, fit, a, mean):
    entries = np.split(np.tanh(mean @ W["W_init.weight"].T + W["W_init.bias"]), 2, axis=1)
    W_q, b_q = np.split(W["W_q.weight"], [5]), np.split(W["W_q.bias"], [5])
    while True:
        x = yield
        h = entries[0]
        alpha = softmax(fit(a, h @ W_q[0].T + b_q[0]))
        z = s(h @ W_q[1].T + b_q[1]) * np.einsum("br,brd->bd", alpha, a)
        entries = equation(decoder.cell, x, entries, z @ W["W_zh.weight"].T)
        yield x + entries[0] @ W["L_h.weight"].T + z @ W["L_z.weight"].T, alpha


def adaptive(decoder, W, fit, a, mean):
    entries = (np.zeros((B, 6)),) * 2
    a = np.maximum(a @ W["W_a.weight"].T + W["W_a.bias"], 0)
    v = np.maximum(mean @ W["W_b.weight"].T + W["W_b.bias"], 0) @ W["W_ih.weight"].T
    while True:
        x = yield
        gate = x @ W["W_sx.weight"].T + W["W_sx.bias"] + entries[0] @ W["W_sh.weight"].T
        entries = equation(decoder.cell, x, entries, v[:, :-6])
        h, c = entries
        sentinel = s(gate + v[:, -6:]) * np.tanh(c)
        q = h @ W["W_q.weight"].T
        key = sentinel @ W["W_s.weight"].T + W["W_s.bias"]
        sentinel_score = fit(None, q, key[:, None])
        alpha = softmax(np.concatenate([fit(a, q), sentinel_score], axis=1))
        seen = np.einsum("br,brd->bd", alpha[:, :-1], a) + alpha[:, -1:] * sentinel
        yield seen + h, alpha


def updown(decoder, W, fit, a, mean):
    one = two = (np.zeros((B, 6)),) * 2
    while True:
        x = yield
        image = mean @ W["W_ih.weight"].T + two[0] @ W["W_21.weight"].T
        one = equation(decoder.first, x, one, image)
        alpha = softmax(fit(a, one[0] @ W["W_q.weight"].T))
        z = np.einsum("br,brd->bd", alpha, a)
        two = equation(decoder.second, one[0], two, z @ W["W_zh.weight"].T)
        yield two[0], alpha


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("Kind, transcribed", list(zip(KINDS, (soft, adaptive, updown))))
def test_step_is_the_equation(Kind, transcribed, score):
    decoder = laws.randomised(make((Kind, "LSTM", score)))
    inputs = features()._replace(mask_BR=None)
    W = {name: p.detach().numpy() for name, p in decoder.named_parameters()}
    v, a = (laws.standardised(decoder, x) for x in inputs[:2])

    def fit(regions, q, key=None):
        key = regions @ W["regions.U.weight"].T + W["regions.U.bias"] if key is None else key
        if score == "dot":
            return np.einsum("bra,ba->br", key, q) / np.sqrt(5)
        return np.tanh(key + q[:, None]) @ W["regions.w.weight"][0]

    expected = transcribed(decoder, W, fit, a, v)
    memory, state = decoder.start(inputs, B)
    _, _, kept = decoder(
        torch.tensor([[BOS, 5, 7]] * B), torch.full((B,), 3), memory, state, ["alpha"]
    )
    for t, token in enumerate((BOS, 5, 7)):
        next(expected)
        seen, alpha = expected.send(W["embed.weight"][[token] * B])
        y = seen @ W["W_hy.weight"].T + W["W_hy.bias"]
        logits, state = decoder.step(torch.full((B,), token), memory, state)
        np.testing.assert_allclose(logits[:, BOS + 1 :].detach(), y[:, BOS + 1 :], atol=1e-12)
        np.testing.assert_allclose(kept["alpha"][:, t].detach(), alpha, atol=1e-12)


@every_form
def test_alpha_is_a_share_of_the_regions_that_exist(form):
    columns = R + (form[0] is AdaptiveAttention)
    laws.alpha_is_a_share_of_the_regions_that_exist(
        lambda vocabulary: laws.randomised(make(form, vocabulary)), columns
    )


@pytest.mark.parametrize("Kind", KINDS)
def test_keys_are_computed_once_per_image(Kind):
    decoder, token_NT = make((Kind, "LSTM", "additive")), tokens()
    seen = []
    decoder.regions.U.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[:2]))
    memory, state = decoder.start(features(), N)
    decoder(token_NT, LENGTH_N, memory, state)
    for _ in range(3):
        _, state = decoder.step(token_NT[:, 0], memory, state)
    assert seen == [(B, R)]


@pytest.mark.parametrize("Kind", KINDS)
def test_training_drops_entries_of_the_regions(Kind):
    decoder, inputs = make((Kind, "LSTM", "dot")), features()
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
    decoder = laws.randomised(make((SoftAttention, "LSTM", "dot"), doubly_stochastic=0.7))
    inputs, token_NT = features(), tokens()
    kept = decoder(token_NT, LENGTH_N, *decoder.start(inputs, N), keep=("alpha",))[2]
    expected = 0.0
    for n, length in enumerate(LENGTH_N.tolist()):
        for r in range(R) if length else ():
            if inputs.mask_BR[n // C, r]:
                expected += 0.7 * (1 - kept["alpha"][n, :, r].sum().item()) ** 2
    assert decoder.penalty(inputs, kept, LENGTH_N).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("Kind", KINDS)
def test_wrong_options_are_named(Kind):
    with pytest.raises(InputError, match="decoder.score=cosine: give one of additive, dot"):
        Kind(V, D, score="cosine")
    for name in ("embed_size", "hidden_size", "attention_size"):
        with pytest.raises(InputError, match=f"decoder.{name}=0: give 1 or more"):
            Kind(V, D, **{name: 0})
    with pytest.raises(InputError, match="decoder.cell=XXX"):
        Kind(V, D, cell="XXX")
    decoder = make((Kind, "LSTM", "dot"))
    for nothing in (None, Features(torch.rand(B, D).double())):
        with pytest.raises(InputError, match="needs the regions of an image"):
            decoder.start(nothing, N)
    with pytest.raises(InputError, match="doubly_stochastic=-1"):
        SoftAttention(V, D, doubly_stochastic=-1)
