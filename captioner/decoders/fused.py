"""Layers that torch runs over time as one operation (oneDNN, on CPUs): the same equations, faster.

For rows of one length, where nothing but h is asked for: what language models learn from. Otherwise
the loop of scan.py.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from captioner.decoders.cells import LSTM, RNN, Cell, ReLU
from captioner.decoders.scan import Entries, Pack


def fits(cell: Cell, packed: Pack) -> bool:
    """Whether `run` can do it."""
    known = type(cell) in (LSTM, RNN, ReLU)
    return known and packed.even and cell.b.device.type == "cpu"


def run(cell: Cell, x_PE: Tensor, state: Sequence[Tensor], packed: Pack) -> tuple[Tensor, Entries]:
    """The packed trace of h, and the state after each row's last token."""
    x_TNE = x_PE.unflatten(0, (len(packed.sizes_T), -1))
    before = [entry[None] for entry in state]
    W = [cell.W_xh, cell.W_hh, cell.b, torch.zeros_like(cell.b)]
    if isinstance(cell, LSTM):  # torch's rows are i, f, g, o
        parts = (block.chunk(4) for block in W)
        W = [torch.cat([i, f, g, o]) for i, f, o, g in parts]
        h_TNH, *after = torch.lstm(x_TNE, before, W, True, 1, 0.0, cell.training, False, False)
    else:
        way = torch.rnn_relu if isinstance(cell, ReLU) else torch.rnn_tanh
        h_TNH, *after = way(x_TNE, before[0], W, True, 1, 0.0, cell.training, False, False)
    return h_TNH.flatten(0, 1), tuple(entry[0] for entry in after)
