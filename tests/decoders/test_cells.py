"""Each cell is its paper's equation, transcribed in NumPy."""

import numpy as np
import pytest
import torch

from captioner.decoders.cells import CELLS, LSTM, make_cell
from tests.helpers.equations import equation

N, H = 3, 5
every_cell = pytest.mark.parametrize("name", CELLS)


def random_cell(name):
    """With a random bias, so that a forgotten one shows."""
    cell = make_cell(name, H, H).double()
    cell.b.data.normal_()
    x, *state = torch.randn(1 + len(cell.entries), N, H, dtype=torch.float64)
    return cell, x, state


@every_cell
def test_step_is_the_equation_with_the_image_term_in_every_gate(name):
    cell, x, state = random_cell(name)
    image = torch.randn(N, len(cell.b), dtype=torch.float64)
    new = cell.step(cell.inputs(x) + image, state)
    expected = equation(cell, x.numpy(), [entry.numpy() for entry in state], image.numpy())
    assert len(new) == len(expected) == len(cell.entries)
    for got, want in zip(new, expected):
        np.testing.assert_allclose(got.detach().numpy(), want, atol=1e-12)


@every_cell
def test_analytic_gradients_equal_numeric_ones(name):
    cell, x, state = random_cell(name)
    names = [name for name, _ in cell.named_parameters()]
    cell.forward = lambda x, *state: cell.step(cell.inputs(x), state)

    def run(x, *rest):
        weights, state = dict(zip(names, rest)), rest[len(names) :]
        return torch.func.functional_call(cell, weights, (x, *state))

    leaves = [leaf.detach().requires_grad_() for leaf in (x, *cell.parameters(), *state)]
    assert torch.autograd.gradcheck(run, leaves)


@every_cell
def test_gates_are_the_named_blocks(name):
    """Shut and opened by their bias alone."""
    cell, x, state = random_cell(name)
    for gate in cell.gates:
        for value in (0.0, 1.0):
            cell.b.data.zero_().view(len(cell.blocks), H)[cell.blocks.index(gate)] = (
                200 * value - 100
            )
            products = [lambda pre, h, W=W: pre + h @ W.T for _, W in cell.recurrent_blocks()]
            _, gates = cell.equation(cell.inputs(x), state, products)
            assert len(gates) == len(cell.gates)
            for other, values in zip(cell.gates, gates):
                assert ((values - value).abs() < 1e-9).all() == (other == gate)


@every_cell
def test_weights_start_as_documented(name):
    cell = make_cell(name, H, H)
    for block in cell.W_hh.split(H):
        torch.testing.assert_close(block @ block.T, torch.eye(H), atol=1e-6, rtol=0)
    bias = cell.b.view(len(cell.blocks), H)
    assert bias.sum() == (H if isinstance(cell, LSTM) else 0)
    assert (bias[1] == 1).all() if isinstance(cell, LSTM) else (bias == 0).all()
    assert all(parameter.numel() for parameter in cell.parameters())
