"""The training loop: Lightning drives, this module says what a step and a validation are."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn

from captioner import images
from captioner.metrics import score
from captioner.model import CaptionModel
from captioner.objectives import CrossEntropy
from captioner.records import Record
from captioner.search import Strategy
from captioner.types import Batch, InputError

PICTURES = 8  # of the validation set, shown on TensorBoard


class Training(pl.LightningModule):
    """Trains a CaptionModel with an objective; validates by captions and their CIDEr.

    optimizer: parameter groups -> optimiser, with the decoder's learning rate in it.
    encoder_lr: the learning rate of a trainable encoder.
    warmup: the share of all steps in which the learning rate rises linearly; from there on it falls
    to 0 along a cosine.
    """

    def __init__(
        self,
        model: CaptionModel,
        objective: CrossEntropy,
        strategy: Strategy,
        val: Sequence[Record],
        optimizer: Callable[[Iterable[dict[str, Any]]], torch.optim.Optimizer],
        encoder_lr: float = 1e-5,
        warmup: float = 0.1,
        seed: int = 0,
    ):
        super().__init__()
        if not 0 <= warmup < 1:
            raise InputError(f"warmup={warmup}: give 0 <= warmup < 1, a share of all steps")
        self.model, self.objective, self.strategy, self.val = model, objective, strategy, val
        self.optimizer, self.encoder_lr, self.warmup = optimizer, encoder_lr, warmup
        self.seed, self.shown = seed, False
        self.said: dict[int, str] = {}  # record number -> caption, of this validation

    def configure_optimizers(self):
        groups: list[dict[str, Any]] = [{"params": list(_trainable(self.model.decoder))}]
        if encoder := list(_trainable(self.model.encoder)):
            groups.append({"params": encoder, "lr": self.encoder_lr})
        optimizer = self.optimizer(groups)
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
        self.log("train/loss", loss.detach(), prog_bar=True)
        self.log("train/nll", logs["nll"])
        return loss

    def configure_gradient_clipping(
        self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None
    ) -> None:
        """If |g| > threshold: g *= threshold / |g| (Pascanu 2013, the lecture's rule). Logs |g|."""
        if gradient_clip_algorithm not in (None, "norm"):
            raise InputError(
                f"trainer.gradient_clip_algorithm={gradient_clip_algorithm}: only norm"
            )
        limit = gradient_clip_val or torch.inf
        norm = nn.utils.clip_grad_norm_(_trainable(self.model), limit)
        self.log("train/grad_norm", norm)

    def on_validation_epoch_start(self) -> None:
        self.said = {}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        features = self.model.encode(batch.images)
        _, logs = self.objective(self.model, batch._replace(images=features), self.global_step)
        words = int(logs["words"])
        self.log("val/nll", logs["nll"], batch_size=words, sync_dist=True)
        numbers = batch.index_B.tolist()
        captions = self.model.texts(self.model.generate(features, self.strategy, numbers))
        for index, (text, _) in zip(numbers, captions):
            self.said[index] = text

    def on_validation_epoch_end(self) -> None:
        said = self.said
        if self.trainer.world_size > 1:
            parts: list[dict[int, str] | None] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(parts, self.said)
            said = {index: text for part in parts if part for index, text in part.items()}
        references = {index: list(self.val[index].captions) for index in said}
        scores = score.score(references, said)["corpus"]
        for name in ("CIDEr", "Bleu_4"):
            self.log(f"val/{name}", scores[name], prog_bar=name == "CIDEr", rank_zero_only=False)
        self._show(said)

    def _show(self, said: dict[int, str]) -> None:
        """The first pictures, their captions and references, to TensorBoard."""
        for logger in self.loggers:
            if not isinstance(logger, TensorBoardLogger) or not self.trainer.is_global_zero:
                continue
            for index in sorted(said)[:PICTURES]:
                record = self.val[index]
                lines = [f"**{said[index]}**", "", *(f"- {text}" for text in record.captions)]
                board, tag = logger.experiment, f"val/{record.id}"
                board.add_text(tag, "\n".join(lines), self.global_step)
                if not self.shown:
                    picture = images.read(record.image)
                    picture.thumbnail((448, 448))
                    board.add_image(tag, np.asarray(picture), dataformats="HWC")
            self.shown = True


def _trainable(module: nn.Module) -> Iterable[nn.Parameter]:
    return (parameter for parameter in module.parameters() if parameter.requires_grad)
