"""The lecture's captioner: layers of recurrent cells that the image enters through W_ih.

    h_t = f(W_xh x_t + W_hh h_{t-1} + W_ih v)          y_t = W_hy h_t

Three things make it fast, and change no number:
- `W_ih v` is computed once per image, in `start`;
- `W_xh x_t + b` of all time steps is one matrix product, before the loop over time;
- rows are sorted by length inside `forward`, so that nothing is computed for padding: the loop
  holds the rows that are still alive, and the vocabulary sees the real positions only.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from captioner import cells
from captioner.decoders.base import Decoder, real_positions
from captioner.types import BOS, PAD, Features, InputError, Memory, State

CELLS = ("RNN", "LSTM")
INJECT = ("par", "first", "pre", "init", "merge")


class Recurrent(Decoder):
    """Layers of one recurrent cell, the first of them reading words and, by `inject`, the image:

    par    W_ih v at every step (the lecture; LRCN, Donahue 2015)                       W_ih: G x D
    first  W_ih v at t = 1 only (Karpathy and Fei-Fei 2015)                             W_ih: G x D
    pre    the projected image is the input of a step before START (NIC, Vinyals 2015)  W_ih: E x D
    init   every state entry starts at tanh(W v + b), a matrix for each (Xu 2015)       W:    H x D
    merge  y_t = W_hy g(h_t + W_ih v), g(x) = 1.7159 tanh(2x/3) (m-RNN, Mao 2015)       W_ih: H x D

    cell: a name of captioner.cells. dropout: of the words' embeddings, between layers and before
    the vocabulary. Raises InputError for a value outside these.
    """

    cells: Sequence[cells.Cell]
    never_V: Tensor

    def __init__(
        self,
        vocab_size: int,
        feature_size: int,
        cell: str = "LSTM",
        embed_size: int = 512,
        hidden_size: int = 512,
        layers: int = 1,
        dropout: float = 0.5,
        inject: str = "par",
    ):
        super().__init__()
        if cell not in CELLS:
            raise InputError(f"decoder.cell={cell}: give one of {', '.join(CELLS)}")
        if inject not in INJECT:
            raise InputError(f"decoder.inject={inject}: give one of {', '.join(INJECT)}")
        if layers < 1 or embed_size < 1 or hidden_size < 1:
            raise InputError(f"decoder: {layers=}, {embed_size=}, {hidden_size=}: give 1 or more")
        if not 0 <= dropout < 1:
            raise InputError(f"decoder.dropout={dropout}: give 0 <= dropout < 1")
        self.vocab_size, self.hidden_size, self.inject = vocab_size, hidden_size, inject
        Cell: type[cells.Cell] = getattr(cells, cell)
        sizes = [embed_size] + [hidden_size] * (layers - 1)
        self.cells = nn.ModuleList(Cell(size, hidden_size) for size in sizes)  # type: ignore
        self.dropout = nn.Dropout(dropout)
        self.embed = nn.Embedding(vocab_size, embed_size)
        nn.init.uniform_(self.embed.weight, -0.1, 0.1)

        entries = layers * len(Cell.entries)
        rows = {"pre": embed_size, "init": entries * hidden_size, "merge": hidden_size}
        self.W_ih = nn.Linear(
            feature_size, rows.get(inject, Cell.gates * hidden_size), bias=inject == "init"
        )
        self.W_hy = nn.Linear(hidden_size, vocab_size)
        for W in (self.W_ih, self.W_hy):
            nn.init.xavier_uniform_(W.weight)
        nn.init.zeros_(self.W_hy.bias)
        never_V = torch.zeros(vocab_size)
        never_V[[PAD, BOS]] = -torch.inf
        self.register_buffer("never_V", never_V, persistent=False)

    def start(self, features: Features | None, rows: int) -> tuple[Memory, State]:
        states = [cell.zeros(rows) for cell in self.cells]
        memory: Memory = {}
        state: State = {}
        if features is not None:
            image = self.W_ih(features.pooled_BD)
            if self.inject in ("par", "merge"):
                memory["image"] = image
            elif self.inject == "first":
                state["image"] = _to_rows(image, rows)
            elif self.inject == "pre":
                states = [cell.zeros(len(image)) for cell in self.cells]
                _, states = self._layers_step(image, None, states)
                states = [tuple(_to_rows(s, rows) for s in entry) for entry in states]
            elif self.inject == "init":
                blocks = iter(_to_rows(torch.tanh(image), rows).split(self.hidden_size, dim=1))
                states = [tuple(next(blocks) for _ in entry) for entry in states]
        return memory, state | self._named(states)

    def step(self, token_N: Tensor, memory: Memory, state: State) -> tuple[Tensor, State]:
        image = state.get("image", memory.get("image"))
        x_NE = self.dropout(self.embed(token_N))
        inside = image if self.inject in ("par", "first") else None
        h_NH, states = self._layers_step(x_NE, inside, self._unnamed(state))
        state_after = self._named(states)
        if "image" in state:  # `first`: used up
            state_after["image"] = torch.zeros_like(state["image"])
        if image is not None and self.inject == "merge":
            h_NH = _g(_add_image(h_NH, image))
        return self._logits(h_NH), state_after

    def forward(
        self,
        token_NT: Tensor,
        length_N: Tensor,
        memory: Memory,
        state: State,
        keep: Sequence[str] = (),
    ) -> tuple[Tensor, State, dict[str, Tensor]]:
        rows, steps = token_NT.shape
        entries = self.cells[0].entries
        if unknown := set(keep) - set(entries):
            raise ValueError(f"keep={sorted(unknown)}: this decoder keeps {', '.join(entries)}")
        pack = _pack(length_N, steps)
        x_P = self.dropout(self.embed(token_NT[pack.row_P, pack.time_P]))
        pre_P = self.cells[0].inputs(x_P)
        image_P = None
        if "image" in memory:
            image_P = pack.row_P // (rows // len(memory["image"]))
            if self.inject == "par":
                pre_P = pre_P + memory["image"].index_select(0, image_P)
        states_after = []
        kept: dict[str, list[Tensor]] = {name: [] for name in keep}
        for layer, (cell, entry) in enumerate(zip(self.cells, self._unnamed(state))):
            if layer:
                pre_P = cell.inputs(self.dropout(x_P))
            first = state["image"][pack.order_N] if layer == 0 and "image" in state else None
            outputs, after = _scan(
                cell, pre_P, tuple(s.index_select(0, pack.order_N) for s in entry), pack, first
            )
            x_P = outputs[0]
            states_after.append(tuple(s.index_select(0, pack.rank_N) for s in after))
            for name in keep:
                traces = outputs[entries.index(name)][pack.in_row_order_P]
                kept[name].append(
                    traces.new_zeros(rows, steps, self.hidden_size).masked_scatter(
                        pack.real_NT[..., None], traces
                    )
                )
        h_PH = x_P
        if image_P is not None and self.inject == "merge":
            h_PH = _g(h_PH + memory["image"].index_select(0, image_P))
        state_after = self._named(states_after)
        if "image" in state:
            state_after["image"] = state["image"] * (length_N == 0)[:, None]
        return (
            self._logits(h_PH.index_select(0, pack.in_row_order_P)),
            state_after,
            {name: torch.stack(layers, dim=2) for name, layers in kept.items()},
        )

    def _layers_step(self, x_NE, image, states):
        """One time step through all layers -> the top layer's h_NH, and the new states."""
        states_after = []
        for layer, (cell, entry) in enumerate(zip(self.cells, states)):
            pre_NG = cell.inputs(self.dropout(x_NE) if layer else x_NE)
            if layer == 0 and image is not None:
                pre_NG = _add_image(pre_NG, image)
            entry = cell.step(pre_NG, entry)
            x_NE = entry[0]
            states_after.append(entry)
        return x_NE, states_after

    def _logits(self, h_NH: Tensor) -> Tensor:
        return F.linear(self.dropout(h_NH), self.W_hy.weight, self.W_hy.bias + self.never_V)

    def _named(self, states: Sequence[tuple[Tensor, ...]]) -> State:
        names = self.cells[0].entries
        return {
            f"{name}{layer}": tensor
            for layer, entry in enumerate(states)
            for name, tensor in zip(names, entry)
        }

    def _unnamed(self, state: State) -> list[tuple[Tensor, ...]]:
        names = self.cells[0].entries
        return [tuple(state[f"{n}{layer}"] for n in names) for layer in range(len(self.cells))]


