"""A step of training, the same for captioners and language models; Lightning drives it."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from captioner import distributed
from captioner.data.records import Record
from captioner.errors import InputError
from captioner.models.base import Model
from captioner.objectives.base import Objective
from captioner.objectives.cross_entropy import CrossEntropy
from captioner.training import lightning
from captioner.training.checkpoints import Checkpoints
from captioner.types import Batch, State

SCHEDULES = ("cosine", "constant")


class Loop(pl.LightningModule):
    """Trains a model with an objective. Subclasses add validation.

    groups: name of a submodule -> options of its parameter groups, such as a learning rate.
    optimizer: builds the optimiser from parameter groups, with the decoder's learning rate.
    ema (smaller in the first steps), warmup, schedule: see `captioner.experiment.schemas`.
    expected_count: expected number of targets per batch (see Objective). Backward divides the loss
    by it, so that 16-bit gradients stay in range; `finish_gradients` corrects to the true number.
    summed: whether the loss is the sum over the step, not the mean.
    """

    def __init__(
        self,
        model: Model,
        groups: dict[str, dict[str, Any]],
        objective: Objective,
        optimizer: Callable[[Iterable[dict[str, Any]]], torch.optim.Optimizer],
        ema: float = 0.0,
        warmup: float = 0.1,
        schedule: str = "cosine",
        seed: int = 0,
        expected_count: float = 1.0,
        summed: bool = False,
    ):
        super().__init__()
        if schedule not in SCHEDULES:
            raise InputError(f"schedule={schedule}: give one of {', '.join(SCHEDULES)}")
        self.model, self.groups = model, groups
        self.objective, self.optimizer = objective, optimizer
        self.average = moving_average(model, ema) if ema else None
        self.warmup, self.schedule, self.seed = warmup, schedule, seed
        self.expected_count, self.summed = 1.0 if summed else expected_count, summed
        self.train_records: Sequence[Record] = ()  # which batches of pictures count
        self.sums: list[dict[str, Tensor]] = []  # loss and logs of this step's micro-batches
        self.batch_ids: list[Tensor] = []  # of the same micro-batches, if they are of pictures
        self.state: State | None = None  # of a language model's streams, after the last batch
        self.val_state: State | None = None  # the same in validation
        self.val_sums = (0.0, 0.0)  # of a validation's batches: nll, and the count it is divided by

    def on_validation_epoch_start(self) -> None:
        self.val_state, self.val_sums = None, (0.0, 0.0)

    def validate(self, batch: Any, batch_idx: int, count: Tensor) -> None:
        """Add the cross-entropy of a validation batch, and its count, to `val_sums`. Before the
        first batch of a validation, saves a checkpoint."""
        if batch_idx == 0 and isinstance(self.trainer.checkpoint_callback, Checkpoints):
            self.trainer.checkpoint_callback.before_validation(self.trainer)
        model, step = self.eval_model, self.global_step
        _, logs, self.val_state = CrossEntropy()(model, batch, step, self.val_state)
        nll, count_before = self.val_sums
        self.val_sums = nll + float(logs["nll"]), count_before + float(count)

    def log_nll(self) -> float:
        """Log val/nll, the mean over the validation batches of all processes, and return it."""
        nll, count = (sum(values) for values in zip(*distributed.gather(self.val_sums)))
        self.log("val/nll", nll / count)
        return nll / count

    @property
    def boards(self) -> list[Any]:
        """TensorBoard's writers; none but in the first process."""
        loggers = self.loggers if self.trainer.is_global_zero else []
        return [logger.experiment for logger in loggers if isinstance(logger, TensorBoardLogger)]

    @property
    def eval_model(self) -> Any:
        """The model that is validated and saved: the moving average, if there is one."""
        return self.model if self.average is None else self.average.module

    def configure_optimizers(self):
        groups = [_groups(getattr(self.model, name), o) for name, o in self.groups.items()]
        optimizer = self.optimizer(sum(groups, []))
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
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Everything random in a step is a function of (seed, rank, epoch, batch number)."""
        place = [self.seed, self.global_rank, self.current_epoch, batch_idx]
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0]))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss, logs, self.state = self.objective(self.model, batch, self.global_step, self.state)
        self.sums.append({"loss": loss.detach(), **logs})
        if isinstance(batch, Batch):
            self.batch_ids.append(batch.index_B)
        return loss / self.expected_count

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if isinstance(saver := self.trainer.checkpoint_callback, Checkpoints):
            saver.after_step(self.trainer, self, batch_idx)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.average is not None:
            self.average.update_parameters(self.model)

    def configure_gradient_clipping(
        self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None
    ) -> None:
        """Called by Lightning between a step's last backward and the optimiser."""
        self.finish_gradients(gradient_clip_val, gradient_clip_algorithm)

    def finish_gradients(self, threshold: float | None, algorithm: str | None) -> None:
        """Turn accumulated gradients into those of the step's loss, clip them, log the step.

        The loss is the mean over the targets of all micro-batches and processes, or their sum.
        algorithm: "norm": if |g| > threshold, g *= threshold / |g| (Pascanu 2013, the lecture's
        rule); "value": each entry is clipped to [-threshold, threshold]. Logs |g| before clipping.
        Raises InputError, on every process, if any loss, or the norm, is not finite. (A norm may
        overflow under a loss scale: that step is skipped.)
        """
        if algorithm not in (None, "norm", "value"):
            raise InputError(f"trainer.gradient_clip_algorithm={algorithm}: give norm or value")
        names, loss = list(self.sums[0]), self.sums[0]["loss"]
        rows = [torch.stack([sums[name].to(loss) for name in names]) for sums in self.sums]
        sums_WX = distributed.gather_rows(torch.stack(rows).sum(0))
        totals = dict(zip(names, sums_WX.sum(0)))
        count = totals.pop("count")
        # Backward has divided by expected_count, and Lightning by processes and micro-batches.
        scale: Tensor | float = self.expected_count * self.trainer.world_size
        scale *= self.trainer.accumulate_grad_batches
        scale = scale if self.summed else scale / count
        gradients = [p.grad for p in _trainable(self.model) if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients) * scale
        if threshold and algorithm != "value":
            scale = scale * (threshold / (norm + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(scale)
            if threshold and algorithm == "value":
                gradient.clamp_(-threshold, threshold)
        self._check_finite(sums_WX[:, 0], norm)
        self.sums, self.batch_ids = [], []
        for name, total in totals.items():
            self.log(f"train/{name}", total / count, prog_bar=name in ("loss", "reward"))
        self.log("train/grad_norm", norm)

    def _check_finite(self, loss_W: Tensor, norm: Tensor) -> None:
        *losses, norm_value = torch.cat([loss_W, norm[None]]).tolist()
        broken = [rank for rank, loss in enumerate(losses) if not math.isfinite(loss)]
        if not broken and (lightning.has_loss_scale(self.trainer) or math.isfinite(norm_value)):
            return
        index = [i for index_B in self.batch_ids for i in index_B.tolist()]
        sources_W = distributed.gather([str(self.train_records[i].image) for i in index])
        problem = f"loss {losses[broken[0]]}" if broken else f"gradient norm {norm_value}"
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        place = f"step {self.global_step} (epoch {self.current_epoch}), learning rate {rate:g}"
        sources = [name for rank in broken or range(len(sources_W)) for name in sources_W[rank]]
        raise InputError(
            f"{problem} at {place}; the weights were left as they were. Lower optimizer.lr or "
            "trainer.gradient_clip_val"
            + (", or look at these:\n  " if sources else "")
            + "\n  ".join(sources)
        )


def _groups(module: nn.Module, options: dict[str, Any]) -> list[dict[str, Any]]:
    """Parameter groups: matrices, and vectors (biases, norms), which have no weight decay."""
    matrices = [p for p in _trainable(module) if p.ndim > 1]
    others = [p for p in _trainable(module) if p.ndim <= 1]
    groups = [{"params": matrices} | options, {"params": others, "weight_decay": 0.0} | options]
    return [group for group in groups if group["params"]]


def moving_average(model: Model, ema: float) -> AveragedModel:
    """A moving average of the model's weights, with this decay; a frozen encoder is not copied."""

    def update(averages: Any, weights: Any, steps: Any) -> None:
        share = 1 - min(ema, (1 + int(steps)) / (10 + int(steps)))
        torch._foreach_lerp_(averages, weights, share)

    average = AveragedModel(model, multi_avg_fn=update).requires_grad_(False)
    if (encoder := getattr(model, "encoder", None)) is not None and encoder.frozen:
        average.module.encoder = encoder
    return average


def _trainable(module: nn.Module) -> Iterable[nn.Parameter]:
    return (parameter for parameter in module.parameters() if parameter.requires_grad)
