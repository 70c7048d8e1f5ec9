"""What training minimises: `objective(model, batch, step) -> loss, logs`.

Loss and logs are sums over the real positions, and logs["words"] says how many there are. Whoever
trains divides once, by the words of all micro-batches and processes: the mean of their means would
give words in short captions more weight.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from captioner.decoders.base import real_positions
from captioner.model import CaptionModel
from captioner.types import BOS, Batch, InputError


class CrossEntropy:
    """-log p(word) summed over the real positions, END included.

    smoothing: with s > 0 the target is (1 - s) for the word and s spread evenly over the V - 2
    words that can be said (label smoothing, Szegedy 2016). A decoder's own penalty is added. The
    log `nll` is always without either.
    """

    def __init__(self, smoothing: float = 0.0):
        if not 0 <= smoothing < 1:
            raise InputError(f"objective.smoothing={smoothing}: give 0 <= smoothing < 1")
        self.smoothing = smoothing

    def __call__(
        self, model: CaptionModel, batch: Batch, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        decoder, features = model.decoder, model.encode(batch.images)
        memory, state = decoder.start(features, rows=len(batch.token_NT))
        inputs_NT, targets_NT = batch.token_NT[:, :-1], batch.token_NT[:, 1:]
        logits_PV, _, kept = decoder(
            inputs_NT, batch.length_N, memory, state, keep=decoder.penalised
        )
        target_P = targets_NT[real_positions(batch.length_N, targets_NT.shape[1])]
        logits_PV = logits_PV.to(torch.promote_types(logits_PV.dtype, torch.float32))
        loss, nll = _NegativeLogLikelihood.apply(logits_PV, target_P, self.smoothing)
        if decoder.penalised:
            loss = loss + decoder.penalty(features, kept, batch.length_N)
        return loss, {"nll": nll, "words": batch.length_N.sum()}


class _NegativeLogLikelihood(torch.autograd.Function):
    """(loss with smoothing, nll), summed over P; in fewer passes over (P, V) than autograd's.

    loss = (1 - s) nll - s sum_P mean_words log p, so its gradient is
    p - (1 - s) [word] - s / (V - 2) at every word that can be said.
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
