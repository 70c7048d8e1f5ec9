"""Training speed against the usual way to write the same captioner, in one run.

    python benchmarks/training.py

The usual way: nn.LSTMCell on cat([word, image]), the image repeated for each caption, every caption
padded to the longest allowed, vocabulary and loss computed at every position and masked. Both
sides start from the same weights; that loss and gradients agree is checked before anything is
timed. The two are timed in turn, so that a noisy machine disturbs both alike.
"""

import argparse
import statistics
import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from captioner.decoders.recurrent import Recurrent
from captioner.types import BOS, EOS, PAD, Features

B, C, V, D, E, H = 10, 5, 9487, 2048, 512, 512
LONGEST = 18  # words read: <bos> and 17 more
MEAN_WORDS = 10.5


class Usual(nn.Module):
    """What tutorials and well-known repositories do; the image at every step, as in `par`."""

    def __init__(self, decoder: Recurrent):
        super().__init__()
        self.embed = nn.Embedding(V, E)
        self.cell = nn.LSTMCell(E + D, H)
        self.vocabulary = nn.Linear(H, V)
        ours = decoder.cells[0]
        rows = torch.arange(4 * H).view(4, H)[[0, 1, 3, 2]].flatten()  # torch's order: i, f, g, o
        with torch.no_grad():
            self.embed.weight.copy_(decoder.embed.weight)
            self.cell.weight_ih.copy_(torch.cat([ours.W_xh, decoder.W_ih.weight], dim=1)[rows])
            self.cell.weight_hh.copy_(ours.W_hh[rows])
            self.cell.bias_ih.copy_(ours.b[rows])
            self.cell.bias_hh.zero_()
            self.vocabulary.weight.copy_(decoder.W_hy.weight)
            self.vocabulary.bias.copy_(decoder.W_hy.bias)

    def forward(self, pooled_BD: Tensor, token_NT: Tensor) -> Tensor:
        v_ND = pooled_BD.repeat_interleave(C, dim=0)
        x_NTE = self.embed(token_NT[:, :-1])
        h = c = x_NTE.new_zeros(len(token_NT), H)
        logits = []
        for t in range(LONGEST):
            h, c = self.cell(torch.cat([x_NTE[:, t], v_ND], dim=1), (h, c))
            logits.append(self.vocabulary(h))
        logits_NTV = torch.stack(logits, dim=1)
        logits_NTV[..., :EOS] = -torch.inf  # pad and bos are never said
        return F.cross_entropy(
            logits_NTV.flatten(0, 1), token_NT[:, 1:].flatten(), ignore_index=PAD
        )


def ours(decoder: Recurrent, pooled_BD: Tensor, token_NT: Tensor, length_N: Tensor) -> Tensor:
    memory, state = decoder.start(Features(pooled_BD), len(token_NT))
    logits_PV, _, _ = decoder(token_NT[:, :-1], length_N, memory, state)
    targets_NT = token_NT[:, 1:]
    return F.cross_entropy(logits_PV, targets_NT[targets_NT != PAD])


def batches(count: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """COCO-like lengths: about normal, 10.5 words on average, 7 to 17."""
    made = []
    for _ in range(count):
        words_N = (MEAN_WORDS + 2.3 * torch.randn(B * C)).round().clamp(7, LONGEST - 1).long()
        token_NT = torch.randint(EOS + 2, V, (B * C, LONGEST + 1))
        time_T = torch.arange(LONGEST + 1)
        token_NT[time_T > words_N[:, None]] = PAD
        token_NT[time_T == words_N[:, None] + 1] = EOS
        token_NT[:, 0] = BOS
        made.append((torch.rand(B, D), token_NT, words_N + 1))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description="Training speed against the usual way.")
    parser.add_argument("--steps", type=int, default=10, help="steps a round (default 10)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each (default 7)")
    options = parser.parse_args()
    torch.manual_seed(0)
    decoder = Recurrent(V, D, "LSTM", E, H, dropout=0.0, inject="par")
    usual = Usual(decoder)
    data = batches(options.steps)

    pooled_BD, token_NT, length_N = data[0]
    a, b = ours(decoder, pooled_BD, token_NT, length_N), usual(pooled_BD, token_NT)
    a.backward(), b.backward()
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(decoder.W_hy.weight.grad, usual.vocabulary.weight.grad)
    torch.testing.assert_close(
        torch.cat([decoder.cells[0].W_xh.grad, decoder.W_ih.weight.grad], dim=1)[: 2 * H],
        usual.cell.weight_ih.grad[: 2 * H],
    )
    words = torch.stack([length for _, _, length in data]).double().mean() - 1
    print(
        f"equal losses ({a.item():.6f}, {b.item():.6f}) and gradients; {words:.1f} words a caption"
    )

    def epoch(model: nn.Module, optimizer: torch.optim.Optimizer, loss_of) -> float:
        begun = time.perf_counter()
        for pooled_BD, token_NT, length_N in data:
            optimizer.zero_grad()
            loss_of(pooled_BD, token_NT, length_N).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
        return options.steps * B * C / (time.perf_counter() - begun)

    sides = [
        (decoder, lambda v, tokens, lengths: ours(decoder, v, tokens, lengths)),
        (usual, lambda v, tokens, lengths: usual(v, tokens)),
    ]
    runs = [(model, torch.optim.Adam(model.parameters(), 1e-4), loss) for model, loss in sides]
    speeds: list[list[float]] = [[], []]
    for round_ in range(options.rounds + 1):
        for side, run in enumerate(runs):
            speed = epoch(*run)
            if round_:  # the first warms up
                speeds[side].append(speed)
    for name, speed in zip(("captioner", "usual way"), speeds):
        print(f"{name:10} {statistics.median(speed):6.0f} captions/s (median of {len(speed)})")
    ratios = [x / y for x, y in zip(*speeds)]
    print(f"ratio      {statistics.median(ratios):6.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
