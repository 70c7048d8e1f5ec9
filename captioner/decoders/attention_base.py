"""What attention decoders share: `step` and `forward`, the regions' keys and their scores.

    alpha_t = softmax_r(score(k_r, q_t))        z_t = sum_r alpha_tr a_r

The keys k_r are computed from the regions a_r once per image, in `start`.
"""

from abc import abstractmethod
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from captioner.decoders.base import add_image, linear, to_rows
from captioner.decoders.cells import Product, product
from captioner.decoders.scan import Entries, PackedDecoder, defer_products, scan
from captioner.errors import InputError
from captioner.types import Features, Memory, State

SCORES = ("additive", "dot")


class Regions(nn.Module):
    """The score of a query q with each region's key, k = U a + b:

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
        """What `View` reads: the regions, their keys, and which of them exist."""
        memory = {"values": value_BRD, "keys": self.U(value_BRD)}
        return memory if features.mask_BR is None else memory | {"mask": features.mask_BR}

    def score(self, key_A: Tensor, query_A: Tensor) -> Tensor:
        """(.., A), (.., A) -> (..)."""
        if self.w is None:
            return (key_A * query_A).sum(-1) * self.size**-0.5
        return self.w(torch.tanh(key_A + query_A)).squeeze(-1)


class View:
    """The regions as n rows see them: all N = B * M rows, which stand image by image, or those
    numbered index_n."""

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
            score_BMR = self.regions.score(keys_BRA[:, None], self._spread(q_nA)[:, :, None])
            score_nR = self._collect(score_BMR)
        else:
            score_nR = self.regions.score(self._of_image(keys_BRA), q_nA[:, None])
        if "mask" not in self.memory:
            return score_nR
        return score_nR.masked_fill(~self._of_image(self.memory["mask"]), -torch.inf)

    def weighted_sum(self, alpha_nR: Tensor) -> Tensor:
        """(n, R) -> (n, D): the weighted sum of the regions."""
        return self._collect(self._spread(alpha_nR) @ self.memory["values"])

    def attend(self, q_nA: Tensor) -> tuple[Tensor, Tensor]:
        """The weighted sum z_nD of the regions, and the weights alpha_nR."""
        alpha_nR = self.scores(q_nA).softmax(1)
        return self.weighted_sum(alpha_nR), alpha_nR

    def _of_image(self, x_BX: Tensor) -> Tensor:
        if self.index_n is None:
            return to_rows(x_BX, self.rows)
        return x_BX.index_select(0, self.index_n // (self.rows // self.images))

    def _spread(self, x_nX: Tensor) -> Tensor:
        """(n, X) -> (B, M, X), with zeros for the other rows."""
        if self.index_n is not None:
            x_nX = x_nX.new_zeros(self.rows, x_nX.shape[1]).index_copy(0, self.index_n, x_nX)
        return x_nX.view(self.images, -1, x_nX.shape[1])

    def _collect(self, x_BMX: Tensor) -> Tensor:
        """(B, M, X) -> (n, X)."""
        x_NX = x_BMX.flatten(0, 1)
        return x_NX if self.index_n is None else x_NX.index_select(0, self.index_n)


class Attention(PackedDecoder):
    """`step` and `unroll`, composed of five pieces that each decoder defines:

    begin    features -> memory, and the first state entries, one row per image
    weights  the products of `tick`, each with the columns of `pre` that it is added to
    inputs   words -> pre: all that depends on the words alone, for all positions at once
    tick     a time step: pre, state, the products, a view -> the new state, and what `output` needs
    output   words, what `tick` returned for it, a view -> what the vocabulary reads, and alpha

    An "image" in memory is added to `pre`. Dropout acts on the regions too: without it they are
    learned by heart (LOG.md). `forward` keeps alpha (N, T, R). It cannot be a language model:
    `start` raises InputError without the regions of an image.
    """

    uses_grid = True
    entries: Sequence[str]
    regions: Regions

    @abstractmethod
    def begin(self, features: Features) -> tuple[Memory, Entries]: ...

    @abstractmethod
    def weights(self) -> Iterable[tuple[slice, Tensor]]: ...

    @abstractmethod
    def inputs(self, x_PE: Tensor) -> Tensor: ...

    @abstractmethod
    def tick(
        self, pre_NX: Tensor, state: Entries, W: Sequence[Product], view: View
    ) -> tuple[Entries, Entries]: ...

    @abstractmethod
    def output(self, x_PE: Tensor, outputs: Entries, view: View) -> tuple[Tensor, Tensor]: ...

    def start(self, features: Features | None, rows: int) -> tuple[Memory, State]:
        if features is None or features.grid_BRD is None:
            raise InputError(f"{type(self).__name__} needs the regions of an image (its grid)")
        v_BD, a_BRD = self.standard(features.pooled_BD), self.standard(features.grid_BRD)
        memory, state = self.begin(Features(v_BD, self.dropout(a_BRD), features.mask_BR))
        return memory, {name: to_rows(entry, rows) for name, entry in zip(self.entries, state)}

    def step(self, token_N: Tensor, memory: Memory, state: State) -> tuple[Tensor, State]:
        x_NE = self.words(token_N)
        pre_NX = self.inputs(x_NE)
        if "image" in memory:
            pre_NX = add_image(pre_NX, memory["image"])
        view = View(self.regions, memory, len(token_N))
        W = [product(weight) for _, weight in self.weights()]
        entries, outputs = self.tick(pre_NX, tuple(state[name] for name in self.entries), W, view)
        h_N, _ = self.output(x_NE, outputs, view)
        return self.logits(h_N), dict(zip(self.entries, entries))

    def unroll(self, x_PE, packed, memory, state, keep):
        N, T = packed.real_NT.shape
        pre_PX = self.inputs(x_PE)
        if "image" in memory:
            pre_PX = pre_PX + packed.of_image(memory["image"])
        pre_PX, W = defer_products(pre_PX, self.weights())

        def tick(pre_NX: Tensor, entries: Entries) -> tuple[Entries, Entries]:
            alive_N = packed.order_N[: len(pre_NX)]
            return self.tick(pre_NX, entries, W, View(self.regions, memory, N, alive_N))

        outputs, after = scan(tick, pre_PX, [state[name] for name in self.entries], packed)
        view = View(self.regions, memory, N * T, packed.row_P * T + packed.time_P)
        h_P, alpha_PR = self.output(x_PE, outputs, view)
        return h_P, dict(zip(self.entries, after)), {"alpha": alpha_PR}
