"""One word after the other, every caption on its own: greedily or at random."""

from dataclasses import dataclass

import torch
from torch import Tensor

from captioner.search.base import Strategy, check_count, check_draw, check_score, grade, uniforms
from captioner.search.engine import Captions, LogSoftmax, apply, blame, count, device_of
from captioner.search.rules import check
from captioner.types import BOS, EOS, PAD


@dataclass(frozen=True)
class Greedy(Strategy):
    """The likeliest word at each step, at most `max_length` tokens, END included."""

    max_length: int = 30

    def __post_init__(self):
        check_count(self, "max_length")

    rows = 1

    def find(self, step, memory, state, rules, numbers, progress):
        def choose(log_prob_NV: Tensor, row_N: Tensor, t: int) -> Tensor:
            return log_prob_NV.argmax(1)

        return _roll(step, memory, state, rules, numbers, 1, self.max_length, choose)


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

    def __post_init__(self):
        check_draw(self)
        for name in ("n", "max_length") + (() if self.top_k is None else ("top_k",)):
            check_count(self, name)
        for name in ("top_p", "typical_p"):
            p = getattr(self, name)
            check(p is None or 0 < p <= 1, f"search.{name}={p}: not in (0, 1]")
        check_score(self)

    @property
    def rows(self) -> int:  # type: ignore[override]
        return self.n

    def find(self, step, memory, state, rules, numbers, progress):
        uniform_NT = torch.cat(
            [uniforms(self.n, self.max_length, self.seed, number) for number in numbers]
        ).to(device_of(state))

        def draw(log_prob_NV: Tensor, row_N: Tensor, t: int) -> Tensor:
            """The word in whose stretch of the cumulative distribution the uniform number falls."""
            prob_NV = self._cut(log_prob_NV / self.temperature).softmax(1)
            sum_NV = prob_NV.double().cumsum(1)
            u_N1 = uniform_NT[row_N, t, None] * sum_NV[:, -1:]
            return torch.searchsorted(sum_NV, u_N1, right=True)[:, 0]

        found = _roll(step, memory, state, rules, numbers, self.n, self.max_length, draw)
        return found.ranked(grade(self, found.log_prob_BK, found.length_BK))

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
    prob_NV = logit_NV.double().softmax(1).gather(1, word_NV)
    before_NV = prob_NV.cumsum(1) - prob_NV  # what the words before already hold
    out_NV = torch.zeros_like(logit_NV, dtype=torch.bool).scatter(1, word_NV, before_NV >= p)
    return logit_NV.masked_fill(out_NV, -torch.inf)


def _roll(step, memory, state, rules, numbers, rows, max_length, choose) -> Captions:
    """One word after the other, every row on its own: `choose(log_prob_nV, row_n, t)` -> word_n.

    An image leaves the batch when all its rows have ended.
    """
    device, N = device_of(state), count(state)
    number_N = torch.tensor(numbers, device=device).repeat_interleave(rows)
    said_NT = torch.full((N, 1 + max_length), PAD, device=device)
    said_NT[:, 0] = BOS
    log_prob_N = torch.zeros(N, device=device)
    error_B: list[str | None] = [None] * (N // rows)
    # What follows is cut to the rows n of images that are still in the batch.
    row_n, number_n, word_n = torch.arange(N, device=device), number_N, said_NT[:, 0]
    live_n, all_live = torch.ones_like(word_n, dtype=torch.bool), True
    log_softmax = LogSoftmax()
    for t in range(max_length):
        whole = row_n.shape[0] == N
        prefix_nt = said_NT[:, : t + 1] if whole else said_NT[row_n, : t + 1]
        logits_nV, state = step(word_n, memory, state)
        true_nV = log_softmax(logits_nV)
        log_prob_N = log_prob_N.to(true_nV.dtype)
        allowed_nV = apply(rules, prefix_nt, true_nV, number_n)
        possible_n = allowed_nV.amax(1) > -torch.inf  # NaN is not greater either
        if not bool(possible_n.all()):
            dead_n = live_n & ~possible_n
            check(
                not allowed_nV[dead_n].isnan().any(),
                "the decoder gives NaN: its training has diverged",
            )
            for n in dead_n.nonzero()[:, 0].tolist():
                one = slice(n, n + 1)
                error_B[int(row_n[n]) // rows] = blame(
                    rules, prefix_nt[one], true_nV[one], number_n[one]
                )
            log_prob_N[row_n[dead_n]] = -torch.inf
            live_n, all_live = live_n & possible_n, False
        if not all_live:
            allowed_nV = allowed_nV.where(live_n[:, None], true_nV)  # there is something to choose
        word_n = choose(allowed_nV, row_n, t)
        gain_n = allowed_nV.gather(1, word_n[:, None])[:, 0]
        if not all_live:
            word_n, gain_n = word_n.masked_fill(~live_n, PAD), gain_n.masked_fill(~live_n, 0.0)
        if whole:
            log_prob_N += gain_n
            said_NT[:, t + 1] = word_n
        else:
            log_prob_N[row_n] += gain_n
            said_NT[row_n, t + 1] = word_n
        live_n = live_n & (word_n != EOS)
        all_live = bool(live_n.all())
        if all_live:
            continue
        going_b = live_n.view(-1, rows).any(1)
        if not bool(going_b.any()):
            break
        if not bool(going_b.all()):
            going_n = going_b.repeat_interleave(rows)
            memory = {name: entry[going_b] for name, entry in memory.items()}
            state = {name: entry[going_n] for name, entry in state.items()}
            row_n, number_n, word_n, live_n = (
                entry[going_n] for entry in (row_n, number_n, word_n, live_n)
            )
            all_live = bool(live_n.all())
    log_prob_BK = log_prob_N.view(-1, rows)
    for b in (log_prob_BK > -torch.inf).any(1).nonzero()[:, 0].tolist():
        error_B[b] = None  # some of its rows are dead, not all
    token_BKT = said_NT[:, 1 : t + 2].view(*log_prob_BK.shape, -1)
    return Captions(token_BKT, log_prob_BK, log_prob_BK, error_B).ranked(log_prob_BK)
