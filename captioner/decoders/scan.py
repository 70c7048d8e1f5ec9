"""The loop over time, at real positions only.

Positions are packed time by time with the longest rows first (as in a PackedSequence), so that the
rows that are still alive at a time step are the first ones, and nothing is computed for padding.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from captioner.decoders.base import Names, WordDecoder, real_positions
from captioner.decoders.cells import Cell
from captioner.types import Memory, State

Entries = tuple[Tensor, ...]
Step = Callable[[Tensor, Entries], tuple[Entries, Entries]]
"""(pre_NG, state) -> the new state, and the tensors to trace."""


class Pack(NamedTuple):
    """The P real positions of N rows and T time steps, time by time, longest rows first."""

    order_N: Tensor  # rows, longest first
    rank_N: Tensor  # where each row stands in that order
    sizes_T: list[int]  # rows still alive at each time step
    row_P: Tensor
    time_P: Tensor
    real_NT: Tensor
    in_row_order_P: Tensor  # indexes packed positions so that they come row by row

    @property
    def even(self) -> bool:
        """Whether all rows are equally long; they keep their order then."""
        return self.sizes_T[-1] == len(self.order_N) > 0

    def by_row(self, x_P: Tensor) -> Tensor:
        """The same positions, row by row."""
        if self.even:
            return x_P.unflatten(0, (len(self.sizes_T), -1)).transpose(0, 1).flatten(0, 1)
        return x_P.index_select(0, self.in_row_order_P)

    def of_image(self, x_B: Tensor) -> Tensor:
        """(B, ..) -> (P, ..): for each position the entry of its image."""
        return x_B.index_select(0, self.row_P // (len(self.order_N) // len(x_B)))

    def unpack(self, x_P: Tensor) -> Tensor:
        """(P, ..) -> (N, T, ..), with zeros for padding."""
        x_NT = x_P.new_zeros(*self.real_NT.shape, *x_P.shape[1:])
        return x_NT.index_put((self.row_P, self.time_P), x_P)


def pack(length_N: Tensor, steps: int) -> Pack:
    """The positions of rows of these lengths; rows of length 0 stand last, without a position."""
    order_N = length_N.argsort(descending=True, stable=True)
    rank_N = order_N.argsort()
    alive_TN = real_positions(length_N[order_N], steps).t()
    time_P, sorted_P = alive_TN.nonzero(as_tuple=True)
    sizes_T = alive_TN.sum(1)
    real_NT = alive_TN.t()[rank_N]
    row_P, step_P = real_NT.nonzero(as_tuple=True)
    in_row_order_P = (sizes_T.cumsum(0) - sizes_T)[step_P] + rank_N[row_P]
    sizes = [size for size in sizes_T.tolist() if size] or [0]
    return Pack(order_N, rank_N, sizes, order_N[sorted_P], time_P, real_NT, in_row_order_P)


class PackedDecoder(WordDecoder):
    """A decoder whose `forward` computes the packed positions, by `unroll`."""

    @abstractmethod
    def unroll(
        self, x_PE: Tensor, packed: Pack, memory: Memory, state: State, keep: Names
    ) -> tuple[Tensor, State, dict[str, Tensor]]:
        """Words -> what the vocabulary reads, the state after each row's last token, and tensors
        that `keep` may name, or all that it may; the first and the last are packed."""

    def forward(self, token_NT, length_N, memory, state, keep=()):
        packed = pack(length_N, token_NT.shape[1])
        x_PE = self.words(token_NT[packed.row_P, packed.time_P])
        h_PX, after, kept = self.unroll(x_PE, packed, memory, state, keep)
        self.check_keep(keep, kept)
        logits_PV = self.logits(packed.by_row(h_PX))
        return logits_PV, after, {name: packed.unpack(kept[name]) for name in keep}


def scan(
    step: Step, pre_PG: Tensor, state: Sequence[Tensor], packed: Pack
) -> tuple[Entries, Entries]:
    """Run `step` over the time steps, on the rows still alive.

    state: a tensor (N, ..) for each entry. Returns the packed (P, ..) trace of each of the step's
    other tensors, and the state after each row's last token.
    """
    state = tuple(entry.index_select(0, packed.order_N) for entry in state)
    traces, ended = [], []
    for pre_NG in pre_PG.split(packed.sizes_T):
        alive = len(pre_NG)
        if alive < len(state[0]):
            ended.append(tuple(entry[alive:] for entry in state))
            state = tuple(entry[:alive] for entry in state)
        state, trace = step(pre_NG, state)
        traces.append(trace)
    ended.append(state)
    after = (torch.cat(pieces).index_select(0, packed.rank_N) for pieces in zip(*reversed(ended)))
    return tuple(torch.cat(pieces) for pieces in zip(*traces)), tuple(after)


def scan_cell(
    cell: Cell, pre_PG: Tensor, state: Sequence[Tensor], packed: Pack, keep_all: bool = False
) -> tuple[Entries, Entries]:
    """`scan` of a cell, with the trace of h; with `keep_all`, of all entries, then of the gates."""
    pre_PG, W = defer_products(pre_PG, cell.recurrent_blocks())

    def step(pre_NG: Tensor, entries: Entries) -> tuple[Entries, Entries]:
        entries, gates = cell.equation(pre_NG, entries, W)
        return entries, (*entries, *gates) if keep_all else entries[:1]

    return scan(step, pre_PG, state, packed)


class DeferredProduct:
    """(pre, x) -> pre + W x, as if W were constant: see `defer_products`."""

    def __init__(self, columns: slice, W: Tensor):
        self.columns, self.dtype = columns, W.dtype
        if torch.is_autocast_enabled(W.device.type):
            W = W.to(torch.get_autocast_dtype(W.device.type))  # once, and not at every step
        self.W_t = W.detach().t()
        self.operands: list[Tensor] = []

    def __call__(self, pre: Tensor, x: Tensor) -> Tensor:
        x = x.to(self.W_t.dtype)
        self.operands.append(x.detach())
        return torch.addmm(pre, x, self.W_t)


def defer_products(
    pre_PG: Tensor, weights: Iterable[tuple[slice, Tensor]]
) -> tuple[Tensor, list[DeferredProduct]]:
    """Products for a loop over time whose weights get their gradient in one product instead of T.

    Since pre_t is added to W x_t, dL/dW = sum_t delta_t x_t^T, where delta_t is the gradient at
    pre_t; and all of these are known when backpropagation reaches pre_PG.

    weights: each with the columns of `pre` that its product is added to. Returns pre_PG, through
    which those gradients go, and the products, to be used once at each time step.
    """
    weights = list(weights)
    products = [DeferredProduct(columns, W) for columns, W in weights]
    return _DeferredGradients.apply(pre_PG, products, *(W for _, W in weights)), products


class _DeferredGradients(torch.autograd.Function):
    """pre_PG unchanged; the weights' gradients out of that of pre_PG and of their operands."""

    @staticmethod
    def forward(ctx, pre_PG, products, *weights):
        ctx.products = products
        return pre_PG.view_as(pre_PG)

    @staticmethod
    @once_differentiable
    def backward(ctx, delta_PG):
        weight_gradients = []
        for product, needed in zip(ctx.products, ctx.needs_input_grad[2:]):
            x_P = torch.cat(product.operands).to(delta_PG.dtype)
            gradient = delta_PG[:, product.columns].t() @ x_P if needed else None
            weight_gradients.append(None if gradient is None else gradient.to(product.dtype))
        return delta_PG, None, *weight_gradients
