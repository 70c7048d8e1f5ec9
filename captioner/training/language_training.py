"""Training of language models, validated by bits per character or word."""

import math
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.loggers import TensorBoardLogger

from captioner import distributed, files
from captioner.data.text import Corpus, Streams
from captioner.models.language_model import LanguageModel
from captioner.objectives.base import Objective
from captioner.objectives.cross_entropy import CrossEntropy
from captioner.search import Strategy
from captioner.training.loop import Loop
from captioner.types import EOS, State, TextBatch

FIRST_SAMPLE = 100
"""The step after which the first sample is shown."""


class LanguageTraining(Loop):
    """Trains a LanguageModel; validates by bits per unit of text (a character, or a word).

    The bits include those for the ends of documents, though an end is no unit. strategy, prompt: of
    the samples that are printed and written to the file `samples` and TensorBoard: after
    FIRST_SAMPLE steps, after twice as many, and so on, and at each validation. options: see `Loop`.
    """

    def __init__(
        self,
        model: LanguageModel,
        objective: Objective,
        strategy: Strategy,
        prompt: str,
        samples: Path,
        optimizer: Callable[[Iterable[dict[str, Any]]], torch.optim.Optimizer],
        **options: Any,
    ):
        super().__init__(model, objective, optimizer, {"decoder": {}}, **options)
        self.strategy, self.prompt, self.samples = strategy, prompt, samples
        self.val_state: State | None = None
        self.val_sums = (0.0, 0.0)  # nll, units

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the state of the streams of all processes."""
        state = self.state or {}
        checkpoint["streams"] = {k: distributed.gather_rows(v).cpu() for k, v in state.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        rank, device = distributed.rank(), self.device
        state = {name: rows[rank].to(device) for name, rows in checkpoint["streams"].items()}
        self.state = state or None

    def on_validation_epoch_start(self) -> None:
        self.val_state, self.val_sums = None, (0.0, 0.0)

    def validation_step(self, batch: TextBatch, batch_idx: int) -> None:
        logs, self.val_state = self.validate(batch, batch_idx, self.val_state)
        units = float(batch.length_N.sum() - (batch.token_NT[:, 1:] == EOS).sum())
        nll, units_before = self.val_sums
        self.val_sums = nll + float(logs["nll"]), units_before + units

    def on_validation_epoch_end(self) -> None:
        nll, units = (sum(values) for values in zip(*distributed.gather(self.val_sums)))
        self.log("val/nll", nll / units)
        self.log("val/bits", nll / units / math.log(2), prog_bar=True)
        self._show(f", {nll / units / math.log(2):.3f} bits")

    def on_train_batch_end(self, *args: Any) -> None:
        doublings, remainder = divmod(self.global_step, FIRST_SAMPLE)
        if not remainder and not self.sums and doublings.bit_count() == 1:
            self._show()

    def _show(self, score: str = "") -> None:
        """Print and keep a sample of what the model writes now; score: text for its heading."""
        if not self.trainer.is_global_zero:
            return
        training = self.eval_model.training
        self.eval_model.eval()
        text = self.eval_model.continue_prompt(self.prompt, self.strategy)[0]
        self.eval_model.train(training)
        # The lecture's words.
        stage = "train more" if self.global_step > FIRST_SAMPLE else "at first"
        place = f"epoch {self.current_epoch}, step {self.global_step}{score}"
        entry = f"== {stage}: {place}\n{text}\n\n"
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        self.print(entry.encode(encoding, "backslashreplace").decode(encoding))
        earlier = self.samples.read_bytes() if self.samples.exists() else b""
        if entry.encode() not in earlier:  # a resumed run repeats the last ones
            files.append_bytes(self.samples, entry.encode())
        for logger in self.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text("sample", f"```\n{text}\n```", self.global_step)


def bits(model: LanguageModel, corpus: Corpus, batch_size: int, bptt: int) -> float:
    """Bits per unit of a corpus, in `batch_size` streams, on the model's device."""
    model.eval()
    device = next(model.parameters()).device
    streams, nll, state = Streams(corpus, batch_size, bptt, None), 0.0, None
    with torch.inference_mode():
        for number in range(len(streams)):
            batch = TextBatch(*(tensor.to(device) for tensor in streams[number]))
            _, logs, state = CrossEntropy()(model, batch, 0, state)
            nll += float(logs["nll"])
    return nll / corpus.units / math.log(2)
