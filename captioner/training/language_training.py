"""Training of language models, validated by bits per character or word."""

import math
from pathlib import Path
from typing import Any

import torch

from captioner import console, distributed, files
from captioner.data.text import Corpus, Streams
from captioner.errors import escape
from captioner.models.language_model import LanguageModel
from captioner.objectives.cross_entropy import CrossEntropy
from captioner.search import Strategy
from captioner.training.loop import Loop
from captioner.types import EOS, TextBatch

FIRST_SAMPLE = 100
"""The step after which the first sample is shown."""


class LanguageTraining(Loop):
    """Trains a LanguageModel; validates by bits per unit of text (a character, or a word).

    The bits include those for the ends of documents, though an end is no unit. strategy, prompt: of
    the samples that are printed and written to the file `samples` and TensorBoard: after
    FIRST_SAMPLE steps, twice as many, and so on, and at each validation. options: those of `Loop`.
    """

    def __init__(
        self, model: LanguageModel, strategy: Strategy, prompt: str, samples: Path, **options: Any
    ):
        super().__init__(model, {"decoder": {}}, **options)
        self.strategy, self.prompt, self.samples = strategy, prompt, samples

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the state of the streams of all processes."""
        state = self.state or {}
        checkpoint["streams"] = {k: distributed.gather_rows(v).cpu() for k, v in state.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        rank, device = distributed.rank(), self.device
        state = {name: rows[rank].to(device) for name, rows in checkpoint["streams"].items()}
        self.state = state or None

    def validation_step(self, batch: TextBatch, batch_idx: int) -> None:
        ends = (batch.token_NT[:, 1:] == EOS).sum()
        self.validate(batch, batch_idx, batch.length_N.sum() - ends)

    def on_validation_epoch_end(self) -> None:
        bits = self.log_nll() / math.log(2)
        self.log("val/bits", bits, prog_bar=True)
        self._show(f", {bits:.3f} bits")

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        doublings, remainder = divmod(self.global_step, FIRST_SAMPLE)
        if not remainder and not self.sums and doublings.bit_count() == 1:
            self._show()
        super().on_train_batch_end(outputs, batch, batch_idx)

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
        console.say(entry)
        files.append_bytes(self.samples, entry.encode())
        for board in self.boards:
            board.add_text("sample", f"```\n{escape(text)}\n```", self.global_step)


def bits(model: LanguageModel, corpus: Corpus, batch_size: int, bptt: int) -> float:
    """Bits per unit of a corpus, in `batch_size` streams, on the model's device."""
    device = next(model.parameters()).device
    streams, nll, state = Streams(corpus, batch_size, bptt, None), 0.0, None
    with torch.inference_mode():
        for number in range(len(streams)):
            batch = TextBatch(*(tensor.to(device) for tensor in streams[number]))
            _, logs, state = CrossEntropy()(model, batch, 0, state)
            nll += float(logs["nll"])
    return nll / corpus.units / math.log(2)
