"""Training of captioners, validated by their captions."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from captioner import distributed, images
from captioner.console import say
from captioner.data.records import Record
from captioner.errors import escape
from captioner.metrics import score
from captioner.models.caption_model import CaptionModel
from captioner.training.health import health_of, warnings_of
from captioner.training.loop import Loop
from captioner.types import Batch

PICTURES = 8  # of the validation set, shown on TensorBoard


class CaptionTraining(Loop):
    """Trains a CaptionModel; validates by the captions that its search finds, and their CIDEr.

    train, val: the records that Batch.index_B counts. encoder_lr: the learning rate of a trainable
    encoder. metrics_tokenizer: of validations' metrics. options: those of `Loop`.
    """

    def __init__(
        self,
        model: CaptionModel,
        train: Sequence[Record],
        val: Sequence[Record],
        encoder_lr: float,
        metrics_tokenizer: str = "ptb",
        **options: Any,
    ):
        super().__init__(model, {"decoder": {}, "encoder": {"lr": encoder_lr}}, **options)
        self.train_records, self.val_records, self.pictures_shown = train, val, False
        self.metrics_tokenizer = metrics_tokenizer
        # Of this validation: record number -> caption, and whether it ended by itself.
        self.captions: dict[int, tuple[str, bool]] = {}

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self.captions = {}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        model = self.eval_model
        features = model.encode(batch.images)
        self.validate(batch._replace(images=features), batch_idx, batch.length_N.sum())
        numbers = batch.index_B.tolist()
        captions = model.generate(features, image_numbers=numbers)
        ended_B = captions.ended_BK[:, 0].tolist()
        for index, (best, *_), ended in zip(numbers, model.texts(captions), ended_B):
            self.captions[index] = best.caption, ended

    def on_validation_epoch_end(self) -> None:
        self.log_nll()
        gathered = distributed.gather(self.captions)
        results = {index: result for captions in gathered for index, result in captions.items()}
        captions = {index: caption for index, (caption, _) in results.items()}
        references = {index: list(self.val_records[index].captions) for index in sorted(captions)}
        tokenizer, ended = self.metrics_tokenizer, [ended for _, ended in results.values()]
        scores = score.score(references, captions, tokenizer=tokenizer)["corpus"]
        health = health_of(list(captions.values()), ended, tokenizer)
        for name, value in {"CIDEr": scores["CIDEr"], "Bleu_4": scores["Bleu_4"], **health}.items():
            self.log(f"val/{name}", value, prog_bar=name == "CIDEr")
        if self.objective.rewarded and self.trainer.is_global_zero:
            for warning in warnings_of(health):
                say(f"epoch {self.current_epoch}: {warning}")
        for board in self.boards:
            self._show(captions, board)

    def _show(self, captions: dict[int, str], board: Any) -> None:
        """Write the first pictures, their captions and references to TensorBoard."""
        for index in sorted(captions)[:PICTURES]:
            record = self.val_records[index]
            best, *references = (escape(t, keep="") for t in [captions[index], *record.captions])
            lines = [f"**{best}**", "", *(f"- {text}" for text in references)]
            tag = escape(f"val/{record.id}", keep="")
            board.add_text(tag, "\n".join(lines), self.global_step)
            if not self.pictures_shown:
                picture = images.read_image(record.image)
                picture.thumbnail((448, 448))
                board.add_image(tag, np.asarray(picture), dataformats="HWC")
        self.pictures_shown = True
