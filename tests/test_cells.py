"""Each cell is its paper's equation, transcribed in NumPy; the LSTM is also torch's."""

import numpy as np
import pytest
import torch

from captioner.cells import LSTM, RNN

CELLS = [RNN, LSTM]
N, E, H = 3, 4, 5


def sigm(x):
    return 1 / (1 + np.exp(-x))


def rnn(W, x, h):
    return (np.tanh(x @ W["W_xh"].T + h @ W["W_hh"].T + W["b"] + W["image"]),)


def lstm(W, x, h, c):
    i, f, o, g = np.split(x @ W["W_xh"].T + h @ W["W_hh"].T + W["b"] + W["image"], 4, axis=1)
    c = sigm(f) * c + sigm(i) * np.tanh(g)
    return sigm(o) * np.tanh(c), c


EQUATIONS = {RNN: rnn, LSTM: lstm}


def random_cell(Cell, dtype=torch.float64):
    """With a random bias, so that a forgotten one shows."""
    cell = Cell(E, H).to(dtype)
    cell.b.data.normal_()
    state = tuple(torch.randn(N, H, dtype=dtype) for _ in cell.entries)
    return cell, torch.randn(N, E, dtype=dtype), state


@pytest.mark.parametrize("Cell", CELLS)
def test_step_is_the_equation_with_the_image_term_in_every_gate(Cell):
    cell, x, state = random_cell(Cell)
    image = torch.randn(N, cell.gates * H, dtype=torch.float64)
    new = cell.step(cell.inputs(x) + image, state)
    W = {name: p.detach().numpy() for name, p in cell.named_parameters()} | {"image": image.numpy()}
    expected = EQUATIONS[Cell](W, x.numpy(), *(s.numpy() for s in state))
    assert len(new) == len(expected) == len(cell.entries)
    for got, want in zip(new, expected):
        np.testing.assert_allclose(got.detach().numpy(), want, atol=1e-12)


@pytest.mark.parametrize("Cell", CELLS)
def test_analytic_gradients_equal_numeric_ones(Cell):
    cell, x, state = random_cell(Cell)
    names = [name for name, _ in cell.named_parameters()]
    cell.forward = lambda x, *state: cell.step(cell.inputs(x), state)

    def run(x, *rest):
        weights, state = dict(zip(names, rest)), rest[len(names) :]
        return torch.func.functional_call(cell, weights, (x, *state))

    leaves = [leaf.detach().requires_grad_() for leaf in (x, *cell.parameters(), *state)]
    assert torch.autograd.gradcheck(run, leaves)


def test_lstm_equals_torch_with_copied_weights():
    cell, x, (h, c) = random_cell(LSTM)
    theirs = torch.nn.LSTMCell(E, H, dtype=torch.float64)
    rows = torch.arange(4 * H).view(4, H)[[0, 1, 3, 2]].flatten()  # torch's order is i, f, g, o
    theirs.weight_ih.data = cell.W_xh.data[rows]
    theirs.weight_hh.data = cell.W_hh.data[rows]
    theirs.bias_ih.data = cell.b.data[rows]
    theirs.bias_hh.data.zero_()
    for _ in range(5):
        ours = cell.step(cell.inputs(x), (h, c))
        torch.testing.assert_close(ours, theirs(x, (h, c)), atol=1e-12, rtol=0)
        h, c = ours


@pytest.mark.parametrize("Cell", CELLS)
def test_weights_start_as_documented(Cell):
    cell = Cell(E, H)
    for block in cell.W_hh.chunk(cell.gates):
        torch.testing.assert_close(block @ block.T, torch.eye(H), atol=1e-6, rtol=0)
    bias = cell.b.view(cell.gates, H)
    assert (bias[1] == 1).all() if Cell is LSTM else (bias == 0).all()
    assert bias.sum() == (H if Cell is LSTM else 0)
