"""Training speed: the share of the machine's own peak, and against the usual way to write the same.

    python benchmarks/training.py                 # every decoder
    python benchmarks/training.py lstm attention  # some

A step is: zero the gradients, forward, backward, clip, update by (fused) Adam. The usual ways, as
tutorials and well-known repositories write them:

    lstm       nn.LSTMCell on cat([word, image]), the image repeated for every caption
    nic        nn.LSTMCell; the image as a first word, for every caption
    attention  the regions repeated for every caption, their keys made anew at every step, the
               context concatenated to the word (Show, Attend and Tell)

each with every caption padded to the longest allowed, vocabulary and loss computed at every
position and masked. Both sides start from the same weights; that loss and gradients agree is
checked before anything is timed. They are timed in turn, so that a noisy machine disturbs both
alike; so is the peak, a product of two 2048 x 2048 float32 matrices.

The flops are those of the matrix products that ours computes, real positions only.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from captioner.decoders.attention import AdaptiveAttention, SoftAttention, UpDown
from captioner.decoders.base import Decoder
from captioner.decoders.cells import CELLS
from captioner.decoders.minds_eye import MindsEye
from captioner.decoders.mrnn import MRNN
from captioner.decoders.recurrent import Recurrent
from captioner.decoders.transformer import Transformer
from captioner.objectives.cross_entropy import CrossEntropy
from captioner.types import BOS, EOS, PAD, Batch, Features, Memory, State

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


class Case(NamedTuple):
    make: Callable[[], Decoder]
    usual: Callable[[Any], Usual] | None = None


SIZES = dict(embed_size=E, hidden_size=H, dropout=0.0)
CASES = {
    "lstm": Case(lambda: Recurrent(V, D, "LSTM", **SIZES), UsualLSTM),
    "nic": Case(lambda: Recurrent(V, D, "LSTM", inject="pre", **SIZES), UsualNIC),
    "attention": Case(
        lambda: SoftAttention(V, D, attention_size=H, doubly_stochastic=0.0, **SIZES),
        UsualAttention,
    ),
    "dot": Case(lambda: SoftAttention(V, D, score="dot", doubly_stochastic=0.0, **SIZES)),
    "adaptive": Case(lambda: AdaptiveAttention(V, D, **SIZES)),
    "up_down": Case(lambda: UpDown(V, D, **SIZES)),
    "transformer": Case(lambda: Transformer(V, D, H, dropout=0.0)),
    "mrnn": Case(lambda: MRNN(V, D, dropout=0.0)),
    "minds_eye": Case(lambda: MindsEye(V, D, **SIZES)),
} | {
    name.lower(): Case(lambda name=name: Recurrent(V, D, name, **SIZES))
    for name in CELLS
    if name != "LSTM"
}


class Ours:
    """What CrossEntropy asks of a model: cached features and a decoder."""

    carries_state = False

    def __init__(self, decoder: Decoder):
        self.decoder, self.objective = decoder, CrossEntropy()

    def start(self, batch: Batch, state: State | None) -> tuple[Any, Memory, State]:
        return batch.images, *self.decoder.start(batch.images, len(batch.token_NT))

    def __call__(self, batch: Batch) -> Tensor:
        loss, logs, _ = self.objective(self, batch, 0)  # type: ignore[arg-type]
        return loss / logs["count"]


def batches(count: int) -> list[Batch]:
    """COCO-like lengths: about normal, 10.5 words on average, 7 to 17."""
    result = []
    for _ in range(count):
        words_N = (MEAN_WORDS + 2.3 * torch.randn(B * C)).round().clamp(7, LONGEST - 1).long()
        token_NT = torch.randint(EOS + 2, V, (B * C, LONGEST + 1))
        time_T = torch.arange(LONGEST + 1)
        token_NT[time_T > words_N[:, None]] = PAD
        token_NT[time_T == words_N[:, None] + 1] = EOS
        token_NT[:, 0] = BOS
        grid_BRD = torch.rand(B, R, D)
        result.append(
            Batch(Features(grid_BRD.mean(1), grid_BRD), token_NT, words_N + 1, torch.arange(B))
        )
    return result


class Side:
    """One way to train, timed epoch by epoch."""

    def __init__(self, model: nn.Module, loss_of: Callable[[Batch], Tensor]):
        self.model, self.loss_of = model, loss_of
        self.seconds: list[float] = []  # a step, by round
        self.inside: list[float] = []  # of these, forward and backward
        self.optimizer = torch.optim.Adam(model.parameters(), 1e-4, fused=True)

    def step(self, batch: Batch) -> float:
        """Returns the seconds of forward and backward."""
        self.optimizer.zero_grad()
        begun = time.perf_counter()
        self.loss_of(batch).backward()
        inside = time.perf_counter() - begun
        nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self.optimizer.step()
        return inside

    def epoch(self, data: list[Batch]) -> None:
        begun = time.perf_counter()
        inside = sum(self.step(batch) for batch in data)
        self.seconds.append((time.perf_counter() - begun) / len(data))
        self.inside.append(inside / len(data))


def equal(ours: Side, usual: Side, batch: Batch) -> str:
    """Checks that both compute the same, and says what."""
    losses = [side.loss_of(batch) for side in (ours, usual)]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(*losses, atol=1e-5, rtol=1e-5)
    for name in ("vocabulary", "embed"):
        one = getattr(ours.model, {"vocabulary": "W_hy"}.get(name, name)).weight.grad
        torch.testing.assert_close(
            one, getattr(usual.model, name).weight.grad, atol=1e-6, rtol=1e-3
        )
    cell = getattr(ours.model, "cell", None) or ours.model.cells[0]
    torch.testing.assert_close(
        cell.W_hh.grad[: 2 * H], usual.model.cell.weight_hh.grad[: 2 * H], atol=1e-6, rtol=1e-3
    )
    return f"equal losses ({losses[0].item():.6f}, {losses[1].item():.6f}) and gradients"


def peak() -> float:
    """Flops per second of a float32 product of 2048 x 2048 matrices."""
    A = torch.rand(2048, 2048)
    begun = time.perf_counter()
    for _ in range(3):
        A @ A
    return 3 * 2 * 2048**3 / (time.perf_counter() - begun)


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description="Training speed of the decoders.")
    parser.add_argument("cases", nargs="*", metavar="DECODER", help=f"of {', '.join(CASES)}")
    parser.add_argument("--steps", type=int, default=6, help="steps a round (default 6)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each (default 5)")
    options = parser.parse_args()
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"no decoder {', '.join(unknown)}; there are {', '.join(CASES)}")
    names = options.cases or list(CASES)
    torch.manual_seed(0)
    data = batches(options.steps)
    words = torch.stack([batch.length_N for batch in data]).double().mean() - 1
    print(f"{B} images x {C} captions, {words:.1f} words a caption, V = {V:,}, {R} regions")

    sides: dict[str, list[Side]] = {}
    flops: dict[str, float] = {}
    for name in names:
        decoder = CASES[name].make()
        sides[name] = [Side(decoder, Ours(decoder))]
        if make := CASES[name].usual:
            usual = make(decoder)
            sides[name].append(Side(usual, usual))
            print(f"{name}: {equal(*sides[name], data[0])}")
        counts = []
        for batch in data:
            with FlopCounterMode(display=False) as counter:
                sides[name][0].loss_of(batch).backward()
            counts.append(counter.get_total_flops())
        flops[name] = statistics.mean(counts)
        for side in sides[name]:
            side.step(data[0])  # warms up
    peaks = []
    for _ in range(options.rounds):
        for name in names:
            for side in sides[name]:
                side.epoch(data)
        peaks.append(peak())

    top = statistics.median(peaks)
    print(f"peak {top / 1e9:.0f} Gflop/s; medians of {options.rounds} rounds (their range)")
    for name in names:
        ours, *usual = sides[name]
        seconds = statistics.median(ours.seconds)
        line = (
            f"{name:12} {B * C / seconds:5.0f} captions/s, {flops[name] / 1e9:5.1f} Gflop a step,"
        )
        inside = statistics.median(ours.inside)
        line += f" {100 * flops[name] / seconds / top:3.0f} % of the peak"
        line += f" ({100 * flops[name] / inside / top:.0f} % without clipping and update)"
        if "lstm" in sides:
            lstm = statistics.median(sides["lstm"][0].seconds) / flops["lstm"]
            line += f", {seconds / flops[name] / lstm:.2f} x the LSTM's time a flop"
        for other in usual:
            ratios = [b / a for a, b in zip(ours.seconds, other.seconds)]
            line += f"; {spread(ratios)} x the usual way"
        print(line)


if __name__ == "__main__":
    main()
