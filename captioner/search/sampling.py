"""Row by row, one word after the other: greedily or at random."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from captioner.search import base
from captioner.search.base import Captions, Inputs, Strategy, to_float64
from captioner.search.frontier import Frontier
from captioner.types import EOS, PAD

Choose = Callable[[Tensor, Tensor, int], Tensor]
"""(log_prob_nV, row_n, t) -> word_n: the t-th words of the rows numbered row_n."""


@dataclass(frozen=True)
class Greedy(Strategy):
    """The likeliest word at each step, at most `max_length` tokens, END included."""

    max_length: int = 30

    rows = 1

    def search(self, inputs: Inputs) -> Captions:
        return _generate(inputs, self.max_length, lambda log_prob_nV, *_: log_prob_nV.argmax(1))


@dataclass(frozen=True)
class Sample(Strategy):
    """`n` captions an image, drawn word by word from softmax(logits / temperature).

    Each image draws from a generator of its own, seeded by (seed, image number): its samples are
    the same in any batch.

    top_k: from the k likeliest words only; top_p: from the smallest set of likeliest words whose
    probability reaches p (Holtzman 2020); typical_p: from the smallest set whose probability
    reaches p of those whose -log p is nearest to the entropy (Meister 2023). Captions are ranked
    by `score` and `length_penalty` (see `Beam`) of their log-probability under the model itself
    (temperature 1, no cut): the first is the best of n. At most `max_length` tokens, END included.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    typical_p: float | None = None
    n: int = 1
    seed: int = 0
    max_length: int = 30
    score: str = "power"
    length_penalty: float = 0.0

    @property
    def rows(self) -> int:
        return self.n

    def search(self, inputs: Inputs) -> Captions:
        device = base.float64_device(inputs.row_N.device)
        numbers = inputs.image_numbers
        uniform_NT = base.uniforms(self.n, self.max_length, self.seed, numbers).to(device)

        def draw(log_prob_nV: Tensor, row_n: Tensor, t: int) -> Tensor:
            """The word in whose stretch of the cumulative distribution the uniform number falls."""
            prob_nV = self._cut(log_prob_nV / self.temperature).softmax(1)
            sum_nV = to_float64(prob_nV).cumsum(1)
            u_n1 = uniform_NT[row_n.to(device), t, None] * sum_nV[:, -1:]
            return torch.searchsorted(sum_nV, u_n1, right=True)[:, 0].to(row_n.device)

        captions = _generate(inputs, self.max_length, draw)
        totals = captions.log_prob_BK, captions.length_BK
        return captions.ranked(base.length_normalised(*totals, self.score, self.length_penalty))

    def _cut(self, logit_NV: Tensor) -> Tensor:
        if self.top_k is not None and self.top_k < logit_NV.shape[1]:
            floor_N1 = logit_NV.topk(self.top_k, dim=1).values[:, -1:]
            logit_NV = logit_NV.masked_fill(logit_NV < floor_N1, -torch.inf)
        if self.top_p is not None and self.top_p < 1:
            logit_NV = _nucleus(logit_NV, logit_NV, self.top_p)
        if self.typical_p is not None and self.typical_p < 1:
            log_prob_NV = logit_NV.log_softmax(1)
            entropy_N1 = torch.special.entr(log_prob_NV.exp()).sum(1, keepdim=True)
            logit_NV = _nucleus(logit_NV, -(log_prob_NV + entropy_N1).abs(), self.typical_p)
        return logit_NV


def _nucleus(logit_NV: Tensor, order_NV: Tensor, p: float) -> Tensor:
    """The words that come first in `order_NV`, as many as together have probability p."""
    word_NV = order_NV.argsort(dim=1, descending=True, stable=True)
    prob_NV = to_float64(logit_NV).softmax(1)
    prob_NV = prob_NV.gather(1, word_NV.to(prob_NV.device))
    before_NV = prob_NV.cumsum(1) - prob_NV  # the probability of the words before
    beyond_NV = (before_NV >= p).to(logit_NV.device)
    out_NV = torch.zeros_like(logit_NV, dtype=torch.bool).scatter(1, word_NV, beyond_NV)
    return logit_NV.masked_fill(out_NV, -torch.inf)


def _generate(inputs: Inputs, max_length: int, choose: Choose) -> Captions:
    """One word after the other, every row by itself. An image leaves the batch when all its rows
    have ended, or have no word possible."""
    frontier = Frontier(inputs)
    row_n = inputs.row_N
    N, rows = len(row_n), frontier.rows
    token_NT = torch.full((N, max_length), PAD, device=row_n.device)
    live_n = torch.ones_like(row_n, dtype=torch.bool)
    log_prob_N = torch.zeros(N, device=row_n.device)
    for t in range(max_length):
        allowed_nV = frontier.advance()
        log_prob_N = log_prob_N.to(allowed_nV.dtype)
        possible_n = allowed_nV.amax(1) > -torch.inf
        if not bool(possible_n.all()):
            dead_n = live_n & ~possible_n
            for n in dead_n.nonzero():
                frontier.blame(n)
            log_prob_N[row_n[dead_n]] = -torch.inf
            live_n &= possible_n
            # So that there is something to choose.
            allowed_nV = allowed_nV.where(possible_n[:, None], frontier.log_prob_nV)
        word_n = choose(allowed_nV, row_n, t)
        gain_n = allowed_nV.gather(1, word_n[:, None])[:, 0]
        log_prob_N[row_n] += gain_n.masked_fill(~live_n, 0.0)
        word_n = word_n.masked_fill(~live_n, PAD)
        token_NT[row_n, t] = word_n
        prefix_nt = torch.cat([frontier.prefix_nt, word_n[:, None]], dim=1)
        live_n &= word_n != EOS
        stay_n = live_n.view(-1, rows).any(1).repeat_interleave(rows)
        if bool(stay_n.all()):
            frontier.prefix_nt = prefix_nt
        elif bool(stay_n.any()):
            row_m = stay_n.nonzero()[:, 0]
            frontier.go_on(row_m, prefix_nt[row_m])
            row_n, live_n = row_n[row_m], live_n[row_m]
        else:
            break
    log_prob_BK = log_prob_N.view(-1, rows)
    for b in (log_prob_BK > -torch.inf).any(1).nonzero()[:, 0].tolist():
        frontier.error_B[b] = None  # some of its rows are dead, not all
    token_BKT = token_NT[:, : t + 1].view(*log_prob_BK.shape, -1)
    return Captions(token_BKT, log_prob_BK, log_prob_BK, frontier.error_B).ranked(log_prob_BK)
