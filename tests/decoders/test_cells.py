"""Each cell's gates and first weights. That it is its paper's equation, and that its gradients are
right, test_recurrent.py and test_laws.py show: in decoders with every cell."""

import pytest
import torch

from captioner.decoders.cells import CELLS, LSTM, make_cell

N, H = 3, 5
every_cell = pytest.mark.parametrize("name", CELLS)


@every_cell
def test_gates_are_the_named_blocks(name):
    """Shut and opened by their bias alone."""
    cell = make_cell(name, H, H).double()
    x, *state = torch.randn(1 + len(cell.entries), N, H, dtype=torch.float64)
    products = [lambda pre, h, W=W: pre + h @ W.T for _, W in cell.recurrent_blocks()]
    for gate in cell.gates:
        for value in (0.0, 1.0):
            bias = cell.b.data.zero_().view(len(cell.blocks), H)
            bias[cell.blocks.index(gate)] = 200 * value - 100
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
