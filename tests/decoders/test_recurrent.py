"""The recurrent decoder is its equations, for every cell, all injections, one and two layers."""

import itertools

import numpy as np
import pytest
import torch

from captioner.decoders.base import real_positions
from captioner.decoders.cells import CELLS
from captioner.decoders.recurrent import Recurrent
from captioner.types import Features
from tests.helpers import laws
from tests.helpers.decoders import RECURRENT, SIZE, recurrent
from tests.helpers.equations import equation
from tests.helpers.laws import LENGTH_N, B, D, N, T, V, features, randomised, tokens, unrolled


def transcribed(decoder, W, v, a):
    def stack(x, states, image):
        for n, cell in enumerate(decoder.cells):
            states[n] = equation(cell, x, states[n], image.get(n, np.zeros(1)))
            x = states[n][0] + (x if n and decoder.residual else 0)
        return x, states

    inject, Wv = decoder.inject, v @ W["W_ih.weight"].T
    states = [tuple(np.zeros((B, SIZE)) for _ in cell.entries) for cell in decoder.cells]
    if inject == "pre":
        _, states = stack(Wv, states, {})
    if inject == "init":
        blocks = iter(np.split(np.tanh(Wv + W["W_ih.bias"]), len(decoder.entries), axis=1))
        states = [tuple(next(blocks) for _ in cell.entries) for cell in decoder.cells]
    ends = np.cumsum([len(decoder.cells[n].b) for n in decoder.image_layers])[:-1]
    images = dict(zip(decoder.image_layers, np.split(Wv, ends, axis=1)))
    for t in itertools.count():
        now = images if inject == "par" or (inject == "first" and t == 0) else {}
        h, states = stack((yield), states, now)
        if inject == "merge":
            h = 1.7159 * np.tanh(2 / 3 * (h + Wv))
        yield h, {f"h{n}": entry[0] for n, entry in enumerate(states)}


every_recurrent = pytest.mark.parametrize("make", RECURRENT.values(), ids=RECURRENT)


@every_recurrent
def test_step_is_the_equation(make):
    laws.step_is_the_equation(randomised(make()), transcribed)


@pytest.mark.parametrize("inject", ["par", "first"])
@pytest.mark.parametrize("image_layers", [[1], [0, 2]])
def test_the_image_enters_the_layers_that_are_named(inject, image_layers):
    """And layers may differ, and be residual."""
    options = dict(cell=["GRU", "LSTM", "MUT1"], image_layers=image_layers, residual=True)
    laws.step_is_the_equation(randomised(recurrent(inject=inject, **options)), transcribed)


@every_recurrent
def test_traces_are_the_states_of_the_unrolled_step(make):
    decoder, inputs, token_NT = randomised(make()), features(), tokens()
    _, states = unrolled(decoder, inputs, token_NT)
    names = [f"h{layer}" for layer in range(len(decoder.cells))]
    _, _, kept = decoder(token_NT, LENGTH_N, *decoder.start(inputs, N), keep=names)
    for name in names:
        h_NTH = torch.stack([state[name] for state in states[1:]], dim=1)
        h_NTH[~real_positions(LENGTH_N, T)] = 0
        torch.testing.assert_close(kept[name], h_NTH, atol=1e-12, rtol=0)


@pytest.mark.parametrize("cell", CELLS)
def test_gates_are_kept_on_request(cell):
    decoder = randomised(recurrent(cell=cell, layers=2))
    inputs, token_NT = features(), tokens()
    memory, state = decoder.start(inputs, N)
    if not CELLS[cell].gates:
        with pytest.raises(ValueError, match="gates1"):
            decoder(token_NT, LENGTH_N, memory, state, keep=["gates1"])
        return
    _, _, kept = decoder(token_NT, LENGTH_N, memory, state, keep=["h1", "gates1"])
    gates, real_NT = kept["gates1"], real_positions(LENGTH_N, T)
    assert gates.shape == (N, T, len(CELLS[cell].gates), SIZE)
    assert ((gates[real_NT] > 0) & (gates[real_NT] < 1)).all() and (gates[~real_NT] == 0).all()
    if cell != "LSTM":  # an update gate says how much of the state is new
        z, h = gates[:, :, 0], kept["h1"]
        keeps = z if cell == "GRU" else 1 - z
        n = (h[:, 1] - keeps[:, 1] * h[:, 0]) / (1 - keeps[:, 1])
        assert (n.abs() <= 1)[LENGTH_N > 1].all()


def test_the_deferred_gradient_is_right_however_often_it_is_asked_for():
    """Through one graph twice, and once for something else in between."""
    decoder, inputs, token_NT = randomised(recurrent(cell="GRU", layers=2)), features(), tokens()
    logits_PV, _, _ = decoder(token_NT, LENGTH_N, *decoder.start(inputs, N))
    loss = logits_PV[:, 2:].square().sum()
    W = decoder.cells[0].W_hh
    (first,) = torch.autograd.grad(loss, W, retain_graph=True)
    torch.autograd.grad(loss, decoder.embed.weight, retain_graph=True)
    torch.autograd.grad(logits_PV[0, 3], W, retain_graph=True)
    assert torch.equal(torch.autograd.grad(loss, W)[0], first)


def test_lstm_layers_equal_torch():
    decoder = randomised(recurrent(cell="LSTM", inject="par", layers=2))
    theirs = torch.nn.LSTM(SIZE - 2, SIZE, 2, batch_first=True, dtype=torch.float64)
    i, f, o, g = torch.arange(4 * SIZE).split(SIZE)
    rows = torch.cat([i, f, g, o])  # torch's order
    for number, cell in enumerate(decoder.cells):
        getattr(theirs, f"weight_ih_l{number}").data = cell.W_xh.data[rows]
        getattr(theirs, f"weight_hh_l{number}").data = cell.W_hh.data[rows]
        getattr(theirs, f"bias_ih_l{number}").data = cell.b.data[rows]
        getattr(theirs, f"bias_hh_l{number}").data.zero_()
    token_NT = torch.randint(2, V, (N, T))
    _, _, kept = decoder(token_NT, torch.full((N,), T), *decoder.start(None, N), keep=("h1",))
    h_NTH, _ = theirs(decoder.embed(token_NT))
    torch.testing.assert_close(kept["h1"], h_NTH, atol=1e-12, rtol=0)


def test_dropout_acts_in_training_only():
    decoder = randomised(recurrent(cell="LSTM", inject="par", layers=2, dropout=0.5))
    inputs, token_NT = features(), tokens()

    def run():
        return decoder(token_NT, LENGTH_N, *decoder.start(inputs, N))[0]

    assert not torch.equal(run(), run())
    decoder.eval()
    assert torch.equal(run(), run())


def test_dropout_of_the_image_is_one_mask_for_all_rows_and_steps_of_it():
    decoder = Recurrent(V, D, embed_size=5, hidden_size=6, dropout=0.0, image_dropout=0.5).double()
    features = Features(torch.randn(3, D).double())
    decoder.train()
    memory, _ = decoder.start(features, 6)
    again, _ = decoder.start(features, 6)
    assert len(memory["image"]) == 3 and not torch.equal(memory["image"], again["image"])
    decoder.eval()
    memory, _ = decoder.start(features, 6)
    torch.testing.assert_close(memory["image"], decoder.W_ih(decoder.standard(features.pooled_BD)))
