"""The training loop: Lightning drives, this module says what a step and a validation are."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from captioner import images, processes
from captioner.checkpoints import Checkpoints
from captioner.health import ailments, health_of
from captioner.metrics import score
from captioner.model import CaptionModel
from captioner.objectives.base import Objective
from captioner.objectives.cross_entropy import CrossEntropy
from captioner.records import Record
from captioner.search import Strategy
from captioner.types import EOS, Batch, InputError

PICTURES = 8  # of the validation set, shown on TensorBoard


class Training(pl.LightningModule):
    """Trains a CaptionModel with an objective; validates by captions and their CIDEr.

    train, val: the records behind the batches' index_B.
    optimizer: parameter groups -> optimiser, with the decoder's learning rate in it.
    encoder_lr: the learning rate of a trainable encoder.
    ema: of each step's weights the moving average takes 1 - ema, more in the first ones; it is what
    is validated and kept. 0: the weights themselves are.
    warmup: the share of all steps in which the learning rate rises linearly; from there on it falls
    to 0 along a cosine.
    count: about how many a batch holds of what the objective counts. The loss is divided by it on
    its way back, so that 16-bit gradients stay in range; the step divides by the true number
    instead.
    """

    def __init__(
        self,
        model: CaptionModel,
        objective: Objective,
        strategy: Strategy,
        train: Sequence[Record],
        val: Sequence[Record],
        optimizer: Callable[[Iterable[dict[str, Any]]], torch.optim.Optimizer],
        encoder_lr: float = 1e-5,
        ema: float = 0.0,
        warmup: float = 0.1,
        seed: int = 0,
        count: float = 1.0,
    ):
        super().__init__()
        self.model, self.objective, self.strategy = model, objective, strategy
        self.average = _average(model, ema) if ema else None
        self.train_records, self.val_records = train, val
        self.optimizer, self.encoder_lr, self.warmup = optimizer, encoder_lr, warmup
        self.seed, self.count, self.shown = seed, count, False
        self.sums: list[dict[str, Tensor]] = []  # loss and logs of this step's micro-batches
        self.seen: list[Tensor] = []  # which records they hold
        # record number -> caption, and whether it ended by itself; of this validation
        self.said: dict[int, tuple[str, bool]] = {}
        self.val_sums = (0.0, 0.0)  # nll, words

    @property
    def kept(self) -> CaptionModel:
        """What is validated and kept."""
        return self.model if self.average is None else self.average.module  # type: ignore[return-value]

    def configure_optimizers(self):
        optimizer = self.optimizer(
            _groups(self.model.decoder) + _groups(self.model.encoder, lr=self.encoder_lr)
        )
        total = max(1, int(self.trainer.estimated_stepping_batches))
        rise = max(1, round(total * self.warmup))

        def factor(step: int) -> float:
            if step < rise:
                return (step + 1) / rise
            fallen = (step - rise) / max(1, total - rise)
            return 0.5 * (1 + math.cos(math.pi * min(1.0, fallen)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Everything random in a step is a function of (seed, rank, epoch, batch number)."""
        place = [self.seed, self.global_rank, self.current_epoch, batch_idx]
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0]))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss, logs = self.objective(self.model, batch, self.global_step)
        self.sums.append({"loss": loss.detach(), **logs})
        self.seen.append(batch.index_B)
        return loss / self.count

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.average is not None:
            self.average.update_parameters(self.model)

    def configure_gradient_clipping(
        self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None
    ) -> None:
        """The gradient of the mean over all that is counted in the step, by all processes; clipped.

        If |g| > threshold: g *= threshold / |g| (Pascanu 2013, the lecture's rule). Logs |g|.
        Raises InputError on every process where the loss of any is not finite.
        """
        if gradient_clip_algorithm not in (None, "norm"):
            raise InputError(
                f"trainer.gradient_clip_algorithm={gradient_clip_algorithm}: only norm"
            )
        names, loss = list(self.sums[0]), self.sums[0]["loss"]
        rows = [torch.stack([sums[name].to(loss) for name in names]) for sums in self.sums]
        sums_WX = processes.gather_rows(torch.stack(rows).sum(0))
        sums = dict(zip(names, sums_WX.sum(0)))
        count = sums.pop("count")
        # What backward left is divided by self.count, by the processes and by the micro-batches.
        whole = self.count * self.trainer.world_size * self.trainer.accumulate_grad_batches / count
        gradients = [p.grad for p in _trainable(self.model) if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients) * whole
        factor = whole
        if gradient_clip_val:
            factor = whole * (gradient_clip_val / (norm + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(factor)
        self._check_finite(sums_WX[:, 0], norm)
        self.sums, self.seen = [], []
        for name, value in sums.items():
            self.log(f"train/{name}", value / count, prog_bar=name in ("loss", "reward"))
        self.log("train/grad_norm", norm)

    def _check_finite(self, loss_W: Tensor, norm: Tensor) -> None:
        *losses, size = torch.cat([loss_W, norm[None]]).tolist()
        broken = [rank for rank, loss in enumerate(losses) if not math.isfinite(loss)]
        # Where the precision has a loss scale, a gradient may overflow: the scaler skips that step.
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        if not broken and (scaled or math.isfinite(size)):
            return
        images = [str(self.train_records[i].image) for i in torch.cat(self.seen).tolist()]
        parts = processes.gather(images)
        what = f"loss {losses[broken[0]]}" if broken else f"gradient norm {size}"
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        where = f"step {self.global_step} (epoch {self.current_epoch}), learning rate {rate:g}"
        pictures = [name for rank in broken or range(len(parts)) for name in parts[rank]]
        raise InputError(
            f"{what} at {where}; the weights were left as they were. Lower optimizer.lr or "
            f"trainer.gradient_clip_val, or look at these pictures and their captions:\n  "
            + "\n  ".join(pictures)
        )

    def on_validation_epoch_start(self) -> None:
        self.said, self.val_sums = {}, (0.0, 0.0)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        if batch_idx == 0 and isinstance(self.trainer.checkpoint_callback, Checkpoints):
            self.trainer.checkpoint_callback.before_validation(self.trainer)
        model = self.kept
        features = model.encode(batch.images)
        _, logs = CrossEntropy()(model, batch._replace(images=features), self.global_step)
        nll, words = self.val_sums
        self.val_sums = nll + float(logs["nll"]), words + float(logs["count"])
        numbers = batch.index_B.tolist()
        captions = model.generate(features, self.strategy, numbers)
        ended_B = (captions.token_BKT[:, 0] == EOS).any(1).tolist()
        for index, (best, *_), ended in zip(numbers, model.texts(captions), ended_B):
            self.said[index] = best.caption, ended

    def on_validation_epoch_end(self) -> None:
        parts = processes.gather((self.said, self.val_sums))
        both = {index: pair for captions, _ in parts for index, pair in captions.items()}
        said = {index: text for index, (text, _) in both.items()}
        nll, words = (sum(values) for values in zip(*(sums for _, sums in parts)))
        references = {index: list(self.val_records[index].captions) for index in sorted(said)}
        scores = score.score(references, said)["corpus"]
        self.log("val/nll", nll / words)
        for name in ("CIDEr", "Bleu_4"):
            self.log(f"val/{name}", scores[name], prog_bar=name == "CIDEr")
        health = health_of(list(said.values()), [ended for _, ended in both.values()])
        for name, value in health.items():
            self.log(f"val/{name}", value)
        if self.objective.rewarded and self.trainer.is_global_zero:
            for warning in ailments(health):
                print(f"epoch {self.current_epoch}: {warning}")
        self._show(said)

    def _show(self, said: dict[int, str]) -> None:
        """The first pictures, their captions and references, to TensorBoard."""
        for logger in self.loggers:
            if not isinstance(logger, TensorBoardLogger) or not self.trainer.is_global_zero:
                continue
            for index in sorted(said)[:PICTURES]:
                record = self.val_records[index]
                lines = [f"**{said[index]}**", "", *(f"- {text}" for text in record.captions)]
                board, tag = logger.experiment, f"val/{record.id}"
                board.add_text(tag, "\n".join(lines), self.global_step)
                if not self.shown:
                    picture = images.read(record.image)
                    picture.thumbnail((448, 448))
                    board.add_image(tag, np.asarray(picture), dataformats="HWC")
            self.shown = True


def _groups(module: nn.Module, **options: Any) -> list[dict[str, Any]]:
    """Matrices, and what is no matrix (biases, norms), which has no weight decay."""
    matrices = [p for p in _trainable(module) if p.ndim > 1]
    others = [p for p in _trainable(module) if p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": matrices},
        {"params": others, "weight_decay": 0.0},
    ]
    return [group | options for group in groups if group["params"]]


def _average(model: CaptionModel, ema: float) -> AveragedModel:
    """The moving average of a model's weights; a frozen encoder is not copied."""

    def towards(averages: Any, weights: Any, steps: Any) -> None:
        share = 1 - min(ema, (1 + int(steps)) / (10 + int(steps)))
        torch._foreach_lerp_(averages, weights, share)

    average = AveragedModel(model, multi_avg_fn=towards).requires_grad_(False)
    if model.encoder.frozen:
        average.module.encoder = model.encoder
    return average


def _trainable(module: nn.Module) -> Iterable[nn.Parameter]:
    return (parameter for parameter in module.parameters() if parameter.requires_grad)
