"""The engine of beam search: live and finished hypotheses of all images, as tensors.

What the strategies of search.py differ in is a policy:

    policy.rows, groups, max_length, n, diversity      as for search.Beam
    policy.values                                      S, the number of values of a hypothesis
    policy.candidates(log_prob_NV, live_NS, prefix_NT, number_N) -> value_NCS, word_NC
    policy.grade(value_XS, length) -> score_X

`candidates` are words for each row, the best 2k of each group of k hypotheses among them, and the
values of what the hypothesis becomes: the first is its log-probability, the second, where there is
one, orders the beam. `grade` is what finished hypotheses are ranked by; at the greatest length it
bounds what live ones can become.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from captioner.search.rules import Rule, check
from captioner.types import BOS, EOS, PAD, Memory, State

Step = Callable[[Tensor, Memory, State], tuple[Tensor, State]]
Progress = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Captions(NamedTuple):
    """K captions of each of B images, best first.

    token_BKT: words, then eos if it ended, then pad; bos is not part of it.
    score_BK: what they are ranked by. log_prob_BK: the sum of log-probabilities, END included.
    Where fewer than K are possible, the others have a score of -inf and no tokens.
    error_B: why an image has none at all: the rule that left no word, or None.
    """

    token_BKT: Tensor
    score_BK: Tensor
    log_prob_BK: Tensor
    error_B: list[str | None]

    @property
    def length_BK(self) -> Tensor:
        """Tokens, END included."""
        return (self.token_BKT != PAD).sum(2)

    @property
    def ended_BK(self) -> Tensor:
        """Whether the caption ended with END, rather than being cut off at the greatest length."""
        return (self.token_BKT == EOS).any(2)

    def framed(self) -> tuple[Tensor, Tensor]:
        """token_NT of N = B * K rows with bos before the tokens, and length_N, as training reads
        captions and `token_log_probs` scores them."""
        token_NT = F.pad(self.token_BKT.flatten(0, 1), (1, 0), value=BOS)
        return token_NT, self.length_BK.flatten()

    def ranked(self, score_BK: Tensor) -> "Captions":
        """The same by other scores; what has -inf is taken out."""
        score_BK = score_BK.masked_fill(self.log_prob_BK == -torch.inf, -torch.inf)
        score_BK, best_BK = score_BK.sort(dim=1, descending=True, stable=True)
        none_BK = score_BK == -torch.inf
        token_BKT = pick(self.token_BKT, best_BK).masked_fill(none_BK[..., None], PAD)
        log_prob_BK = self.log_prob_BK.gather(1, best_BK).masked_fill(none_BK, -torch.inf)
        return Captions(token_BKT, score_BK, log_prob_BK, self.error_B)


class Including:
    """Beam search for captions that say what they must (Post and Vilar 2018).

    `progress(token_NT, number_N) -> met_N, next_NC` (rules.Include): how much of it a prefix has
    said, and the words that would say more of it; none (-1) once all is said. Those words are
    candidates too; hypotheses that have said equally much form a bank, and banks take turns in
    filling the beam; until all is said END is forbidden, and so is stopping at the length limit.
    """

    groups, diversity, values = 1, 0.0, 2

    def __init__(self, beam: Any, progress: Progress):
        self.rows, self.max_length, self.n = beam.width, beam.max_length, beam.n
        self.progress, self.grade = progress, beam.grade

    def candidates(self, log_prob_NV, live_NS, prefix_NT, number_N):
        N, t = prefix_NT.shape
        _, next_NX = self.progress(prefix_NT, number_N)
        end_N = torch.full_like(number_N, PAD).masked_fill((next_NX >= 0).any(1), EOS)
        log_prob_NV = log_prob_NV.scatter(1, end_N[:, None], -torch.inf)
        best_NC, word_NC = top(log_prob_NV, 2 * self.rows)
        new_NX = (next_NX >= 0) & ~(next_NX[..., None] == word_NC[:, None]).any(2)
        new_NX &= ~(next_NX[..., None] == next_NX[:, None]).tril(-1).any(2)
        next_NX = next_NX.where(new_NX, PAD)
        word_NC = torch.cat([word_NC, next_NX], dim=1)
        best_NC = torch.cat([best_NC, log_prob_NV.gather(1, next_NX)], dim=1)
        total_NC = live_NS[:, :1] + best_NC

        # Banks: by how much is said, and by rank among those that have said as much.
        C = word_NC.shape[1]
        grown = torch.cat([prefix_NT.repeat_interleave(C, 0), word_NC.view(-1, 1)], dim=1)
        met, next = self.progress(grown, number_N.repeat_interleave(C))
        if t == self.max_length:
            total_NC = total_NC.masked_fill((next >= 0).any(1).view(N, C), -torch.inf)
        total_bX, met_bX = total_NC.view(-1, self.rows * C), met.view(-1, self.rows * C)
        at_bX = total_bX.argsort(dim=1, descending=True, stable=True)
        met_bX, order_bX = met_bX.gather(1, at_bX).sort(dim=1, stable=True)
        first_bX = torch.searchsorted(met_bX, met_bX)  # of each bank
        rank_bX = torch.arange(self.rows * C, device=at_bX.device) - first_bX
        key_bX = (met_bX - rank_bX * (met_bX.amax() + 1)).to(total_bX.dtype)
        key_bX = torch.empty_like(total_bX).scatter(1, at_bX.gather(1, order_bX), key_bX)
        key_bX = key_bX.masked_fill(total_bX == -torch.inf, -torch.inf)
        return torch.stack([total_NC, key_bX.view(N, C)], dim=2), word_NC


def beam_search(
    policy: Any,
    step: Step,
    memory: Memory,
    state: State,
    rules: Sequence[Rule],
    numbers: Sequence[int],
) -> Captions:
    """The captions of B images, of B * K rows that start equal, K of each image."""
    G, K, T, device = policy.groups, policy.rows, policy.max_length, device_of(state)
    k, B = K // G, count(state) // K
    number_B = torch.tensor(numbers, device=device)
    log_softmax = LogSoftmax()
    # The rows of an image are still equal: the first step is that of one of them.
    row_B = torch.arange(0, B * K, K, device=device)
    logits_NV, state = step(torch.full_like(row_B, BOS), memory, rows_of(state, row_B))
    row_N = torch.arange(B, device=device).repeat_interleave(K)
    logits_NV, state = logits_NV[row_N], rows_of(state, row_N)

    token_BGkT = torch.full((B, G, k, T), PAD, device=device)  # finished hypotheses, best first
    score_BGk = torch.full((B, G, k), -torch.inf, device=device, dtype=log_softmax.dtype(logits_NV))
    log_prob_BGk = score_BGk.clone()
    error_B: list[str | None] = [None] * B

    # What follows is cut to the images b still searched; `image_b` says which these are.
    image_b = torch.arange(B, device=device)
    prefix_Nt = torch.full((B * K, 1), BOS, device=device)
    live_bGkS = score_BGk[..., None].repeat(1, 1, 1, policy.values)
    live_bGkS[:, :, 0] = 0.0  # all rows of a group start equal: one of them counts
    for t in range(1, T + 1):
        b, number_N = len(image_b), number_B[image_b].repeat_interleave(K)
        if t > 1:
            logits_NV, state = step(prefix_Nt[:, -1], memory, state)
        true_NV = log_softmax(logits_NV)
        log_prob_NV = apply(rules, prefix_Nt, true_NV, number_N)
        live_NS = live_bGkS.view(b * K, -1)
        value_NCS, word_NC = policy.candidates(log_prob_NV, live_NS, prefix_Nt, number_N)
        C = word_NC.shape[1]
        word_bGX, value_bGXS = word_NC.view(b, G, k * C), value_NCS.view(b, G, k * C, -1)

        # At most k of the best 2k candidates (Y) end, so k others are among them.
        at_bGY = _choose(value_bGXS[..., :2][..., -1], word_bGX, k, policy.diversity)
        word_bGY, value_bGYS = word_bGX.gather(2, at_bGY), pick(value_bGXS, at_bGY)
        check(not value_bGYS.isnan().any(), "the decoder gives NaN: its training has diverged")
        row_bGY = torch.arange(b * G, device=device).view(b, G, 1) * k + at_bGY // C
        grown_bGYt = torch.cat([prefix_Nt[row_bGY], word_bGY[..., None]], dim=3)  # with bos
        ends_bGY = word_bGY == EOS

        # Finished: those that ended among the best k, merged with the finished so far.
        over_bGk = ends_bGY[:, :, :k] if t < T else torch.ones_like(ends_bGY[:, :, :k])
        ended_bGkS = value_bGYS[:, :, :k].masked_fill(~over_bGk[..., None], -torch.inf)
        pool_bG2k = torch.cat([score_BGk[image_b], policy.grade(ended_bGkS, t)], dim=2)
        score_bGk, from_bGk = pool_bG2k.topk(k, dim=2)
        ended_bGkT = F.pad(grown_bGYt[:, :, :k, 1:], (0, T - t), value=PAD)
        token_BGkT[image_b] = pick(torch.cat([token_BGkT[image_b], ended_bGkT], 2), from_bGk)
        log_prob_bG2k = torch.cat([log_prob_BGk[image_b], ended_bGkS[..., 0]], dim=2)
        log_prob_BGk[image_b] = log_prob_bG2k.gather(2, from_bGk)
        score_BGk[image_b] = score_bGk

        # Live: the best k of those that go on.
        on_bGk = ends_bGY.int().argsort(dim=2, stable=True)[:, :, :k]
        live_bGkS = pick(value_bGYS.masked_fill(ends_bGY[..., None], -torch.inf), on_bGk)
        hope_bG = policy.grade(live_bGkS, T).amax(2)
        searched_b = (hope_bG > score_bGk[:, :, min(policy.n, k) - 1]).any(1) & (t < T)
        for at in (~searched_b & (score_bGk == -torch.inf).all(2).all(1)).nonzero()[:, 0].tolist():
            rows = slice(at * K, at * K + K)
            rows_live = live_NS[rows, 0] > -torch.inf
            error_B[int(image_b[at])] = blame(
                rules,
                prefix_Nt[rows][rows_live],
                true_NV[rows][rows_live],
                number_N[rows][rows_live],
            )
        if not searched_b.any():
            break
        prefix_bKt, row_bK = (
            pick(grown_bGYt, on_bGk).flatten(1, 2),
            row_bGY.gather(2, on_bGk).flatten(1),
        )
        if not searched_b.all():
            memory = {name: entry[searched_b] for name, entry in memory.items()}
            image_b, live_bGkS = image_b[searched_b], live_bGkS[searched_b]
            prefix_bKt, row_bK = prefix_bKt[searched_b], row_bK[searched_b]
        prefix_Nt = prefix_bKt.flatten(0, 1)
        state = rows_of(state, row_bK.flatten())
    tokens, scores = token_BGkT.flatten(1, 2), score_BGk.flatten(1)
    found = Captions(tokens, scores, log_prob_BGk.flatten(1), error_B).ranked(scores)
    return found.ranked(_each_once(found.score_BK, found.token_BKT)) if G > 1 else found


def _choose(order_bGX: Tensor, word_bGX: Tensor, k: int, diversity: float) -> Tensor:
    """Which are the best 2k of each group, best first; a group avoids what those before it say."""
    Y = min(2 * k, order_bGX.shape[2])
    if order_bGX.shape[1] == 1:
        return order_bGX.topk(Y, dim=2).indices
    chosen = []
    said_bZ = word_bGX.new_empty(len(word_bGX), 0)  # what hypotheses of groups before go on with
    for order_bX, word_bX in zip(order_bGX.unbind(1), word_bGX.unbind(1)):
        often_bX = (word_bX[..., None] == said_bZ[:, None]).sum(2)
        at_bY = (order_bX - diversity * often_bX).topk(Y, dim=1).indices
        word_bY = word_bX.gather(1, at_bY)
        on_bk = (word_bY == EOS).int().argsort(dim=1, stable=True)[:, :k]
        word_bY = word_bY.masked_fill(order_bX.gather(1, at_bY) == -torch.inf, PAD)  # not there
        said_bZ = torch.cat([said_bZ, word_bY.gather(1, on_bk)], dim=1)
        chosen.append(at_bY)
    return torch.stack(chosen, dim=1)


def _each_once(score_BK: Tensor, token_BKT: Tensor) -> Tensor:
    """-inf for what was found before (groups can find the same)."""
    same_BKK = (token_BKT[:, :, None] == token_BKT[:, None]).all(3)
    return score_BK.masked_fill(same_BKK.tril(-1).any(2), -torch.inf)


def top(x_NV: Tensor, count: int, block: int = 64) -> tuple[Tensor, Tensor]:
    """The greatest `count` of each row and where they are, without sorting the row.

    They are in the `count` blocks of the greatest maxima, or in what the blocks leave over.
    """
    N, V = x_NV.shape
    count, blocks = min(count, V), V // block
    if blocks <= 2 * count:
        return x_NV.topk(count, dim=1)  # type: ignore[return-value]
    x_NbX = x_NV[:, : blocks * block].unflatten(1, (blocks, block))
    which_NC = x_NbX.amax(2).topk(count, dim=1).indices
    some_NX = torch.cat([pick(x_NbX, which_NC).flatten(1), x_NV[:, blocks * block :]], dim=1)
    value_NC, at_NC = some_NX.topk(count, dim=1)
    last_N1 = torch.full_like(which_NC[:, :1], blocks)
    which_NC = torch.cat([which_NC, last_N1], dim=1)
    return value_NC, which_NC.gather(1, at_NC // block) * block + at_NC % block


def pick(x_AXT: Tensor, index_AK: Tensor) -> Tensor:
    """Entries of the last dimension but one; dimensions before it are the same in both."""
    return x_AXT.gather(-2, index_AK[..., None].expand(*index_AK.shape, x_AXT.shape[-1]))


def rows_of(state: State, row_N: Tensor) -> State:
    if len(row_N) == count(state) and bool(
        (row_N == torch.arange(len(row_N), device=row_N.device)).all()
    ):
        return state
    return {name: entry.index_select(0, row_N) for name, entry in state.items()}


class LogSoftmax:
    """Logits -> log-probabilities, in float32 at least: half precision would tie many words.

    Into memory of its own, used again by the next call: fresh memory costs as much as the sums.
    """

    def __init__(self) -> None:
        self.logits_NV = self.log_prob_NV = torch.empty(0, 0)

    @staticmethod
    def dtype(logits_NV: Tensor) -> torch.dtype:
        return torch.promote_types(logits_NV.dtype, torch.float32)

    def __call__(self, logits_NV: Tensor) -> Tensor:
        N, V = logits_NV.shape
        if self.logits_NV.shape[0] < N or self.logits_NV.shape[1] != V:
            self.logits_NV = logits_NV.new_empty(N, V, dtype=self.dtype(logits_NV))
            self.log_prob_NV = torch.empty_like(self.logits_NV)
        self.logits_NV[:N] = logits_NV.detach()
        return torch.log_softmax(self.logits_NV[:N], 1, out=self.log_prob_NV[:N])


def apply(rules: Sequence[Rule], token_NT: Tensor, log_prob_NV: Tensor, number_N: Tensor) -> Tensor:
    for rule in rules:
        log_prob_NV = rule(token_NT, log_prob_NV, number_N)
    return log_prob_NV


def blame(rules: Sequence[Rule], token_NT: Tensor, log_prob_NV: Tensor, number_N: Tensor) -> str:
    """Which of the rules left none of these rows a word."""
    words = token_NT.shape[1] - 1
    after = f"after {words} word{'s' * (words != 1)}"
    for rule in rules:
        log_prob_NV = rule(token_NT, log_prob_NV, number_N)
        if bool((log_prob_NV == -torch.inf).all()):
            return f"the rule {name_of(rule)} leaves no word possible {after}"
    under = f", under {', '.join(map(name_of, rules))}" if rules else ""
    return f"what it must say is not said {after}{under}"


def name_of(rule: Rule) -> str:
    return getattr(rule, "__name__", type(rule).__name__)


def count(state: State) -> int:
    return len(next(iter(state.values())))


def device_of(state: State) -> torch.device:
    return next(iter(state.values())).device
