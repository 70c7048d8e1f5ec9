"""From a decoder's `step` to captions: greedy, sampling, beam. Knows nothing of any model.

Each strategy is a small frozen object, called with the decoder's `step` and what `start` gave for
B * rows rows; images and hypotheses are searched all at once, as tensors.

    captions = Beam(width=5)(decoder.step, memory, state)

`numbers` says which images these are, for what is drawn at random; by default 0, 1, 2 ...

A rule is a pure function of the prefix, `rule(token_NT, log_prob_NV, image_N) -> log_prob_NV`,
which forbids words by -inf. Rules do not renormalise: a score is always the model's own
log-probability.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from captioner.types import BOS, EOS, PAD, InputError, Memory, State

Step = Callable[[Tensor, Memory, State], tuple[Tensor, State]]
Rule = Callable[[Tensor, Tensor, Tensor], Tensor]


class Captions(NamedTuple):
    """K captions of each of B images, best first.

    token_BKT: words, then eos if it ended, then pad; bos is not part of it.
    score_BK: what they are ranked by. log_prob_BK: the sum of log-probabilities, END included.
    """

    token_BKT: Tensor
    score_BK: Tensor
    log_prob_BK: Tensor


def forbid(*ids: int) -> Rule:
    """The rule that these tokens are never said."""

    def rule(token_NT: Tensor, log_prob_NV: Tensor, image_N: Tensor) -> Tensor:
        return log_prob_NV.index_fill(1, torch.tensor(ids, device=log_prob_NV.device), -torch.inf)

    rule.__name__ = f"forbid{ids}"
    return rule


def min_length(words: int) -> Rule:
    """The rule that a caption does not end before it has so many words."""

    def rule(token_NT: Tensor, log_prob_NV: Tensor, image_N: Tensor) -> Tensor:
        ends_too_soon = token_NT.shape[1] <= words  # bos is in the prefix
        return forbid(EOS)(token_NT, log_prob_NV, image_N) if ends_too_soon else log_prob_NV

    rule.__name__ = f"min_length({words})"
    return rule


@dataclass(frozen=True)
class Sample:
    """`n` captions an image, drawn word by word from softmax(logits / temperature).

    Each image draws from a generator of its own, seeded by (seed, image number): its samples are
    the same in any batch.

    top_k: from the k likeliest words only; top_p: from the smallest set of likeliest words whose
    probability reaches p (Holtzman 2020). Captions are ranked by log-probability under the model
    itself (temperature 1, no cut). At most `max_length` tokens, END included.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    n: int = 1
    seed: int = 0
    max_length: int = 30

    def __post_init__(self):
        _check(self.temperature > 0, f"search.temperature={self.temperature}: give more than 0")
        _check(
            self.top_k is None or _count(self.top_k),
            f"search.top_k={self.top_k}: give a whole number, 1 or more",
        )
        _check(
            self.top_p is None or 0 < self.top_p <= 1, f"search.top_p={self.top_p}: not in (0, 1]"
        )
        _check(_count(self.n), f"search.n={self.n}: give a whole number, 1 or more")
        _check(
            _count(self.max_length),
            f"search.max_length={self.max_length}: give a whole number, 1 or more",
        )

    @property
    def rows(self) -> int:
        return self.n

    def __call__(
        self,
        step: Step,
        memory: Memory,
        state: State,
        rules: Sequence[Rule] = (),
        numbers: Sequence[int] | None = None,
    ) -> Captions:
        some = next(iter(state.values()))
        numbers = range(len(some) // self.n) if numbers is None else numbers
        uniform_TN = torch.cat([self._uniforms(number) for number in numbers], dim=1)
        uniforms = iter(uniform_TN.to(some.device))

        def draw(log_prob_NV: Tensor) -> Tensor:
            """The word in whose stretch of the cumulative distribution the uniform number falls."""
            prob_NV = self._cut(log_prob_NV / self.temperature).softmax(1)
            sum_NV = prob_NV.double().cumsum(1)
            u_N1 = next(uniforms)[:, None] * sum_NV[:, -1:]
            return torch.searchsorted(sum_NV, u_N1, right=True)[:, 0]

        return _roll(step, memory, state, rules, self.rows, self.max_length, draw)

    def _uniforms(self, number: int) -> Tensor:
        place = np.random.SeedSequence([self.seed, number]).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(place[0]))
        return torch.rand(self.max_length, self.n, generator=generator, dtype=torch.float64)

    def _cut(self, logit_NV: Tensor) -> Tensor:
        if self.top_k is not None and self.top_k < logit_NV.shape[1]:
            floor_N1 = logit_NV.topk(self.top_k, dim=1).values[:, -1:]
            logit_NV = logit_NV.masked_fill(logit_NV < floor_N1, -torch.inf)
        if self.top_p is not None:
            prob_NV, word_NV = logit_NV.softmax(1).sort(dim=1, descending=True)
            before_NV = prob_NV.cumsum(1) - prob_NV  # what the likelier words already hold
            out_NV = torch.zeros_like(logit_NV, dtype=torch.bool)
            logit_NV = logit_NV.masked_fill(
                out_NV.scatter(1, word_NV, before_NV >= self.top_p), -torch.inf
            )
        return logit_NV


