"""Recurrent cells, each one the equation of its paper.

Every cell is cut in two, because only half of it is recurrent (G is the width of `pre`):

    pre = cell.inputs(x)            what depends on x alone: one matrix product for all time steps
    state = cell.step(pre, state)   what depends on the state: the body of the loop over time

The image term `W_ih v` of a decoder is simply added to `pre`: it reaches every gate and the
candidate. `state` is a tuple of (N, H) tensors, named by `entries`, with h first.

s() is the sigmoid, * elementwise, x the input, h the state before.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from captioner.errors import InputError

Product = Callable[[Tensor, Tensor], Tensor]
"""(pre, h) -> pre + W h, W being a block of rows of W_hh. `equation` calls each one once."""


class Cell(nn.Module, ABC):
    """h_t = f(x_t, h_{t-1}), with blocks of H rows in W_xh, W_hh and b.

    blocks: the gates and the candidate, in the order of the columns of `pre`.
    reads: those that have rows in W_xh; the others use x (or tanh x) without a matrix: E = H.
    products: the products with W_hh of one step, in order: how many blocks each computes. They
    cover the last blocks; those before them do not depend on h.
    gates: the blocks that are sigmoids, in the order in which `equation` returns them.

    W_hh starts orthogonal block by block, W_xh Xavier-uniform per block, b at 0. Raises InputError
    if x itself is used and its size is not that of h.
    """

    blocks: str
    reads: str
    products: tuple[int, ...]
    gates: str = ""
    entries: tuple[str, ...] = ("h",)

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__()
        if self.reads != self.blocks and input_size != hidden_size:
            raise InputError(
                f"{type(self).__name__} takes its input as it is, so its size ({input_size}) must "
                f"be that of the state ({hidden_size}): give the decoder one size for both"
            )
        self.hidden_size = hidden_size
        self.sizes = [blocks * hidden_size for blocks in self.products]  # rows of W_hh
        self.W_xh = nn.Parameter(torch.empty(len(self.reads) * hidden_size, input_size))
        self.W_hh = nn.Parameter(torch.empty(sum(self.products) * hidden_size, hidden_size))
        self.b = nn.Parameter(torch.zeros(len(self.blocks) * hidden_size))
        for W in self.W_xh.chunk(len(self.reads)):
            nn.init.xavier_uniform_(W)
        for W in self.W_hh.chunk(sum(self.products)):
            nn.init.orthogonal_(W)

    def inputs(self, x: Tensor) -> Tensor:
        """(.., E) -> (.., G): W_xh x + b, for any number of positions at once."""
        return nn.functional.linear(x, self.W_xh, self.b)

    @abstractmethod
    def equation(
        self, pre_NG: Tensor, state: tuple[Tensor, ...], W: Sequence[Product]
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """One time step -> the new state, and the gates. W: a function for each of `products`."""

    def step(self, pre_NG: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """One time step: pre-activations from below and the old state -> the new state."""
        products = [product(W) for W in self.W_hh.split_with_sizes(self.sizes)]
        return self.equation(pre_NG, state, products)[0]

    def recurrent_blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """For each of `products`: the columns of `pre` to which it is added, its rows of W_hh."""
        column = len(self.b) - len(self.W_hh)
        for W in self.W_hh.split_with_sizes(self.sizes):
            yield slice(column, column + len(W)), W
            column += len(W)

    def zeros(self, rows: int) -> tuple[Tensor, ...]:
        """The state before the first word."""
        return tuple(self.b.new_zeros(rows, self.hidden_size) for _ in self.entries)


def product(W: Tensor) -> Product:
    """The product for one time step; for a loop see `captioner.decoders.scan.defer_products`."""
    return lambda pre, h: torch.addmm(pre, h, W.t())


class RNN(Cell):
    """h_t = tanh(W_xh x_t + W_hh h_{t-1} + b)      (Elman 1990; the lecture's vanilla RNN)"""

    blocks = reads = "h"
    products = (1,)

    def equation(self, pre_NG, state, W):
        (W_hh,) = W
        return (torch.tanh(W_hh(pre_NG, state[0])),), ()


class ReLU(RNN):
    """h_t = max(0, W_xh x_t + W_hh h_{t-1} + b)    (Karpathy and Fei-Fei 2015, Mao 2014)"""

    def equation(self, pre_NG, state, W):
        (W_hh,) = W
        return (torch.relu(W_hh(pre_NG, state[0])),), ()


class LSTM(Cell):
    """i, f, o = s(.), g = tanh(.), each of W_xh x_t + W_hh h_{t-1} + b
    c_t = f * c_{t-1} + i * g
    h_t = o * tanh(c_t)

    Hochreiter and Schmidhuber 1997, with the forget gate of Gers 2000; rows in the lecture's order
    i, f, o, g; the forget gate's bias starts at 1 (Jozefowicz 2015).
    """

    blocks = reads = "ifog"
    products = (4,)
    gates = "ifo"
    entries = ("h", "c")

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__(input_size, hidden_size)
        nn.init.ones_(self.b.data[hidden_size : 2 * hidden_size])

    def equation(self, pre_NG, state, W):
        (W_hh,) = W
        h, c = state
        H = self.hidden_size
        ifo, g = W_hh(pre_NG, h).split_with_sizes((3 * H, H), dim=1)
        i, f, o = torch.sigmoid(ifo).chunk(3, dim=1)
        c = torch.addcmul(f * c, i, torch.tanh(g))
        return (o * torch.tanh(c), c), (i, f, o)


class GRU(Cell):
    """z = s(W_xz x + W_hz h + b_z)
    r = s(W_xr x + W_hr h + b_r)
    n = tanh(W_xh x + W_hh (r * h) + b_h)
    h_t = z * h + (1 - z) * n

    Cho 2014, equations 5 to 8. The reset gate acts before W_hh: this is not torch.nn.GRU, which
    multiplies W_hh h by it.
    """

    blocks = reads = "zrn"
    products = (2, 1)
    gates = "zr"

    def equation(self, pre_NG, state, W):
        W_hzr, W_hh = W
        (h,) = state
        pre_zr, pre_n = pre_NG.split_with_sizes(self.sizes, dim=1)
        z, r = torch.sigmoid(W_hzr(pre_zr, h)).chunk(2, dim=1)
        n = torch.tanh(W_hh(pre_n, r * h))
        return (n + z * (h - n),), (z, r)


class MUT1(Cell):
    """z = s(W_xz x + b_z)
    r = s(W_xr x + W_hr h + b_r)
    h_t = tanh(W_hh (r * h) + tanh(x) + b_h) * z + h * (1 - z)

    Jozefowicz 2015, MUT1. x itself is used, so its size must be that of h.
    """

    blocks, reads = "zrh", "zr"
    products = (1, 1)
    gates = "zr"

    def inputs(self, x: Tensor) -> Tensor:
        zr = nn.functional.linear(x, self.W_xh)
        return torch.cat([zr, torch.tanh(x).to(zr.dtype)], dim=-1) + self.b

    def equation(self, pre_NG, state, W):
        W_hr, W_hh = W
        (h,) = state
        pre_z, pre_r, pre_h = pre_NG.chunk(3, dim=1)
        z, r = torch.sigmoid(pre_z), torch.sigmoid(W_hr(pre_r, h))
        n = torch.tanh(W_hh(pre_h, r * h))
        return (h + z * (n - h),), (z, r)


class MUT2(Cell):
    """z = s(W_xz x + W_hz h + b_z)
    r = s(x + W_hr h + b_r)
    h_t = tanh(W_hh (r * h) + W_xh x + b_h) * z + h * (1 - z)

    Jozefowicz 2015, MUT2. x itself is used, so its size must be that of h.
    """

    blocks, reads = "zrh", "zh"
    products = (2, 1)
    gates = "zr"

    def inputs(self, x: Tensor) -> Tensor:
        z, h = nn.functional.linear(x, self.W_xh).chunk(2, dim=-1)
        return torch.cat([z, x.to(z.dtype), h], dim=-1) + self.b

    def equation(self, pre_NG, state, W):
        W_hzr, W_hh = W
        (h,) = state
        pre_zr, pre_h = pre_NG.split_with_sizes(self.sizes, dim=1)
        z, r = torch.sigmoid(W_hzr(pre_zr, h)).chunk(2, dim=1)
        n = torch.tanh(W_hh(pre_h, r * h))
        return (h + z * (n - h),), (z, r)


class MUT3(Cell):
    """z = s(W_xz x + W_hz tanh(h) + b_z)
    r = s(W_xr x + W_hr h + b_r)
    h_t = tanh(W_hh (r * h) + W_xh x + b_h) * z + h * (1 - z)

    Jozefowicz 2015, MUT3.
    """

    blocks = reads = "zrh"
    products = (1, 1, 1)
    gates = "zr"

    def equation(self, pre_NG, state, W):
        W_hz, W_hr, W_hh = W
        (h,) = state
        pre_z, pre_r, pre_h = pre_NG.chunk(3, dim=1)
        z = torch.sigmoid(W_hz(pre_z, torch.tanh(h)))
        r = torch.sigmoid(W_hr(pre_r, h))
        n = torch.tanh(W_hh(pre_h, r * h))
        return (h + z * (n - h),), (z, r)


def make_cell(name: str, input_size: int, hidden_size: int) -> Cell:
    """The cell of this name. Raises InputError if there is none."""
    if name not in CELLS:
        raise InputError(f"decoder.cell={name}: give one of {', '.join(CELLS)}")
    return CELLS[name](input_size, hidden_size)


CELLS: dict[str, type[Cell]] = {c.__name__: c for c in (RNN, ReLU, LSTM, GRU, MUT1, MUT2, MUT3)}
