"""Cross-entropy: with label smoothing, unlikelihood, scheduled sampling."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from captioner.decoders.base import at_least_float32, real_positions
from captioner.errors import InputError
from captioner.models.base import Model
from captioner.objectives.base import Logs, Objective, detached
from captioner.types import BOS, Batch, State, TextBatch


class CrossEntropy(Objective):
    """-log p(word) summed over the real positions, END included.

    smoothing: with s > 0 the target is (1 - s) for the word and s spread evenly over the V - 2
    words that can be generated (label smoothing, Szegedy 2016). unlikelihood: the weight of
    -log(1 - p(w)) for each word w that came earlier in the caption and is not the target (Welleck
    2020, equation 4). The decoder's penalty is added. The log `nll` is always without any of these.
    """

    def __init__(self, smoothing: float = 0.0, unlikelihood: float = 0.0):
        if not 0 <= smoothing < 1:
            raise InputError(f"objective.smoothing={smoothing}: give 0 <= smoothing < 1")
        if unlikelihood < 0:
            raise InputError(f"objective.unlikelihood={unlikelihood}: give 0 or more")
        self.smoothing, self.unlikelihood = smoothing, unlikelihood

    def __call__(
        self, model: Model, batch: Batch | TextBatch, step: int, state: State | None = None
    ) -> tuple[Tensor, Logs, State | None]:
        decoder = model.decoder
        features, memory, state = model.start(batch, state)
        inputs_NT, targets_NT = batch.token_NT[:, :-1], batch.token_NT[:, 1:]
        logits_PV, state, kept = decoder(
            inputs_NT, batch.length_N, memory, state, keep=decoder.kept_for_penalty
        )
        real_NT = real_positions(batch.length_N, targets_NT.shape[1])
        logits_PV = at_least_float32(logits_PV)
        loss, nll = _NegativeLogLikelihood.apply(logits_PV, targets_NT[real_NT], self.smoothing)
        if decoder.kept_for_penalty:
            loss = loss + decoder.penalty(features, kept, batch.length_N)
        if self.unlikelihood:
            loss = loss + self.unlikelihood * _unlikelihood(logits_PV, batch.token_NT, real_NT)
        return loss, {"count": batch.length_N.sum(), "nll": nll}, detached(model, state)


class ScheduledSampling(Objective):
    """Cross-entropy where the decoder reads, of each word, its own sample in place of the true one
    with probability 1 - e, which grows with the step i (Bengio 2015, section 2.4):

        linear             e = max(least, k - slope i)
        exponential        e = max(least, k^i), k < 1
        inverse_sigmoid    e = max(least, k / (k + exp(i / k))), k >= 1

    One `step` after the other, so it is slower, and a penalty of the decoder's own is left out. No
    gradient flows through the samples.
    """

    def __init__(
        self,
        decay: str = "inverse_sigmoid",
        k: float = 1000.0,
        slope: float = 0.0,
        least: float = 0.5,
        smoothing: float = 0.0,
    ):
        fits = {"linear": k <= 1, "exponential": 0 < k <= 1, "inverse_sigmoid": k >= 1}
        if decay not in fits:
            raise InputError(f"objective.decay={decay}: give one of {', '.join(fits)}")
        if not fits[decay]:
            limits = "1 or more for inverse_sigmoid, 1 or less for others"
            raise InputError(f"objective.k={k}: {limits}")
        if not 0 <= least <= 1 or slope < 0:
            raise InputError(f"objective.least={least} slope={slope}: 0 to 1, and 0 or more")
        self.decay, self.k, self.slope, self.least = decay, k, slope, least
        self.smoothing = CrossEntropy(smoothing).smoothing  # which checks it

    def true_share(self, step: int) -> float:
        """e, the probability of the true word."""
        k, i = self.k, step
        if self.decay == "linear":
            share = k - self.slope * i
        elif self.decay == "exponential":
            share = k**i
        else:
            share = k / (k + math.exp(min(i / k, 700.0)))
        return max(self.least, share)

    def __call__(
        self, model: Model, batch: Batch | TextBatch, step: int, state: State | None = None
    ) -> tuple[Tensor, Logs, State | None]:
        decoder = model.decoder
        _, memory, state = model.start(batch, state)
        share, T = self.true_share(step), max(1, int(batch.length_N.max()))
        read_N, logits, targets = batch.token_NT[:, 0], [], []
        for t in range(T):
            logits_NV, state = decoder.step(read_N, memory, state)
            live_N = batch.length_N > t
            logits.append(logits_NV[live_N])
            targets.append(batch.token_NT[live_N, t + 1])
            true_N = torch.rand(len(read_N), device=read_N.device) < share
            with torch.no_grad():
                sampled_N = at_least_float32(logits_NV).softmax(1).multinomial(1)[:, 0]
            read_N = torch.where(true_N, batch.token_NT[:, t + 1], sampled_N)
        logits_PV, count = at_least_float32(torch.cat(logits)), batch.length_N.sum()
        loss, nll = _NegativeLogLikelihood.apply(logits_PV, torch.cat(targets), self.smoothing)
        true_share = torch.tensor(share, device=nll.device) * count
        logs = {"count": count, "nll": nll, "true_share": true_share}
        # The state of rows that have ended is meaningless, but a document begins after it.
        return loss, logs, detached(model, state)


def _unlikelihood(logits_PV: Tensor, token_NT: Tensor, real_NT: Tensor) -> Tensor:
    """The sum of -log(1 - p(w)) at each real position over the words w that came before it."""
    read_NT, target_NT = token_NT[:, :-1], token_NT[:, 1:]
    T = read_NT.shape[1]
    before_TT = torch.ones(T, T, dtype=torch.bool, device=token_NT.device).tril()
    again_NTT = (read_NT[:, :, None] == read_NT[:, None]) & before_TT.tril(-1)
    first_NT = ~again_NTT.any(2) & (read_NT > BOS)  # each word once
    n_P, t_P = real_NT.nonzero(as_tuple=True)
    earlier_PT = read_NT[n_P]
    wrong_PT = first_NT[n_P] & before_TT[t_P] & (earlier_PT != target_NT[real_NT][:, None])
    p_PT = logits_PV.softmax(1).gather(1, earlier_PT)
    return -(torch.log1p(-p_PT.clamp(max=1 - 1e-6)) * wrong_PT).sum()


class _NegativeLogLikelihood(torch.autograd.Function):
    """(loss with smoothing, nll), summed over P; in fewer passes over (P, V) than autograd's.

    loss = (1 - s) nll - s sum_P mean_words log p, so its gradient is
    p - (1 - s) [word] - s / (V - 2) at every word that can be generated.
    """

    @staticmethod
    def forward(
        ctx: Any, logits_PV: Tensor, target_P: Tensor, smoothing: float
    ) -> tuple[Tensor, Tensor]:
        most_P1 = logits_PV.amax(1, keepdim=True)
        share_PV = (logits_PV - most_P1).exp_()
        sum_P1 = share_PV.sum(1, keepdim=True)
        log_sum_P1 = most_P1 + sum_P1.log()
        nll = (log_sum_P1 - logits_PV.gather(1, target_P[:, None])).sum()
        loss = nll
        if smoothing:
            uniform = (log_sum_P1[:, 0] - logits_PV[:, BOS + 1 :].mean(1)).sum()
            loss = (1 - smoothing) * nll + smoothing * uniform
        ctx.save_for_backward(share_PV, sum_P1, target_P)
        ctx.smoothing = smoothing
        ctx.mark_non_differentiable(nll)
        return loss.clone(), nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        share_PV, sum_P1, target_P = ctx.saved_tensors
        scale, smoothing = gradients[0], ctx.smoothing
        gradient_PV = share_PV * (scale / sum_P1)
        if smoothing:
            words_PV = gradient_PV[:, BOS + 1 :]
            words_PV -= scale * smoothing / words_PV.shape[1]
        hit_P1 = ((smoothing - 1) * scale).to(gradient_PV).expand(len(target_P), 1)
        return gradient_PV.scatter_add_(1, target_P[:, None], hit_P1), None, None
