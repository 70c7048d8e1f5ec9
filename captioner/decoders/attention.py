"""Decoders that look at the regions of an image anew for every word.

The image vector v is the mean of the regions. The attended region z_t enters a cell by a matrix
product of its own, added to the pre-activations: nothing is concatenated.
"""

import torch
from torch import nn

from captioner.decoders import cells
from captioner.decoders.attention_base import Attention, Regions
from captioner.decoders.base import check_sizes, linear, to_rows
from captioner.errors import InputError


class SoftAttention(Attention):
    """q_t = W_q h_{t-1}                                     what to look for
    z_t = s(w_beta h_{t-1} + b) sum_r alpha_tr a_r        gated by a scalar (section 4.2.1)
    h_t = f(W_xh x_t + W_hh h_{t-1} + W_zh z_t)
    y_t = W_hy (x_t + L_h h_t + L_z z_t)                  deep output (equation 7)
    loss + lambda sum_r (1 - sum_t alpha_tr)^2            for each caption (equation 14)

    Show, Attend and Tell, Xu et al. 2015. Every state entry starts at tanh(W v + b).

    cell: one of captioner.decoders.cells.CELLS. score: additive, as in the paper, or dot.
    attention_size: A, of keys and queries. doubly_stochastic: lambda.
    """

    def __init__(
        self,
        vocab_size: int,
        feature_size: int,
        cell: str = "LSTM",
        embed_size: int = 512,
        hidden_size: int = 512,
        attention_size: int = 512,
        score: str = "additive",
        dropout: float = 0.5,
        doubly_stochastic: float = 1.0,
    ):
        check_sizes(embed_size=embed_size, hidden_size=hidden_size, attention_size=attention_size)
        super().__init__(vocab_size, feature_size, embed_size, embed_size, dropout)
        if doubly_stochastic < 0:
            raise InputError(f"decoder.doubly_stochastic={doubly_stochastic}: give 0 or more")
        self.cell = cells.make_cell(cell, embed_size, hidden_size)
        self.entries = self.cell.entries
        self.regions = Regions(feature_size, attention_size, score)
        self.W_init = linear(feature_size, len(self.entries) * hidden_size)
        self.W_zh = linear(feature_size, len(self.cell.b), bias=False)
        self.W_q = linear(hidden_size, attention_size + 1)  # its last row is the gate's
        self.L_h = linear(hidden_size, embed_size, bias=False)
        self.L_z = linear(feature_size, embed_size, bias=False)
        self.doubly_stochastic = doubly_stochastic
        if doubly_stochastic:
            self.kept_for_penalty = ("alpha",)

    def begin(self, features):
        state = torch.tanh(self.W_init(features.pooled_BD))
        memory = self.regions.memory(features.grid_BRD, features)
        return memory, state.chunk(len(self.entries), dim=1)

    def weights(self):
        G = len(self.cell.b)
        yield from self.cell.recurrent_blocks()
        yield slice(0, G), self.W_zh.weight
        yield slice(G, None), self.W_q.weight

    def inputs(self, x_PE):
        return torch.cat([self.cell.inputs(x_PE), self.W_q.bias.expand(len(x_PE), -1)], dim=1)

    def tick(self, pre_NX, state, W, view):
        *W_hh, W_zh, W_q = W
        pre_NG, q_NX = pre_NX.tensor_split([len(self.cell.b)], dim=1)
        q_NA, beta_N1 = W_q(q_NX, state[0]).tensor_split([self.regions.size], dim=1)
        z_ND, alpha_NR = view.attend(q_NA)
        z_ND = torch.sigmoid(beta_N1) * z_ND
        state, _ = self.cell.equation(W_zh(pre_NG, z_ND), state, W_hh)
        return state, (state[0], z_ND, alpha_NR)

    def output(self, x_PE, outputs, view):
        h_PH, z_PD, alpha_PR = outputs
        return x_PE + self.L_h(h_PH) + self.L_z(z_PD), alpha_PR

    def penalty(self, features, kept, length_N):
        """lambda sum_r (1 - sum_t alpha_tr)^2, summed over the captions."""
        alpha_NTR = kept["alpha"]
        real_NR = (length_N > 0)[:, None]
        if features is not None and features.mask_BR is not None:
            real_NR = real_NR & to_rows(features.mask_BR, len(alpha_NTR))
        return self.doubly_stochastic * ((1 - alpha_NTR.sum(1)).square() * real_NR).sum()


