"""Recurrent layers as one operation of torch (oneDNN, on CPUs): the same equations, faster.

For rows of equal length of which only h is needed, as in training language models. Otherwise the
loop of scan.py runs.
"""

import torch
from torch import Tensor

from captioner.decoders.cells import LSTM, RNN, Cell, ReLU
from captioner.decoders.scan import Entries, Pack


def fits(cell: Cell, packed: Pack) -> bool:
    """Whether `run` supports this cell, device and batch."""
    known = type(cell) in (LSTM, RNN, ReLU)
    return known and packed.even and cell.b.device.type == "cpu"


def run(cell: Cell, x_PE: Tensor, state: Entries, packed: Pack) -> tuple[Entries, Entries]:
    """As `scan_cell`: the packed trace of h, and the state after each row's last token."""
    x_TNE = x_PE.unflatten(0, (len(packed.sizes_T), -1))
    before = [entry[None] for entry in state]
    W = [cell.W_xh, cell.W_hh, cell.b, torch.zeros_like(cell.b)]
    if isinstance(cell, LSTM):  # torch's rows are i, f, g, o
        W = [torch.cat([i, f, g, o]) for i, f, o, g in (block.chunk(4) for block in W)]
        h_TNH, *after = torch.lstm(x_TNE, before, W, True, 1, 0.0, cell.training, False, False)
    else:
        function = torch.rnn_relu if isinstance(cell, ReLU) else torch.rnn_tanh
        h_TNH, *after = function(x_TNE, before[0], W, True, 1, 0.0, cell.training, False, False)
    return (h_TNH.flatten(0, 1),), tuple(entry[0] for entry in after)
