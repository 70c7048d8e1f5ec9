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
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from timing import peak, ratio, timed
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from usual import (
    LONGEST,
    MEAN_WORDS,
    B,
    C,
    D,
    E,
    H,
    R,
    Usual,
    UsualAttention,
    UsualLSTM,
    UsualNIC,
    V,
)

from captioner.decoders.attention import AdaptiveAttention, SoftAttention, UpDown
from captioner.decoders.base import Decoder
from captioner.decoders.cells import CELLS
from captioner.decoders.minds_eye import MindsEye
from captioner.decoders.mrnn import MRNN
from captioner.decoders.recurrent import Recurrent
from captioner.decoders.transformer import Transformer
from captioner.encoders import Blind
from captioner.models.caption_model import CaptionModel
from captioner.objectives.cross_entropy import CrossEntropy
from captioner.types import BOS, EOS, PAD, Batch, Features


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


def loss_of(decoder: Decoder, batch: Batch) -> Tensor:
    """The mean cross-entropy of a batch of cached features."""
    model = CaptionModel(Blind(D), decoder, None, {})  # type: ignore[arg-type]
    loss, logs, _ = CrossEntropy()(model, batch, 0)
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
        inside, _ = timed(lambda: self.loss_of(batch).backward())
        nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self.optimizer.step()
        return inside

    def epoch(self, data: list[Batch]) -> None:
        seconds, inside = timed(lambda: sum(self.step(batch) for batch in data))
        self.seconds.append(seconds / len(data))
        self.inside.append(inside / len(data))


def equal(ours: Side, usual: Side, batch: Batch) -> str:
    """Checks that both compute the same, and says what."""
    losses = [side.loss_of(batch) for side in (ours, usual)]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(*losses, atol=1e-5, rtol=1e-5)
    pairs = (ours.model.W_hy, usual.model.vocabulary), (ours.model.embed, usual.model.embed)
    for one, other in pairs:
        torch.testing.assert_close(one.weight.grad, other.weight.grad, atol=1e-6, rtol=1e-3)
    cell = getattr(ours.model, "cell", None) or ours.model.cells[0]
    torch.testing.assert_close(
        cell.W_hh.grad[: 2 * H], usual.model.cell.weight_hh.grad[: 2 * H], atol=1e-6, rtol=1e-3
    )
    return f"equal losses ({losses[0].item():.6f}, {losses[1].item():.6f}) and gradients"


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
        sides[name] = [Side(decoder, partial(loss_of, decoder))]
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
            line += f"; {ratio(other.seconds, ours.seconds)} x the usual way"
        print(line)


if __name__ == "__main__":
    main()
