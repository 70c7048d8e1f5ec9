"""Where a decoder looks: the regions of an image, their keys, and how well a query fits each.

alpha_r = softmax_r(score(k_r, q))        z = sum_r alpha_r a_r
"""

import torch
from torch import Tensor, nn

from captioner.decoders.base import linear, to_rows
from captioner.errors import InputError
from captioner.types import Features, Memory

SCORES = ("additive", "dot")


class Regions(nn.Module):
    """How well a query q fits each region's key, k = U a + b:

    additive  w^T tanh(k + q)     (Bahdanau 2015; Xu 2015)
    dot       k^T q / sqrt(A)     (Luong 2015, scaled as by Vaswani 2017)

    size: A. Raises InputError for another `score`.
    """

    def __init__(self, region_size: int, size: int, score: str):
        super().__init__()
        if score not in SCORES:
            raise InputError(f"decoder.score={score}: give one of {', '.join(SCORES)}")
        self.size = size
        self.U = linear(region_size, size)
        self.w = linear(size, 1, bias=False) if score == "additive" else None

    def memory(self, value_BRD: Tensor, features: Features) -> Memory:
        """What `View` looks at: the regions, their keys, and which of them exist."""
        memory = {"values": value_BRD, "keys": self.U(value_BRD)}
        return memory if features.mask_BR is None else memory | {"mask": features.mask_BR}

    def of(self, key_A: Tensor, query_A: Tensor) -> Tensor:
        """(.., A), (.., A) -> (..)."""
        if self.w is None:
            return (key_A * query_A).sum(-1) * self.size**-0.5
        return self.w(torch.tanh(key_A + query_A)).squeeze(-1)


class View:
    """The images as rows n see them: all N rows, or those numbered index_n, of N = B * M rows that
    stand image by image."""

    def __init__(self, regions: Regions, memory: Memory, rows: int, index_n: Tensor | None = None):
        self.regions, self.memory, self.rows, self.index_n = regions, memory, rows, index_n
        self.images = len(memory["keys"])

    def scores(self, q_nA: Tensor) -> Tensor:
        """(n, A) -> (n, R), -inf where there is no region."""
        keys_BRA = self.memory["keys"]
        if self.regions.w is None:
            q_BMA = self._spread(q_nA) * self.regions.size**-0.5
            score_nR = self._collect(q_BMA @ keys_BRA.transpose(1, 2))
        elif self.index_n is None:  # the rows of an image share its keys: none is copied
            score_BMR = self.regions.of(keys_BRA[:, None], self._spread(q_nA)[:, :, None])
            score_nR = self._collect(score_BMR)
        else:
            score_nR = self.regions.of(self._of_image(keys_BRA), q_nA[:, None])
        if "mask" not in self.memory:
            return score_nR
        return score_nR.masked_fill(~self._of_image(self.memory["mask"]), -torch.inf)

    def mix(self, alpha_nR: Tensor) -> Tensor:
        """(n, R) -> (n, D): the sum of the regions, so weighted."""
        return self._collect(self._spread(alpha_nR) @ self.memory["values"])

    def attend(self, q_nA: Tensor) -> tuple[Tensor, Tensor]:
        """-> z_nD and alpha_nR."""
        alpha_nR = self.scores(q_nA).softmax(1)
        return self.mix(alpha_nR), alpha_nR

    def _of_image(self, x_BX: Tensor) -> Tensor:
        if self.index_n is None:
            return to_rows(x_BX, self.rows)
        return x_BX.index_select(0, self.index_n // (self.rows // self.images))

    def _spread(self, x_nX: Tensor) -> Tensor:
        """(n, X) -> (B, M, X), with zeros for the rows that do not look."""
        if self.index_n is not None:
            x_nX = x_nX.new_zeros(self.rows, x_nX.shape[1]).index_copy(0, self.index_n, x_nX)
        return x_nX.view(self.images, -1, x_nX.shape[1])

    def _collect(self, x_BMX: Tensor) -> Tensor:
        """(B, M, X) -> (n, X)."""
        x_NX = x_BMX.flatten(0, 1)
        return x_NX if self.index_n is None else x_NX.index_select(0, self.index_n)