@dataclass(frozen=True)
class Greedy:
    """The likeliest word at each step, at most `max_length` tokens, END included."""

    max_length: int = 30

    def __post_init__(self):
        _check(
            _count(self.max_length),
            f"search.max_length={self.max_length}: give a whole number, 1 or more",
        )

    @property
    def rows(self) -> int:
        return 1

    def __call__(
        self,
        step: Step,
        memory: Memory,
        state: State,
        rules: Sequence[Rule] = (),
        numbers: Sequence[int] | None = None,
    ) -> Captions:
        return _roll(step, memory, state, rules, 1, self.max_length, lambda logp: logp.argmax(1))


def _roll(step, memory, state, rules, rows, max_length, choose) -> Captions:
    """One word after the other, every row on its own; `choose(log_prob_NV)` -> word_N."""
    N = len(next(iter(state.values())))
    device = _device(state)
    image_N = torch.arange(N, device=device) // rows
    token_NT = torch.full((N, 1), BOS, device=device)
    log_prob_N = torch.zeros(N, device=device)
    live_N = torch.ones(N, dtype=torch.bool, device=device)
    while live_N.any() and token_NT.shape[1] <= max_length:
        logits_NV, state = step(token_NT[:, -1], memory, state)
        true_NV = _log_softmax(logits_NV)
        allowed_NV = _apply(rules, token_NT, true_NV, image_N)
        _check_possible(allowed_NV[live_N].amax(1), rules)
        word_N = choose(allowed_NV).masked_fill(~live_N, PAD)
        chosen_N = true_NV.gather(1, word_N[:, None])[:, 0]
        log_prob_N = log_prob_N + chosen_N.masked_fill(~live_N, 0.0)
        token_NT = torch.cat([token_NT, word_N[:, None]], dim=1)
        live_N = live_N & (word_N != EOS)
    token_BKT = token_NT[:, 1:].view(N // rows, rows, -1)
    log_prob_BK, best_BK = log_prob_N.view(-1, rows).sort(dim=1, descending=True, stable=True)
    token_BKT = token_BKT.gather(1, best_BK[..., None].expand_as(token_BKT))
    return Captions(token_BKT, log_prob_BK, log_prob_BK)


@dataclass(frozen=True)
class Beam:
    """The `n` best of the hypotheses that a beam of `width` meets.

    A hypothesis Y scores log p(Y) / |Y|^length_penalty, END counted in |Y|; at most `max_length`
    tokens, END included. Per image there are `width` live hypotheses, ranked by log p, and `width`
    finished ones, ranked by score; one that ends among the best `width` of a step moves over, and
    at the length limit the live ones enter as unfinished. An image is done when no live hypothesis
    can still beat the n-th finished one; then it leaves the batch.
    """

    width: int = 5
    length_penalty: float = 0.8
    n: int = 1
    max_length: int = 30

    def __post_init__(self):
        _check(_count(self.width), f"search.width={self.width}: give a whole number, 1 or more")
        _check(
            _count(self.n) and self.n <= self.width,
            f"search.n={self.n}: give 1 to search.width={self.width}",
        )
        _check(
            self.length_penalty >= 0, f"search.length_penalty={self.length_penalty}: give 0 or more"
        )
        _check(
            _count(self.max_length),
            f"search.max_length={self.max_length}: give a whole number, 1 or more",
        )

    @property
    def rows(self) -> int:
        return self.width

    def __call__(
        self,
        step: Step,
        memory: Memory,
        state: State,
        rules: Sequence[Rule] = (),
        numbers: Sequence[int] | None = None,
    ) -> Captions:
        K, T, device = self.width, self.max_length, _device(state)
        some = next(iter(state.values()))
        B = len(some) // K
        dtype = torch.promote_types(some.dtype, torch.float32)
        token_BKT = torch.full((B, K, T), PAD, device=device)
        score_BK = torch.full((B, K), -torch.inf, device=device, dtype=dtype)
        log_prob_BK = score_BK.clone()

        # What follows is cut to the images b still searched; `image_b` says which these are.
        image_b = torch.arange(B, device=device)
        prefix_bKt = torch.full((B, K, 1), BOS, device=device)
        live_bK = score_BK.clone()
        live_bK[:, 0] = 0.0  # all K rows of an image start equal: one of them counts
        for t in range(1, T + 1):
            b = len(image_b)
            prefix_Nt = prefix_bKt.flatten(0, 1)
            logits_NV, state = step(prefix_Nt[:, -1], memory, state)
            log_prob_NV = _log_softmax(logits_NV)
            log_prob_NV = _apply(rules, prefix_Nt, log_prob_NV, image_b.repeat_interleave(K))
            V = log_prob_NV.shape[1]

            # At most K of the best 2K candidates end, so K others are among them.
            total_bX = (live_bK[..., None] + log_prob_NV.view(b, K, V)).flatten(1)
            best_bX, at_bX = total_bX.topk(min(2 * K, K * V), dim=1)
            parent_bX, word_bX = at_bX // V, at_bX % V
            grown_bXt = torch.cat(
                [_pick(prefix_bKt, parent_bX), word_bX[..., None]], dim=2
            )  # with bos
            ends_bX = word_bX == EOS

            # Finished: those that ended among the best K, merged with the finished so far.
            over_bK = ends_bX[:, :K] if t < T else torch.ones_like(ends_bX[:, :K])
            ended_bK = best_bX[:, :K].masked_fill(~over_bK, -torch.inf)
            pool_b2K = torch.cat([score_BK[image_b], ended_bK / t**self.length_penalty], dim=1)
            score_bK, from_bK = pool_b2K.topk(K, dim=1)
            ended_bKT = torch.nn.functional.pad(grown_bXt[:, :K, 1:], (0, T - t), value=PAD)
            token_BKT[image_b] = _pick(torch.cat([token_BKT[image_b], ended_bKT], 1), from_bK)
            log_prob_BK[image_b] = torch.cat([log_prob_BK[image_b], ended_bK], 1).gather(1, from_bK)
            score_BK[image_b] = score_bK
            if t == T:
                break

            # Live: the best K of those that go on.
            live_bK, on_bK = best_bX.masked_fill(ends_bX, -torch.inf).topk(K, dim=1)
            prefix_bKt = _pick(grown_bXt, on_bK)
            parent_bK = parent_bX.gather(1, on_bK)
            hope_b = live_bK[:, 0] / T**self.length_penalty  # log p only falls, |Y| <= T
            searched_b = hope_b > score_bK[:, self.n - 1]
            if not searched_b.any():
                break
            row_bK = torch.arange(b, device=device)[:, None] * K + parent_bK
            if not searched_b.all():
                memory = {name: entry[searched_b] for name, entry in memory.items()}
                image_b, prefix_bKt = image_b[searched_b], prefix_bKt[searched_b]
                live_bK, row_bK = live_bK[searched_b], row_bK[searched_b]
            state = {name: entry[row_bK.flatten()] for name, entry in state.items()}
        _check_possible(score_BK[:, 0], rules)
        return Captions(token_BKT[:, : self.n], score_BK[:, : self.n], log_prob_BK[:, : self.n])


Strategy = Greedy | Sample | Beam
STRATEGIES = (Greedy, Sample, Beam)


def _pick(x_bXt: Tensor, index_bK: Tensor) -> Tensor:
    return x_bXt.gather(1, index_bK[..., None].expand(-1, -1, x_bXt.shape[2]))


def _log_softmax(logits_NV: Tensor) -> Tensor:
    """In float32 at least: half precision would tie many words."""
    return logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32)).log_softmax(1)


def _apply(rules: Sequence[Rule], token_NT: Tensor, log_prob_NV: Tensor, image_N: Tensor) -> Tensor:
    for rule in rules:
        log_prob_NV = rule(token_NT, log_prob_NV, image_N)
    return log_prob_NV


def _check_possible(best: Tensor, rules: Sequence[Rule]) -> None:
    _check(not best.isnan().any(), "the decoder gives NaN: its training has diverged")
    names = ", ".join(rule.__name__ for rule in rules)
    _check(bool((best > -torch.inf).all()), f"the rules {names} leave an image without any caption")


def _device(state: State) -> torch.device:
    return next(iter(state.values())).device


def _count(value: object) -> bool:
    return isinstance(value, int) and value >= 1


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise InputError(message)
