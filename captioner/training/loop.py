"""What every training loop does in a step: Lightning drives, this module keeps the sums right."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from captioner import distributed
from captioner.errors import InputError
from captioner.objectives.base import Objective
from captioner.training import lightning
from captioner.types import State

SCHEDULES = ("cosine", "constant")
CLIPPING = (None, "norm", "value")


class Loop(pl.LightningModule):
    """Trains a model with an objective; its subclasses validate.

    optimizer: parameter groups -> optimiser, with the decoder's learning rate in it.
    groups: name of a part of the model -> options of its own, such as a learning rate.
    ema: of each step's weights the moving average takes 1 - ema, more in the first ones; it is what
    is validated and kept. 0: the weights themselves are.
    warmup: the share of all steps in which the learning rate rises linearly; from there on it falls
    to 0 along a cosine, or stays where it is (schedule).
    count: about how many a batch holds of what the objective counts. The loss is divided by it on
    its way back, so that 16-bit gradients stay in range; the step divides by the true number
    instead. summed: by nothing, so that the loss is the sum over the step.
    """

    def __init__(
        self,
        model: Any,
        objective: Objective,
        optimizer: Callable[[Iterable[dict[str, Any]]], torch.optim.Optimizer],
        groups: dict[str, dict[str, Any]],
        ema: float = 0.0,
        warmup: float = 0.1,
        schedule: str = "cosine",
        seed: int = 0,
        count: float = 1.0,
        summed: bool = False,
    ):
        super().__init__()
        if schedule not in SCHEDULES:
            raise InputError(f"schedule={schedule}: give one of {', '.join(SCHEDULES)}")
        self.model, self.objective, self.optimizer, self.groups = (
            model,
            objective,
            optimizer,
            groups,
        )
        self.average = average(model, ema) if ema else None
        self.warmup, self.schedule, self.seed = warmup, schedule, seed
        self.count, self.summed = 1.0 if summed else count, summed
        self.sums: list[dict[str, Tensor]] = []  # loss and logs of this step's micro-batches
        self.state: State | None = None  # of a language model's streams, after the last batch
        self.seen: list[Any] = []  # what `mark` makes of them

    def mark(self, batch: Any) -> Any:
        """Little, by which `culprits` can name what a batch held."""

    def culprits(self, seen: list[Any]) -> list[str]:
        """What to look at, where the loss of these batches is not finite."""
        return []

    @property
    def kept(self) -> Any:
        """What is validated and kept."""
        return self.model if self.average is None else self.average.module

    def configure_optimizers(self):
        groups = [
            group
            for name, options in self.groups.items()
            for group in _groups(getattr(self.model, name), **options)
        ]
        optimizer = self.optimizer(groups)
        total = max(1, int(self.trainer.estimated_stepping_batches))
        rise = max(1, round(total * self.warmup))

        def factor(step: int) -> float:
            if step < rise:
                return (step + 1) / rise
            if self.schedule == "constant":
                return 1.0
            fallen = (step - rise) / max(1, total - rise)
            return 0.5 * (1 + math.cos(math.pi * min(1.0, fallen)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Everything random in a step is a function of (seed, rank, epoch, batch number)."""
        place = [self.seed, self.global_rank, self.current_epoch, batch_idx]
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0]))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss, logs, self.state = self.objective(self.model, batch, self.global_step, self.state)
        self.sums.append({"loss": loss.detach(), **logs})
        self.seen.append(self.mark(batch))
        return loss / self.count

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.average is not None:
            self.average.update_parameters(self.model)

    def configure_gradient_clipping(
        self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None
    ) -> None:
        """The gradient of the mean over all that is counted in the step, by all processes; clipped.

        norm: if |g| > threshold, g *= threshold / |g| (Pascanu 2013, the lecture's rule). value:
        each entry to [-threshold, threshold]. Logs |g|.
        Raises InputError on every process where the loss of any is not finite.
        """
        if gradient_clip_algorithm not in CLIPPING:
            raise InputError(
                f"trainer.gradient_clip_algorithm={gradient_clip_algorithm}: give norm or value"
            )
        names, loss = list(self.sums[0]), self.sums[0]["loss"]
        rows = [torch.stack([sums[name].to(loss) for name in names]) for sums in self.sums]
        sums_WX = distributed.gather_rows(torch.stack(rows).sum(0))
        sums = dict(zip(names, sums_WX.sum(0)))
        count = sums.pop("count")
        # What backward left is divided by self.count, by the processes and by the micro-batches.
        whole = self.count * self.trainer.world_size * self.trainer.accumulate_grad_batches
        whole = whole if self.summed else whole / count
        gradients = [p.grad for p in _trainable(self.model) if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients) * whole
        factor = whole
        if gradient_clip_val and gradient_clip_algorithm != "value":
            factor = whole * (gradient_clip_val / (norm + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(factor)
            if gradient_clip_val and gradient_clip_algorithm == "value":
                gradient.clamp_(-gradient_clip_val, gradient_clip_val)
        self._check_finite(sums_WX[:, 0], norm)
        self.sums, self.seen = [], []
        for name, value in sums.items():
            self.log(f"train/{name}", value / count, prog_bar=name in ("loss", "reward"))
        self.log("train/grad_norm", norm)

    def _check_finite(self, loss_W: Tensor, norm: Tensor) -> None:
        *losses, size = torch.cat([loss_W, norm[None]]).tolist()
        broken = [rank for rank, loss in enumerate(losses) if not math.isfinite(loss)]
        overflow_is_fine = lightning.has_loss_scale(self.trainer)  # that step is skipped
        if not broken and (overflow_is_fine or math.isfinite(size)):
            return
        parts = distributed.gather(self.culprits(self.seen))
        what = f"loss {losses[broken[0]]}" if broken else f"gradient norm {size}"
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        where = f"step {self.global_step} (epoch {self.current_epoch}), learning rate {rate:g}"
        culprits = [name for rank in broken or range(len(parts)) for name in parts[rank]]
        raise InputError(
            f"{what} at {where}; the weights were left as they were. Lower optimizer.lr or "
            "trainer.gradient_clip_val"
            + (", or look at these:\n  " if culprits else "")
            + "\n  ".join(culprits)
        )


def _groups(module: nn.Module, **options: Any) -> list[dict[str, Any]]:
    """Matrices, and what is no matrix (biases, norms), which has no weight decay."""
    matrices = [p for p in _trainable(module) if p.ndim > 1]
    others = [p for p in _trainable(module) if p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": matrices},
        {"params": others, "weight_decay": 0.0},
    ]
    return [group | options for group in groups if group["params"]]


def average(model: Any, ema: float) -> AveragedModel:
    """The moving average of a model's weights; a frozen encoder is not copied."""

    def towards(averages: Any, weights: Any, steps: Any) -> None:
        share = 1 - min(ema, (1 + int(steps)) / (10 + int(steps)))
        torch._foreach_lerp_(averages, weights, share)

    average = AveragedModel(model, multi_avg_fn=towards).requires_grad_(False)
    if (encoder := getattr(model, "encoder", None)) is not None and encoder.frozen:
        average.module.encoder = encoder
    return average


def _trainable(module: nn.Module) -> Iterable[nn.Parameter]:
    return (parameter for parameter in module.parameters() if parameter.requires_grad)
