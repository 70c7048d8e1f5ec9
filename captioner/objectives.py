"""What training minimises: `objective(model, batch, step) -> loss, logs`.

Loss and logs are sums over the real positions, and logs["words"] says how many there are. Whoever
trains divides once, by the words of all micro-batches and processes: the mean of their means would
give words in short captions more weight.
"""

import torch
from torch import Tensor

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
        log_sum_P = logits_PV.logsumexp(1)
        nll = (log_sum_P - logits_PV.gather(1, target_P[:, None])[:, 0]).sum()
        loss = nll
        if self.smoothing:
            uniform = (log_sum_P - logits_PV[:, BOS + 1 :].mean(1)).sum()
            loss = (1 - self.smoothing) * nll + self.smoothing * uniform
        if decoder.penalised:
            loss = loss + decoder.penalty(features, kept, batch.length_N)
        return loss, {"nll": nll.detach(), "words": batch.length_N.sum()}
