"""Mind's Eye: the words build up a visual memory that must reconstruct the image."""

from collections.abc import Sequence

import torch
from torch import Tensor

from captioner.decoders import cells
from captioner.decoders.base import add_image, check_sizes, linear, real_positions
from captioner.decoders.scan import PackedDecoder, scan_cell
from captioner.errors import InputError
from captioner.types import Features, Memory, State


class MindsEye(PackedDecoder):
    """s_t = f(W_xh w_t + W_hh s_{t-1} + W_ih v)           the language's state
    u_t = f(W_xh' w_t + W_hh' u_{t-1})                   the visual memory: never from v
    y_t = W_hy [s_t, u_t]
    loss + lambda |v - W u_t|^2 at every real position

    Chen and Zitnick 2014, "Learning a Recurrent Visual Representation for Image Caption
    Generation" (CVPR 2015: "Mind's Eye").
    cell: of both, one of captioner.decoders.cells.CELLS. memory_size: of u. reconstruction: lambda.
    `forward` keeps s (N, T, H) and u (N, T, memory_size).
    """

    def __init__(
        self,
        vocab_size: int,
        feature_size: int,
        cell: str = "RNN",
        embed_size: int = 512,
        hidden_size: int = 512,
        memory_size: int = 512,
        dropout: float = 0.5,
        reconstruction: float = 0.001,
    ):
        check_sizes(embed_size=embed_size, hidden_size=hidden_size, memory_size=memory_size)
        super().__init__(vocab_size, feature_size, embed_size, hidden_size + memory_size, dropout)
        if reconstruction < 0:
            raise InputError(f"decoder.reconstruction={reconstruction}: give 0 or more")
        self.s = cells.make_cell(cell, embed_size, hidden_size)
        self.u = cells.make_cell(cell, embed_size, memory_size)
        self.W_ih = linear(feature_size, len(self.s.b), bias=False)
        self.reconstruction = reconstruction
        if reconstruction:
            self.W_vu = linear(memory_size, feature_size)
            self.kept_for_penalty = ("u",)

    def start(self, features: Features | None, rows: int) -> tuple[Memory, State]:
        state = self._named("s", self.s.zeros(rows)) | self._named("u", self.u.zeros(rows))
        if features is None:
            return {}, state
        return {"image": self.W_ih(self.standard(features.pooled_BD))}, state

    def step(self, token_N: Tensor, memory: Memory, state: State) -> tuple[Tensor, State]:
        x_NE = self.words(token_N)
        pre_NG = self.s.inputs(x_NE)
        if memory:
            pre_NG = add_image(pre_NG, memory["image"])
        s = self.s.step(pre_NG, self._entries("s", state))
        u = self.u.step(self.u.inputs(x_NE), self._entries("u", state))
        logits_NV = self.logits(torch.cat([s[0], u[0]], dim=1))
        return logits_NV, self._named("s", s) | self._named("u", u)

    def unroll(self, x_PE, packed, memory, state, keep):
        pre_PG = self.s.inputs(x_PE)
        if memory:
            pre_PG = pre_PG + packed.of_image(memory["image"])
        (s_PH,), s_after = scan_cell(self.s, pre_PG, self._entries("s", state), packed)
        u_before = self._entries("u", state)
        (u_PX,), u_after = scan_cell(self.u, self.u.inputs(x_PE), u_before, packed)
        after = self._named("s", s_after) | self._named("u", u_after)
        return torch.cat([s_PH, u_PX], dim=1), after, {"s": s_PH, "u": u_PX}

    def penalty(self, features, kept, length_N):
        """lambda |v - W u_t|^2, summed over the real positions; v, the target, has no gradient."""
        u_NTH = kept["u"]
        real_NT = real_positions(length_N, u_NTH.shape[1])
        v_BD = self.standard(features.pooled_BD.detach())
        row_P = real_NT.nonzero()[:, 0]
        v_PD = v_BD.index_select(0, row_P // (len(u_NTH) // len(v_BD)))
        return self.reconstruction * (v_PD - self.W_vu(u_NTH[real_NT])).square().sum()

    def _named(self, part: str, entries: Sequence[Tensor]) -> State:
        return {f"{part}_{name}": entry for name, entry in zip(self.s.entries, entries)}

    def _entries(self, part: str, state: State) -> tuple[Tensor, ...]:
        return tuple(state[f"{part}_{name}"] for name in self.s.entries)