class AdaptiveAttention(Attention):
    """h_t = f(W_xh x_t + W_hh h_{t-1} + W_ih v_g)           v_g = max(0, W_b v)
    s_t = s(W_sx x_t + W_sh h_{t-1} + W_si v_g) * tanh(c_t)  the visual sentinel (equations 9, 10)
    alpha_t = softmax([score(v_r, h_t), score(s_t, h_t)])  v_r = max(0, W_a a_r) (equation 12)
    y_t = W_hy (sum_r alpha_tr v_r + beta_t s_t + h_t)     beta_t: the sentinel's share

    Knowing When to Look, Lu et al. 2017. It looks after the recurrence, so for all words at once.
    A cell without a memory c has h_t in place of tanh(c_t).

    cell, score, attention_size: as for SoftAttention. alpha has R + 1 columns; the last is beta.
    """

    def __init__(
        self,
        vocab_size: int,
        feature_size: int,
        cell: str = "LSTM",
        embed_size: int = 512,
        hidden_size: int = 512,
        attention_size: int = 512,
        score: str = "additive",
        dropout: float = 0.5,
    ):
        check_sizes(embed_size=embed_size, hidden_size=hidden_size, attention_size=attention_size)
        super().__init__(vocab_size, feature_size, embed_size, hidden_size, dropout)
        self.cell = cells.make_cell(cell, embed_size, hidden_size)
        self.entries = self.cell.entries
        self.regions = Regions(hidden_size, attention_size, score)
        self.W_a = linear(feature_size, hidden_size)
        self.W_b = linear(feature_size, embed_size)
        self.W_ih = linear(embed_size, len(self.cell.b) + hidden_size, bias=False)
        self.W_sx = linear(embed_size, hidden_size)
        self.W_sh = linear(hidden_size, hidden_size, bias=False)
        self.W_s = linear(hidden_size, attention_size)
        self.W_q = linear(hidden_size, attention_size, bias=False)

    def begin(self, features):
        memory = self.regions.memory(torch.relu(self.W_a(features.grid_BRD)), features)
        memory["image"] = self.W_ih(torch.relu(self.W_b(features.pooled_BD)))
        return memory, self.cell.zeros(len(features.pooled_BD))

    def weights(self):
        yield from self.cell.recurrent_blocks()
        yield slice(len(self.cell.b), None), self.W_sh.weight

    def inputs(self, x_PE):
        return torch.cat([self.cell.inputs(x_PE), self.W_sx(x_PE)], dim=1)

    def tick(self, pre_NX, state, W, view):
        *W_hh, W_sh = W
        pre_NG, pre_NH = pre_NX.tensor_split([len(self.cell.b)], dim=1)
        gate_NH = torch.sigmoid(W_sh(pre_NH, state[0]))
        state, _ = self.cell.equation(pre_NG, state, W_hh)
        memory_NH = torch.tanh(state[1]) if "c" in self.entries else state[0]
        return state, (state[0], gate_NH * memory_NH)

    def output(self, x_PE, outputs, view):
        h_PH, s_PH = outputs
        q_PA = self.W_q(h_PH)
        sentinel_P = self.regions.score(self.W_s(s_PH), q_PA)
        alpha_PX = torch.cat([view.scores(q_PA), sentinel_P[:, None]], dim=1).softmax(1)
        context_PH = view.weighted_sum(alpha_PX[:, :-1]) + alpha_PX[:, -1:] * s_PH
        return context_PH + h_PH, alpha_PX


class UpDown(Attention):
    """h1_t = f(W_xh x_t + W_hh h1_{t-1} + W_21 h2_{t-1} + W_ih v)              what to look for
    z_t = sum_r alpha_tr a_r, by q_t = W_q h1_t
    h2_t = f(W_xh' h1_t + W_hh' h2_{t-1} + W_zh z_t)                          what to say
    y_t = W_hy h2_t

    Bottom-Up and Top-Down Attention, Anderson et al. 2018, equations 1 to 7; the regions are the
    encoder's, detected ones or a CNN's grid.

    cell: of both layers. score, attention_size: as for SoftAttention.
    """

    def __init__(
        self,
        vocab_size: int,
        feature_size: int,
        cell: str = "LSTM",
        embed_size: int = 512,
        hidden_size: int = 512,
        attention_size: int = 512,
        score: str = "additive",
        dropout: float = 0.5,
    ):
        check_sizes(embed_size=embed_size, hidden_size=hidden_size, attention_size=attention_size)
        super().__init__(vocab_size, feature_size, embed_size, hidden_size, dropout)
        self.first = cells.make_cell(cell, embed_size, hidden_size)
        self.second = cells.make_cell(cell, hidden_size, hidden_size)
        self.entries = [f"{name}{layer}" for layer in (1, 2) for name in self.first.entries]
        self.regions = Regions(feature_size, attention_size, score)
        G = self.G = len(self.first.b)
        self.W_ih = linear(feature_size, G, bias=False)
        self.W_21 = linear(hidden_size, G, bias=False)
        self.W_q = linear(hidden_size, attention_size, bias=False)
        self.W_zh = linear(feature_size, G, bias=False)

    def begin(self, features):
        memory = self.regions.memory(features.grid_BRD, features)
        image_BG, images = self.W_ih(features.pooled_BD), len(features.pooled_BD)
        memory["image"] = nn.functional.pad(image_BG, (0, self.regions.size + self.G))
        return memory, (*self.first.zeros(images), *self.second.zeros(images))

    def weights(self):
        A, G = self.regions.size, self.G
        yield from self.first.recurrent_blocks()
        yield slice(0, G), self.W_21.weight
        yield slice(G, G + A), self.W_q.weight
        yield slice(G + A, None), self.W_zh.weight
        for columns, W in self.second.recurrent_blocks():
            yield slice(columns.start + G + A, columns.stop + G + A), W

    def inputs(self, x_PE):
        return nn.functional.pad(self.first.inputs(x_PE), (0, self.regions.size + self.G))

    def tick(self, pre_NX, state, W, view):
        n, size = len(self.first.products), len(self.first.entries)
        W_1, (W_21, W_q, W_zh), W_2 = W[:n], W[n : n + 3], W[n + 3 :]
        one, two = state[:size], state[size:]
        pre_NG, q_NA, pre_2_NG = pre_NX.split((self.G, self.regions.size, self.G), dim=1)
        one, _ = self.first.equation(W_21(pre_NG, two[0]), one, W_1)
        z_ND, alpha_NR = view.attend(W_q(q_NA, one[0]))
        two, _ = self.second.equation(self.second.inputs(one[0]) + W_zh(pre_2_NG, z_ND), two, W_2)
        return (*one, *two), (two[0], alpha_NR)

    def output(self, x_PE, outputs, view):
        return outputs
