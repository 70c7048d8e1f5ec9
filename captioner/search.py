"""From a decoder's `step` to captions: greedy, sampling, beam. Knows nothing of any model.

Each strategy is a small frozen object, called with the decoder's `step` and what `start` gave for
B * rows rows; images and hypotheses are searched all at once, as tensors.

    captions = Beam(width=5)(decoder.step, memory, state)

`numbers` says which images these are, for rules and for what is drawn at random: an image's samples
do not depend on its batch. By default 0, 1, 2 ...  `rules`: see captioner/rules.py.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from captioner.beam import (
    Captions,
    Including,
    LogSoftmax,
    Progress,
    Step,
    apply,
    beam_search,
    blame,
    count,
    device_of,
    top,
)  # fmt: skip
from captioner.rules import Rule, check
from captioner.types import BOS, EOS, PAD, Memory, State

SCORES = ("power", "wu", "reward")


class Strategy(ABC):
    """What all have in common: `rows` an image, and how they are called."""

    rows: int

    def __call__(
        self,
        step: Step,
        memory: Memory,
        state: State,
        rules: Sequence[Rule] = (),
        numbers: Sequence[int] | None = None,
        progress: Progress | None = None,
    ) -> Captions:
        """The captions of B images, of B * rows rows that start equal, `rows` of each image.

        progress: what captions must say (rules.Include). Raises InputError where a strategy cannot
        see to that, and where the decoder gives NaN.
        """
        images = count(state) // self.rows
        numbers = list(range(images)) if numbers is None else [int(number) for number in numbers]
        check(len(numbers) == images, f"{len(numbers)} numbers for {images} images")
        check(all(number >= 0 for number in numbers), "numbers of images are 0 or more")
        check(
            progress is None or isinstance(self, Beam),
            f"{type(self).__name__} cannot say what it must: search=beam can",
        )
        return self.find(step, memory, state, rules, numbers, progress)

    @abstractmethod
    def find(self, step, memory, state, rules, numbers, progress) -> Captions: ...


@dataclass(frozen=True)
class Greedy(Strategy):
    """The likeliest word at each step, at most `max_length` tokens, END included."""

    max_length: int = 30

    def __post_init__(self):
        _count(self, "max_length")

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
        _check_draw(self)
        for name in ("n", "max_length") + (() if self.top_k is None else ("top_k",)):
            _count(self, name)
        for name in ("top_p", "typical_p"):
            p = getattr(self, name)
            check(p is None or 0 < p <= 1, f"search.{name}={p}: not in (0, 1]")
        _check_score(self)

    @property
    def rows(self) -> int:  # type: ignore[override]
        return self.n

    def find(self, step, memory, state, rules, numbers, progress):
        uniform_NT = torch.cat(
            [_uniforms(self.n, self.max_length, self.seed, number) for number in numbers]
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
    row_n = torch.arange(N, device=device)  # the rows still in the batch
    log_softmax = LogSoftmax()
    for t in range(max_length):
        prefix_nt = said_NT[row_n, : t + 1]
        logits_nV, state = step(prefix_nt[:, -1], memory, state)
        true_nV = log_softmax(logits_nV)
        log_prob_N = log_prob_N.to(true_nV.dtype)
        allowed_nV = apply(rules, prefix_nt, true_nV, number_N[row_n])
        live_n = (prefix_nt[:, -1] != EOS) & (prefix_nt[:, -1] != PAD)
        best_n = allowed_nV.amax(1)
        check(not best_n[live_n].isnan().any(), "the decoder gives NaN: its training has diverged")
        dead_n = live_n & (best_n == -torch.inf)
        for n in dead_n.nonzero()[:, 0].tolist():
            one = slice(n, n + 1)
            error_B[int(row_n[n]) // rows] = blame(
                rules, prefix_nt[one], true_nV[one], number_N[row_n[one]]
            )
        live_n = live_n & ~dead_n
        allowed_nV = allowed_nV.where(live_n[:, None], true_nV)  # there is something to choose
        word_n = choose(allowed_nV, row_n, t).masked_fill(~live_n, PAD)
        gain_n = allowed_nV.gather(1, word_n[:, None])[:, 0].masked_fill(~live_n, 0.0)
        log_prob_N[row_n] += gain_n.masked_fill(dead_n, -torch.inf)
        said_NT[row_n, t + 1] = word_n
        going_b = (live_n & (word_n != EOS)).view(-1, rows).any(1)
        if not going_b.any():
            break
        if not going_b.all():
            going_n = going_b.repeat_interleave(rows)
            memory = {name: entry[going_b] for name, entry in memory.items()}
            state = {name: entry[going_n] for name, entry in state.items()}
            row_n = row_n[going_n]
    log_prob_BK = log_prob_N.view(-1, rows)
    for b in (log_prob_BK > -torch.inf).any(1).nonzero()[:, 0].tolist():
        error_B[b] = None  # some of its rows are dead, not all
    token_BKT = said_NT[:, 1 : t + 2].view(*log_prob_BK.shape, -1)
    return Captions(token_BKT, log_prob_BK, log_prob_BK, error_B).ranked(log_prob_BK)


@dataclass(frozen=True)
class Beam(Strategy):
    """The `n` best of the hypotheses that a beam of `width` meets.

    score: of a hypothesis Y with log-probability L, END counted in |Y|, and a = length_penalty:
        power   L / |Y|^a                  (a = 0: the sum; a = 1: the mean)
        wu      L / ((5 + |Y|) / 6)^a      (Wu et al. 2016)
        reward  L + a |Y|
    groups, diversity: diverse beam search (Vijayakumar et al. 2018): `width / groups` hypotheses a
        group; at each step a group chooses by L minus `diversity` for every hypothesis of the
        groups before it that goes on with the same word now (Hamming diversity).

    Per image and group there are `width / groups` live hypotheses, ranked by L, and as many
    finished ones, ranked by score; one that ends among the best `width / groups` of a step moves
    over, and at `max_length` tokens, END included, the live ones enter as unfinished. A group is
    done when no live hypothesis can still beat its n-th finished one; an image, when its groups
    are. Then it leaves the batch.

    `progress` is what captions must say (see `Including`).
    """

    width: int = 5
    length_penalty: float = 0.8
    n: int = 1
    max_length: int = 30
    score: str = "power"
    groups: int = 1
    diversity: float = 0.5

    def __post_init__(self):
        for name in ("width", "max_length", "n", "groups"):
            _count(self, name)
        check(self.n <= self.width, f"search.n={self.n}: give 1 to search.width={self.width}")
        _check_score(self)
        check(
            self.width % self.groups == 0,
            f"search.groups={self.groups}: does not divide search.width={self.width}",
        )
        check(0 <= self.diversity <= 1e6, f"search.diversity={self.diversity}: give 0 to 1e6")

    @property
    def rows(self) -> int:  # type: ignore[override]
        return self.width

    def find(self, step, memory, state, rules, numbers, progress):
        check(progress is None or self.groups == 1, "what captions must say: needs search.groups=1")
        policy = self if progress is None else Including(self, progress)
        tokens, scores, log_probs, errors = beam_search(policy, step, memory, state, rules, numbers)
        return Captions(tokens[:, : self.n], scores[:, : self.n], log_probs[:, : self.n], errors)

    values = 1

    def candidates(self, log_prob_NV, live_NS, prefix_NT, number_N):
        """The likeliest words: with at most width - width / groups of them less likely by
        `diversity`, the best 2 width / groups of a group are among them."""
        best_NC, word_NC = top(log_prob_NV, self.width + self.width // self.groups)
        return live_NS[:, None] + best_NC[..., None], word_NC

    def grade(self, value_XS: Tensor, length: int) -> Tensor:
        """The score of hypotheses of that length; no live one can get more than at max_length."""
        return grade(self, value_XS[..., 0], length)


@dataclass(frozen=True)
class StochasticBeam(Strategy):
    """`n` different captions an image, drawn without replacement (Kool, van Hoof, Welling 2019).

    Ordered by Gumbel-perturbed log-probability, the first is a sample, the second a sample of what
    is then left, and so on. They are returned ranked by log-probability under the model itself.
    temperature, seed, max_length: as for `Sample`.
    """

    n: int = 5
    temperature: float = 1.0
    seed: int = 0
    max_length: int = 30

    def __post_init__(self):
        for name in ("n", "max_length"):
            _count(self, name)
        _check_draw(self)

    @property
    def rows(self) -> int:  # type: ignore[override]
        return self.n

    def find(self, step, memory, state, rules, numbers, progress):
        found = beam_search(self, step, memory, state, rules, numbers)
        return found.ranked(found.log_prob_BK)

    groups, diversity, values = 1, 0.0, 3

    def candidates(self, log_prob_NV, live_NS, prefix_NT, number_N):
        """The words whose perturbed log-probability G is greatest (Kool's algorithm 1).

        Values: log-probability; G; log-probability of being drawn, which is another one where the
        temperature is not 1 or words are forbidden.
        """
        drawn_NV = live_NS[:, 2:] + (log_prob_NV / self.temperature).log_softmax(1)
        drawn_NV = drawn_NV.masked_fill(log_prob_NV == -torch.inf, -torch.inf)
        t = prefix_NT.shape[1]
        uniform_NV = torch.cat(
            [
                _uniforms(self.n, log_prob_NV.shape[1], self.seed, number, t)
                for number in number_N[:: self.n].tolist()
            ]
        )
        noise_NV = -(-uniform_NV.log()).log()  # in float32 a number could be rounded to 1
        gumbel_NV = drawn_NV + noise_NV.to(drawn_NV)
        # Shifted so that the greatest of a row is its parent's G: -log(e^-G - e^-best + e^-gumbel).
        below_NV = gumbel_NV - gumbel_NV.amax(1, keepdim=True)
        v_NV = live_NS[:, 1:2] - gumbel_NV + torch.log1p(-below_NV.exp())
        key_NV = live_NS[:, 1:2] - v_NV.clamp(min=0) - torch.log1p((-v_NV.abs()).exp())
        key_NV = key_NV.masked_fill(drawn_NV == -torch.inf, -torch.inf)
        key_NC, word_NC = top(key_NV, 2 * self.n)
        true_NC = live_NS[:, :1] + log_prob_NV.gather(1, word_NC)
        return torch.stack([true_NC, key_NC, drawn_NV.gather(1, word_NC)], dim=2), word_NC

    def grade(self, value_XS: Tensor, length: int) -> Tensor:
        """G: that of what a hypothesis may become is never greater."""
        return value_XS[..., 1]


STRATEGIES = (Greedy, Sample, Beam, StochasticBeam)


def grade(options: Any, log_prob: Tensor, length: int | Tensor) -> Tensor:
    """What `options.score` and `options.length_penalty` make of a log-probability (see `Beam`)."""
    a = options.length_penalty
    length = length.to(log_prob.dtype) if isinstance(length, Tensor) else length
    if options.score == "power":
        return log_prob / length**a
    if options.score == "wu":
        return log_prob / ((5 + length) / 6) ** a
    return log_prob + a * length


def _check_draw(options: Any) -> None:
    heat, seed = options.temperature, options.seed
    check(1e-4 <= heat <= 1e4, f"search.temperature={heat}: give 0.0001 to 10000")
    check(
        isinstance(seed, int) and seed >= 0, f"search.seed={seed}: give a whole number, 0 or more"
    )


def _check_score(options: Any) -> None:
    a, score = options.length_penalty, options.score
    check(0 <= a <= 100, f"search.length_penalty={a}: give 0 to 100")
    check(score in SCORES, f"search.score={score}: give one of {', '.join(SCORES)}")


def _uniforms(rows: int, columns: int, *seeds: int) -> Tensor:
    """Numbers in (0, 1) that depend on the seeds alone."""
    uniform = torch.from_numpy(np.random.default_rng(seeds).random((rows, columns)))
    return uniform.clamp_(min=torch.finfo(torch.float64).tiny)


def _count(options: object, name: str) -> None:
    value = getattr(options, name)
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    check(whole, f"search.{name}={value}: give a whole number, 1 or more")
