"""Recurrent cells, each one the equation of its paper.

Every cell is cut in two, because only half of it is recurrent:

    pre = cell.inputs(x)            what depends on x alone: one matrix product for all time steps
    state = cell.step(pre, state)   what depends on the state: the body of the loop over time

The image term `W_ih v` of a decoder is simply added to `pre`: it reaches every gate and the
candidate. `state` is a tuple of (N, H) tensors, named by `entries`, with h first.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class Cell(nn.Module, ABC):
    """h_t = f(x_t, h_{t-1}) with `gates` blocks of H rows in W_xh (G, E) and W_hh (G, H).

    W_hh starts orthogonal block by block, W_xh Xavier-uniform per block, b at 0.
    """

    gates: int
    entries: tuple[str, ...] = ("h",)

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size
        rows = self.gates * hidden_size
        self.W_xh = nn.Parameter(torch.empty(rows, input_size))
        self.W_hh = nn.Parameter(torch.empty(rows, hidden_size))
        self.b = nn.Parameter(torch.zeros(rows))
        for W_xh, W_hh in zip(self.W_xh.chunk(self.gates), self.W_hh.chunk(self.gates)):
            nn.init.xavier_uniform_(W_xh)
            nn.init.orthogonal_(W_hh)

    def inputs(self, x: Tensor) -> Tensor:
        """(.., E) -> (.., G): W_xh x + b, for any number of positions at once."""
        return nn.functional.linear(x, self.W_xh, self.b)

    @abstractmethod
    def step(self, pre_NG: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """One time step: pre-activations from below and the old state -> the new state."""

    def zeros(self, rows: int) -> tuple[Tensor, ...]:
        """The state before anything was read."""
        return tuple(self.b.new_zeros(rows, self.hidden_size) for _ in self.entries)


class RNN(Cell):
    """h_t = tanh(W_xh x_t + W_hh h_{t-1} + b)      (Elman 1990; the lecture's vanilla RNN)"""

    gates = 1

    def step(self, pre_NG: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (torch.tanh(torch.addmm(pre_NG, state[0], self.W_hh.t())),)


class LSTM(Cell):
    """i, f, o = sigm(.), g = tanh(.), each of W_xh x_t + W_hh h_{t-1} + b
    c_t = f * c_{t-1} + i * g
    h_t = o * tanh(c_t)

    Hochreiter and Schmidhuber 1997, with the forget gate of Gers 2000; rows in the lecture's order
    i, f, o, g; the forget gate's bias starts at 1 (Jozefowicz 2015).
    """

    gates = 4
    entries = ("h", "c")

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__(input_size, hidden_size)
        nn.init.ones_(self.b.data[hidden_size : 2 * hidden_size])

    def step(self, pre_NG: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        h, c = state
        H = self.hidden_size
        ifo, g = torch.addmm(pre_NG, h, self.W_hh.t()).split((3 * H, H), dim=1)
        i, f, o = torch.sigmoid(ifo).chunk(3, dim=1)
        c = f * c + i * torch.tanh(g)
        return o * torch.tanh(c), c