def _to_rows(x_B: Tensor, rows: int) -> Tensor:
    return x_B.repeat_interleave(rows // len(x_B), dim=0)


def _add_image(x_NG: Tensor, image_BG: Tensor) -> Tensor:
    """Adds each image's vector to its N / B rows, without copying it to them."""
    return (x_NG.view(len(image_BG), -1, x_NG.shape[1]) + image_BG[:, None]).view_as(x_NG)


def _g(x: Tensor) -> Tensor:
    """m-RNN's scaled hyperbolic tangent (LeCun 1998)."""
    return 1.7159 * torch.tanh(x * (2 / 3))


class _Pack(NamedTuple):
    """The P real positions, time by time, with the longest rows first (as in a PackedSequence)."""

    order_N: Tensor  # rows, longest first
    rank_N: Tensor  # where each row stands in that order
    sizes_T: list[int]  # rows still alive at each time step
    row_P: Tensor
    time_P: Tensor
    real_NT: Tensor
    in_row_order_P: Tensor  # indexes packed positions so that they come row by row


def _pack(length_N: Tensor, steps: int) -> _Pack:
    order_N = length_N.argsort(descending=True, stable=True)
    rank_N = order_N.argsort()
    alive_TN = real_positions(length_N[order_N], steps).t()
    time_P, sorted_P = alive_TN.nonzero(as_tuple=True)
    sizes_T = alive_TN.sum(1)
    real_NT = real_positions(length_N, steps)
    row_P, step_P = real_NT.nonzero(as_tuple=True)
    in_row_order_P = (sizes_T.cumsum(0) - sizes_T)[step_P] + rank_N[row_P]
    sizes = [size for size in sizes_T.tolist() if size] or [0]
    return _Pack(order_N, rank_N, sizes, order_N[sorted_P], time_P, real_NT, in_row_order_P)


def _scan(cell, pre_PG, state, pack, first_NG):
    """The loop over time of one layer, over the rows still alive.

    Returns the packed (P, H) trace of every state entry, and the entries after each row's last
    token, rows in pack order.
    """
    traces, ended = [], []
    for t, pre_NG in enumerate(pre_PG.split(pack.sizes_T)):
        alive = len(pre_NG)
        if alive < len(state[0]):
            ended.append(tuple(s[alive:] for s in state))
            state = tuple(s[:alive] for s in state)
        if t == 0 and first_NG is not None:
            pre_NG = pre_NG + first_NG[:alive]
        state = cell.step(pre_NG, state)
        traces.append(state)
    ended.append(state)
    return (
        [torch.cat(trace) for trace in zip(*traces)],
        [torch.cat(pieces) for pieces in zip(*reversed(ended))],
    )
