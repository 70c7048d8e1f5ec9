"""Training of captioners, validated by their captions."""

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
from captioner.search import Strategy
from captioner.training.health import health_of, warnings_of
from captioner.training.loop import Loop
from captioner.types import Batch

PICTURES = 8  # of the validation set, shown on TensorBoard


class CaptionTraining(Loop):
    """Trains a CaptionModel with an objective; validates by captions and their CIDEr.

    strategy: the search of validations; saved with the model. train, val: the records that
    Batch.index_B counts. encoder_lr: the learning rate of a trainable encoder. options: see `Loop`.
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
        model.strategy = strategy
        groups = {"decoder": {}, "encoder": {"lr": encoder_lr}}
        super().__init__(model, objective, optimizer, groups, **options)
        self.strategy, self.train_records, self.val_records = strategy, train, val
        self.pictures_shown = False
        # Of this validation: record number -> caption, and whether it ended by itself.
        self.captions: dict[int, tuple[str, bool]] = {}
        self.val_sums = (0.0, 0.0)  # nll, words

    def identify(self, batch: Batch) -> torch.Tensor:
        return batch.index_B

    def sources_of(self, batch_ids: list[torch.Tensor]) -> list[str]:
        """The pictures."""
        return [str(self.train_records[i].image) for i in torch.cat(batch_ids).tolist()]

    def on_validation_epoch_start(self) -> None:
        self.captions, self.val_sums = {}, (0.0, 0.0)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        model = self.eval_model
        features = model.encode(batch.images)
        logs, _ = self.validate(batch._replace(images=features), batch_idx)
        nll, words = self.val_sums
        self.val_sums = nll + float(logs["nll"]), words + float(logs["count"])
        numbers = batch.index_B.tolist()
        captions = model.generate(features, self.strategy, numbers)
        ended_B = captions.ended_BK[:, 0].tolist()
        for index, (best, *_), ended in zip(numbers, model.texts(captions), ended_B):
            self.captions[index] = best.caption, ended

    def on_validation_epoch_end(self) -> None:
        gathered = distributed.gather((self.captions, self.val_sums))
        results = {i: result for captions, _ in gathered for i, result in captions.items()}
        captions = {index: caption for index, (caption, _) in results.items()}
        nll, words = (sum(values) for values in zip(*(sums for _, sums in gathered)))
        references = {index: list(self.val_records[index].captions) for index in sorted(captions)}
        scores = score.score(references, captions)["corpus"]
        self.log("val/nll", nll / words)
        health = health_of(list(captions.values()), [ended for _, ended in results.values()])
        for name, value in {"CIDEr": scores["CIDEr"], "Bleu_4": scores["Bleu_4"], **health}.items():
            self.log(f"val/{name}", value, prog_bar=name == "CIDEr")
        if self.objective.rewarded and self.trainer.is_global_zero:
            for warning in warnings_of(health):
                print(f"epoch {self.current_epoch}: {warning}")
        self._show(captions)

    def _show(self, captions: dict[int, str]) -> None:
        """Write the first pictures, their captions and references to TensorBoard."""
        for logger in self.loggers:
            if not isinstance(logger, TensorBoardLogger) or not self.trainer.is_global_zero:
                continue
            for index in sorted(captions)[:PICTURES]:
                record = self.val_records[index]
                lines = [f"**{captions[index]}**", "", *(f"- {text}" for text in record.captions)]
                board, tag = logger.experiment, f"val/{record.id}"
                board.add_text(tag, "\n".join(lines), self.global_step)
                if not self.pictures_shown:
                    picture = images.read_image(record.image)
                    picture.thumbnail((448, 448))
                    board.add_image(tag, np.asarray(picture), dataformats="HWC")
            self.pictures_shown = True
