"""The usual ways to write captioners with LSTMs and attention, with our weights (training.py)."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from captioner.decoders.attention import SoftAttention
from captioner.decoders.recurrent import Recurrent
from captioner.types import EOS, PAD, Batch, Features

B, C, V, D, E, H, R = 10, 5, 9487, 2048, 512, 512, 49
LONGEST = 18  # words read: <bos> and 17 more
MEAN_WORDS = 10.5


def lstm_cell(cell: Any, inputs: list[Tensor]) -> nn.LSTMCell:
    """torch's, with our weights: `inputs` are the matrices that multiply its concatenated input."""
    theirs = nn.LSTMCell(sum(W.shape[1] for W in inputs), H)
    rows = torch.arange(4 * H).view(4, H)[[0, 1, 3, 2]].flatten()  # torch's order: i, f, g, o
    with torch.no_grad():
        theirs.weight_ih.copy_(torch.cat(inputs, dim=1)[rows])
        theirs.weight_hh.copy_(cell.W_hh[rows])
        theirs.bias_ih.copy_(cell.b[rows])
        theirs.bias_hh.zero_()
    return theirs


def copied(layer: Any) -> Any:
    """A layer of torch with the weights of one of ours."""
    if isinstance(layer, nn.Embedding):
        other: nn.Module = nn.Embedding(*layer.weight.shape)
    else:
        other = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
    other.load_state_dict(layer.state_dict())
    return other


class Usual(nn.Module):
    """Words and vocabulary, at every position; subclasses say what comes between."""

    def __init__(self, decoder: Any):
        super().__init__()
        self.embed, self.vocabulary = copied(decoder.embed), copied(decoder.W_hy)

    def outputs(self, features: Features, x_NTE: Tensor) -> list[Tensor]:
        raise NotImplementedError

    def forward(self, batch: Batch) -> Tensor:
        x_NTE = self.embed(batch.token_NT[:, :-1])
        outputs = self.outputs(batch.images, x_NTE)
        logits_NTV = torch.stack([self.vocabulary(h) for h in outputs], dim=1)
        logits_NTV[..., :EOS] = -torch.inf  # pad and bos are never said
        return F.cross_entropy(
            logits_NTV.flatten(0, 1), batch.token_NT[:, 1:].flatten(), ignore_index=PAD
        )


class UsualLSTM(Usual):
    def __init__(self, decoder: Recurrent):
        super().__init__(decoder)
        self.cell = lstm_cell(decoder.cells[0], [decoder.cells[0].W_xh, decoder.W_ih.weight])

    def outputs(self, features, x_NTE):
        v_ND = features.pooled_BD.repeat_interleave(C, dim=0)
        h = c = x_NTE.new_zeros(len(x_NTE), H)
        outputs = []
        for t in range(LONGEST):
            h, c = self.cell(torch.cat([x_NTE[:, t], v_ND], dim=1), (h, c))
            outputs.append(h)
        return outputs


class UsualNIC(Usual):
    def __init__(self, decoder: Recurrent):
        super().__init__(decoder)
        self.image = copied(decoder.W_ih)
        self.cell = lstm_cell(decoder.cells[0], [decoder.cells[0].W_xh])

    def outputs(self, features, x_NTE):
        first_NE = self.image(features.pooled_BD.repeat_interleave(C, dim=0))
        h, c = self.cell(first_NE)
        outputs = []
        for t in range(LONGEST):
            h, c = self.cell(x_NTE[:, t], (h, c))
            outputs.append(h)
        return outputs


class UsualAttention(Usual):
    def __init__(self, decoder: SoftAttention):
        super().__init__(decoder)
        self.cell = lstm_cell(decoder.cell, [decoder.cell.W_xh, decoder.W_zh.weight])
        self.init, self.keys, self.query = map(
            copied, (decoder.W_init, decoder.regions.U, decoder.W_q)
        )
        self.score, self.say_h, self.say_z = map(
            copied, (decoder.regions.w, decoder.L_h, decoder.L_z)
        )

    def outputs(self, features, x_NTE):
        a_NRD = features.grid_BRD.repeat_interleave(C, dim=0)
        h, c = torch.tanh(self.init(a_NRD.mean(1))).chunk(2, dim=1)
        outputs = []
        for t in range(LONGEST):
            q_NA, beta_N1 = self.query(h).split((H, 1), dim=1)
            score_NR = self.score(torch.tanh(self.keys(a_NRD) + q_NA[:, None]))[..., 0]
            z_ND = (score_NR.softmax(1)[..., None] * a_NRD).sum(1) * torch.sigmoid(beta_N1)
            h, c = self.cell(torch.cat([x_NTE[:, t], z_ND], dim=1), (h, c))
            outputs.append(x_NTE[:, t] + self.say_h(h) + self.say_z(z_ND))
        return outputs
