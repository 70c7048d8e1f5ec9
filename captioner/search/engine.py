"""The engine of beam search: live and finished hypotheses of all images, as tensors.

Letters of this file, besides those of types.py: b of the B images are still searched; an image's K
rows are G groups of k; each row has C candidates, a group X = k C of them; Y are its best 2k. A
hypothesis has S values.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from captioner.search.base import Captions, Inputs, pick
from captioner.search.frontier import Frontier
from captioner.types import EOS, PAD


class Policy(NamedTuple):
    """What a strategy tells the engine: sizes, candidates and scores.

    rows: K, per image. n, max_length, groups, diversity: as for `Beam`.
    candidates: (log_prob_NV, live_NS, prefix_NT, image_number_N) -> value_NCS, word_NC. Extends
    each row by C words, the best 2k of each group among them; the values are those of the extended
    hypotheses. The first is the log-probability; the second, if any, orders the beam instead.
    score_of: (value_XS, length) -> score_X, by which finished hypotheses are ranked. For live ones,
    with the greatest length, it is the best score that they can still reach.
    values: S.
    """

    rows: int
    n: int
    max_length: int
    candidates: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    score_of: Callable[[Tensor, int], Tensor]
    values: int = 1
    groups: int = 1
    diversity: float = 0.0


def beam_search(policy: Policy, inputs: Inputs) -> Captions:
    """Captions of B images. `frontier` calls the decoder's `step`; an image's rows start equal."""
    G, K, T, device = policy.groups, policy.rows, policy.max_length, inputs.row_N.device
    k, B = K // G, len(inputs.image_numbers)
    # The rows of an image are still equal: the first step is that of one of them.
    frontier = Frontier(inputs.first_rows(1))
    log_prob_NV = frontier.advance().repeat_interleave(K, 0)
    frontier.repeat_rows(K)

    token_BGkT = torch.full((B, G, k, T), PAD, device=device)  # finished hypotheses, best first
    score_BGk = log_prob_NV.new_full((B, G, k), -torch.inf)
    log_prob_BGk = score_BGk.clone()
    live_bGkS = score_BGk[..., None].repeat(1, 1, 1, policy.values)
    live_bGkS[:, :, 0] = 0.0  # all rows of a group start equal: one of them counts
    for t in range(1, T + 1):
        image_b, prefix_Nt = frontier.image_b, frontier.prefix_nt
        b = len(image_b)
        if t > 1:
            log_prob_NV = frontier.advance()
        live_NS = live_bGkS.view(b * K, -1)
        number_N = frontier.image_number_n
        value_NCS, word_NC = policy.candidates(log_prob_NV, live_NS, prefix_Nt, number_N)
        C = word_NC.shape[1]
        word_bGX, value_bGXS = word_NC.view(b, G, k * C), value_NCS.view(b, G, k * C, -1)

        # A row has one END, so at most k of the best 2k end, and k others are among them.
        order_bGX = value_bGXS[..., 0 if policy.values == 1 else 1]
        best_bGY = _choose(order_bGX, word_bGX, k, policy.diversity)
        word_bGY, value_bGYS = word_bGX.gather(2, best_bGY), pick(value_bGXS, best_bGY)
        row_bGY = torch.arange(b * G, device=device).view(b, G, 1) * k + best_bGY // C
        grown_bGYt = torch.cat([prefix_Nt[row_bGY], word_bGY[..., None]], dim=3)  # with bos
        ends_bGY = word_bGY == EOS

        # Finished: those that ended among the best k, merged with the finished so far.
        over_bGk = ends_bGY[:, :, :k] if t < T else torch.ones_like(ends_bGY[:, :, :k])
        ended_bGkS = value_bGYS[:, :, :k].masked_fill(~over_bGk[..., None], -torch.inf)
        pool_bG2k = torch.cat([score_BGk[image_b], policy.score_of(ended_bGkS, t)], dim=2)
        score_bGk, from_bGk = pool_bG2k.topk(k, dim=2)
        ended_bGkT = F.pad(grown_bGYt[:, :, :k, 1:], (0, T - t), value=PAD)
        token_BGkT[image_b] = pick(torch.cat([token_BGkT[image_b], ended_bGkT], 2), from_bGk)
        log_prob_bG2k = torch.cat([log_prob_BGk[image_b], ended_bGkS[..., 0]], dim=2)
        log_prob_BGk[image_b] = log_prob_bG2k.gather(2, from_bGk)
        score_BGk[image_b] = score_bGk

        # Live: the best k of those that go on. Images that can get no better leave the batch.
        on_bGk = ends_bGY.int().argsort(dim=2, stable=True)[:, :, :k]
        live_bGkS = pick(value_bGYS.masked_fill(ends_bGY[..., None], -torch.inf), on_bGk)
        hope_bG = policy.score_of(live_bGkS, T).amax(2)
        stay_b = (hope_bG > score_bGk[:, :, min(policy.n, k) - 1]).any(1) & (t < T)
        failed_b = ~stay_b & (score_bGk == -torch.inf).all(2).all(1)
        for image in failed_b.nonzero()[:, 0].tolist():
            live_K = live_NS[image * K : image * K + K, 0] > -torch.inf
            frontier.blame(image * K + live_K.nonzero()[:, 0])
        if not stay_b.any():
            break
        row_N = row_bGY.gather(2, on_bGk)[stay_b].flatten()
        frontier.go_on(row_N, pick(grown_bGYt, on_bGk)[stay_b].flatten(0, 2))
        live_bGkS = live_bGkS[stay_b]
    scores = score_BGk.flatten(1)
    tokens, log_probs = token_BGkT.flatten(1, 2), log_prob_BGk.flatten(1)
    captions = Captions(tokens, scores, log_probs, frontier.error_B).ranked(scores)
    if G == 1:
        return captions
    same_BKK = (captions.token_BKT[:, :, None] == captions.token_BKT[:, None]).all(3)
    repeats_BK = same_BKK.tril(-1).any(2)  # groups can find the same caption
    return captions.ranked(captions.score_BK.masked_fill(repeats_BK, -torch.inf))


def _choose(order_bGX: Tensor, word_bGX: Tensor, k: int, diversity: float) -> Tensor:
    """Which are the best 2k of each group, best first; a group avoids the words of earlier ones."""
    Y = min(2 * k, order_bGX.shape[2])
    if order_bGX.shape[1] == 1:
        return order_bGX.topk(Y, dim=2).indices
    chosen = []
    used_bZ = word_bGX.new_empty(len(word_bGX), 0)  # what the earlier groups go on with
    for order_bX, word_bX in zip(order_bGX.unbind(1), word_bGX.unbind(1)):
        uses_bX = (word_bX[..., None] == used_bZ[:, None]).sum(2)
        best_bY = (order_bX - diversity * uses_bX).topk(Y, dim=1).indices
        word_bY = word_bX.gather(1, best_bY)
        on_bk = (word_bY == EOS).int().argsort(dim=1, stable=True)[:, :k]
        impossible_bY = order_bX.gather(1, best_bY) == -torch.inf
        word_bY = word_bY.masked_fill(impossible_bY, PAD)
        used_bZ = torch.cat([used_bZ, word_bY.gather(1, on_bk)], dim=1)
        chosen.append(best_bY)
    return torch.stack(chosen, dim=1)
