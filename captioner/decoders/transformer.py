"""The transformer decoder, a baseline for the recurrent ones."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from captioner.decoders.base import WordDecoder, check_sizes, linear, real_positions
from captioner.errors import InputError
from captioner.types import Features, Memory, State


class Layer(nn.Module):
    """x + SelfAttention(norm x); x + CrossAttention(norm x, regions); x + FeedForward(norm x)."""

    def __init__(self, size: int, region_size: int, feed_forward: int, dropout: float):
        super().__init__()
        self.norm_self, self.norm_cross, self.norm_feed = (nn.LayerNorm(size) for _ in range(3))
        self.self_in, self.self_out = linear(size, 3 * size), linear(size, size)
        self.cross_q, self.cross_kv = linear(size, size), linear(region_size, 2 * size)
        self.cross_out = linear(size, size)
        self.feed = nn.Sequential(
            linear(size, feed_forward), nn.ReLU(), nn.Dropout(dropout), linear(feed_forward, size)
        )


class Transformer(WordDecoder):
    """Layers of causal self-attention, attention to the regions, and a feed-forward network.

    Vaswani et al. 2017 with the norms before each part (Xiong 2020), sinusoidal positions and
    embeddings times sqrt(E). Keys and values of the regions are made once per image; those of the
    words are the state, (N, words, E), with `real`, (N, words), which is False for padding.

    `forward` keeps alpha (N, T, R): the last layer's attention to the regions, its heads' mean.
    Raises InputError for sizes out of range, or a `hidden_size` that 2 `heads` do not divide.
    """

    uses_grid = True

    def __init__(
        self,
        vocab_size: int,
        feature_size: int,
        hidden_size: int = 512,
        layers: int = 3,
        heads: int = 8,
        feed_forward: int = 2048,
        dropout: float = 0.1,
    ):
        check_sizes(hidden_size=hidden_size, layers=layers, heads=heads, feed_forward=feed_forward)
        super().__init__(vocab_size, feature_size, hidden_size, hidden_size, dropout)
        if hidden_size % (2 * heads):
            wrong = f"decoder.hidden_size={hidden_size} with heads={heads}"
            raise InputError(f"{wrong}: give a multiple of {2 * heads}")
        self.size, self.heads = hidden_size, heads
        nn.init.normal_(self.embed.weight, std=hidden_size**-0.5)
        self.layers: Sequence[Layer] = nn.ModuleList(  # type: ignore[assignment]
            Layer(hidden_size, feature_size, feed_forward, dropout) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(hidden_size)

    def start(self, features: Features | None, rows: int) -> tuple[Memory, State]:
        none = self.embed.weight.new_zeros(rows, 0, self.size)
        state = {f"{name}{layer}": none for layer in range(len(self.layers)) for name in "kv"}
        state["real"] = none.new_zeros(rows, 0, dtype=torch.bool)
        if features is None:
            return {}, state
        if features.grid_BRD is None:
            raise InputError("Transformer needs the regions of an image (its grid)")
        memory: Memory = {}
        grid_BRD = self.standard(features.grid_BRD)
        for number, layer in enumerate(self.layers):
            k_BRE, v_BRE = layer.cross_kv(grid_BRD).chunk(2, dim=2)
            memory |= {f"k{number}": k_BRE, f"v{number}": v_BRE}
        if features.mask_BR is not None:
            memory["mask"] = features.mask_BR
        return memory, state

    def step(self, token_N: Tensor, memory: Memory, state: State) -> tuple[Tensor, State]:
        logits_NV, state, _ = self(token_N[:, None], torch.ones_like(token_N), memory, state)
        return logits_NV, state

    def forward(self, token_NT, length_N, memory, state, keep=()):
        """As in `Decoder`. All layers but the attention itself process the real positions only."""
        self.check_keep(keep, ("alpha",) if memory else ())
        real_NT = real_positions(length_N, token_NT.shape[1])
        before_N1 = state["real"].sum(1, keepdim=True)
        place_NT = before_N1 + real_NT.cumsum(1) - 1
        x_PE = self.embed(token_NT[real_NT]) * math.sqrt(self.size)
        x_PE = self.dropout(x_PE + _sinusoids(place_NT[real_NT], x_PE))

        all_real = bool(real_NT.all())  # as always in search

        def pack(x_NTX: Tensor) -> Tensor:
            return x_NTX.flatten(0, 1) if all_real else x_NTX[real_NT]

        def unpack(x_PX: Tensor) -> Tensor:
            if all_real:
                return x_PX.view(*real_NT.shape, x_PX.shape[1])
            return x_PX.new_zeros(*real_NT.shape, x_PX.shape[1]).masked_scatter(
                real_NT[..., None], x_PX
            )

        visible_NTT = _visible(state["real"], real_NT)
        state_after: State = {}
        for number, layer in enumerate(self.layers):
            q_NTE, *new = unpack(layer.self_in(layer.norm_self(x_PE))).chunk(3, dim=2)
            k, v = (
                torch.cat([state[f"{name}{number}"], tensor], dim=1)
                for name, tensor in zip("kv", new)
            )
            state_after |= {f"k{number}": k, f"v{number}": v}
            attended_NTE = self._attend(q_NTE, k, v, visible_NTT[:, None])
            x_PE = x_PE + self.dropout(layer.self_out(pack(attended_NTE)))
            if memory:
                q_NTE = unpack(layer.cross_q(layer.norm_cross(x_PE)))
                attended_NTE = self._cross_attend(q_NTE, number, memory)
                x_PE = x_PE + self.dropout(layer.cross_out(pack(attended_NTE)))
            x_PE = x_PE + self.dropout(layer.feed(layer.norm_feed(x_PE)))
        state_after["real"] = torch.cat([state["real"], real_NT], dim=1)
        kept = {"alpha": self._alpha(q_NTE, memory) * real_NT[..., None]} if keep else {}
        return self.logits(self.norm(x_PE)), state_after, kept

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """(X, T, E), (X, S, E), (X, S, E) -> (X, T, E), in `heads` parts of E."""
        q, k, v = (x.unflatten(2, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)

    def _cross_attend(self, q_NTE: Tensor, number: int, memory: Memory) -> Tensor:
        """Attention to the regions; an image's rows stand side by side, so that none is copied."""
        k_BRE, v_BRE = memory[f"k{number}"], memory[f"v{number}"]
        mask = memory["mask"][:, None, None] if "mask" in memory else None
        q_BME = q_NTE.reshape(len(k_BRE), -1, self.size)
        return self._attend(q_BME, k_BRE, v_BRE, mask).view_as(q_NTE)

    def _alpha(self, q_NTE: Tensor, memory: Memory) -> Tensor:
        k_BRE = memory[f"k{len(self.layers) - 1}"]
        q, k = (
            x.reshape(len(k_BRE), -1, self.heads, self.size // self.heads).transpose(1, 2)
            for x in (q_NTE, k_BRE)
        )
        score_BhMR = q @ k.transpose(2, 3) * (self.size // self.heads) ** -0.5
        if "mask" in memory:
            score_BhMR = score_BhMR.masked_fill(~memory["mask"][:, None, None], -torch.inf)
        return score_BhMR.softmax(3).mean(1).view(*q_NTE.shape[:2], -1)


def _visible(old_NS: Tensor, new_NT: Tensor) -> Tensor:
    """(N, T, S + T): which words each new one attends to; padding attends to itself."""
    steps = new_NT.shape[1]
    causal_TT = torch.ones(steps, steps, dtype=torch.bool, device=new_NT.device).tril()
    old_NTS = old_NS[:, None].expand(-1, steps, -1)
    return torch.cat([old_NTS, causal_TT.expand(len(old_NS), -1, -1)], dim=2)


def _sinusoids(place_P: Tensor, x_PE: Tensor) -> Tensor:
    """sin and cos of place / 10000^(2i / E), in the type of x  (Vaswani 2017, section 3.5)."""
    dtype = torch.promote_types(x_PE.dtype, torch.float32)
    size = x_PE.shape[1]
    exponent = torch.arange(0, size, 2, device=place_P.device, dtype=dtype) / size
    angle_PE = place_P[:, None] / 10000.0**exponent
    return torch.cat([angle_PE.sin(), angle_PE.cos()], dim=1).to(x_PE)
