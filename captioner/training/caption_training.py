"""Training captioners: what a validation of them is."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from pytorch_lightning.loggers import TensorBoardLogger

from captioner import distributed, images
from captioner.data.records import Record
from captioner.metrics import score
from captioner.models.caption_model import CaptionModel
from captioner.objectives.base import Objective
from captioner.objectives.cross_entropy import CrossEntropy
from captioner.search import Strategy
from captioner.training.checkpoints import Checkpoints
from captioner.training.health import ailments, health_of
from captioner.training.loop import Loop
from captioner.types import Batch

PICTURES = 8  # of the validation set, shown on TensorBoard


class CaptionTraining(Loop):
    """Trains a CaptionModel with an objective; validates by captions and their CIDEr.

    train, val: the records behind the batches' index_B. encoder_lr: the learning rate of a
    trainable encoder. options: see `Loop`.
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
        **options: Any,
    ):
        groups = {"decoder": {}, "encoder": {"lr": encoder_lr}}
        super().__init__(model, objective, optimizer, groups, **options)
        self.strategy, self.train_records, self.val_records = strategy, train, val
        self.shown = False
        # record number -> caption, and whether it ended by itself; of this validation
        self.said: dict[int, tuple[str, bool]] = {}
        self.val_sums = (0.0, 0.0)  # nll, words

    def mark(self, batch: Batch) -> torch.Tensor:
        return batch.index_B

    def culprits(self, seen: list[torch.Tensor]) -> list[str]:
        """The pictures."""
        return [str(self.train_records[i].image) for i in torch.cat(seen).tolist()]

    def on_validation_epoch_start(self) -> None:
        self.said, self.val_sums = {}, (0.0, 0.0)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        if batch_idx == 0 and isinstance(self.trainer.checkpoint_callback, Checkpoints):
            self.trainer.checkpoint_callback.before_validation(self.trainer)
        model = self.kept
        features = model.encode(batch.images)
        _, logs, _ = CrossEntropy()(model, batch._replace(images=features), self.global_step)
        nll, words = self.val_sums
        self.val_sums = nll + float(logs["nll"]), words + float(logs["count"])
        numbers = batch.index_B.tolist()
        captions = model.generate(features, self.strategy, numbers)
        ended_B = captions.ended_BK[:, 0].tolist()
        for index, (best, *_), ended in zip(numbers, model.texts(captions), ended_B):
            self.said[index] = best.caption, ended

    def on_validation_epoch_end(self) -> None:
        parts = distributed.gather((self.said, self.val_sums))
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
                    picture = images.read_image(record.image)
                    picture.thumbnail((448, 448))
                    board.add_image(tag, np.asarray(picture), dataformats="HWC")
            self.shown = True
