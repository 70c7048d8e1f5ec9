"""LanguageModel: a decoder without an image, over the characters or words of a text."""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captioner import tokenizers
from captioner.decoders.recurrent import Recurrent
from captioner.errors import InputError
from captioner.instantiate import instantiate
from captioner.models.base import Model
from captioner.models.directory import write_model
from captioner.search.base import Strategy
from captioner.search.rules import forbid
from captioner.types import BOS, UNK, Memory, State, TextBatch

LOOKUP_VOCABULARY = 1000
"""Largest vocabulary for which sampling looks the first layer's products up."""


class LanguageModel(Model):
    """decoder.start(None, rows), then `step` after `step`; in training the state goes on from
    chunk to chunk of a text, and its gradient does not: truncated backpropagation through time.
    """

    decoder: Recurrent
    carries_state = True

    def start(  # type: ignore[override]
        self, batch: TextBatch, state: State | None = None
    ) -> tuple[None, Memory, State]:
        """The state that a chunk begins with: a fresh one for streams that begin a document, for
        the others `state`, that after the chunk before."""
        memory, fresh = self.decoder.start(None, len(batch.token_NT))
        if state is not None:
            fresh_N1 = batch.fresh_N[:, None]
            fresh = {name: entry.where(fresh_N1, state[name]) for name, entry in fresh.items()}
        return None, memory, fresh

    def save(self, folder: str | Path) -> None:
        """Write the model directory."""
        write_model(self, Path(folder), self.config)

    def encode_prompt(self, prompt: str) -> list[int]:
        """The ids of a prompt. Raises InputError for a unit that the model does not know."""
        if unknown := [u for u in self.tokenizer.split(prompt) if u not in self.tokenizer.ids]:
            raise InputError(f"the model does not know {unknown[0]!r}: leave it out of the prompt")
        return self.tokenizer.encode(prompt)

    def continue_prompt(self, prompt: str, strategy: Strategy) -> list[str]:
        """The prompt with the strategy's n continuations, best first. Raises as `encode_prompt`."""
        ids = [BOS, *self.encode_prompt(prompt)]
        device = next(self.decoder.parameters()).device
        with torch.inference_mode():
            memory, state = self.decoder.start(None, 1)
            if len(ids) > 1:
                read_1T = torch.tensor([ids[:-1]], device=device)
                length_1 = torch.tensor([len(ids) - 1], device=device)
                _, state, _ = self.decoder(read_1T, length_1, memory, state)
            rows = strategy.rows
            state = {name: entry.expand(rows, *entry.shape[1:]) for name, entry in state.items()}
            last, decoder = ids[-1], _sampling_copy(self.decoder)

            def step(token_N: Tensor, memory: Memory, state: State) -> tuple[Tensor, State]:
                return decoder.step(token_N.masked_fill(token_N == BOS, last), memory, state)

            captions = strategy(step, memory, state, [forbid(UNK)])
        rows_of_ids = captions.token_BKT.flatten(0, 1).tolist()
        return [self.tokenizer.decode([*ids, *row]) for row in rows_of_ids]


def _sampling_copy(decoder: Recurrent) -> Recurrent:
    """A copy of the decoder, not for training, whose steps of one row are faster.

    They do little but read weights, so W_hh, W_xh and W_hy are stored column by column, and with a
    small vocabulary W_xh x + b of the first layer is looked up. One row gains 36 %, five 8 %.
    """
    by_column = {
        id(W): nn.Parameter(W.detach().t().contiguous().t(), requires_grad=False)
        for name, W in decoder.named_parameters()
        if W.ndim == 2 and name != "embed.weight"
    }
    shared = {id(parameter): parameter for parameter in decoder.parameters()}
    decoder = copy.deepcopy(decoder, shared | by_column).eval()
    if decoder.vocab_size <= LOOKUP_VOCABULARY:
        first = decoder.cells[0]
        decoder.embed = nn.Embedding.from_pretrained(first.inputs(decoder.embed.weight))
        first.inputs = lambda x: x  # type: ignore[method-assign]
    return decoder


def build_language_model(
    config: dict[str, Any],
    tokenizer: tokenizers.Tokenizer,
    bounding: Callable[[str], AbstractContextManager] = nullcontext,
) -> LanguageModel:
    """{"decoder": {"_target_": .., ..}} -> a language model with fresh weights.

    bounding: as for `build_captioner`. Raises InputError for a decoder that is no Recurrent, and
    for a foreign option.
    """
    target = str(config["decoder"].get("_target_"))
    if target.startswith("captioner.decoders.") and not target.endswith(".Recurrent"):
        raise InputError(f"decoder._target_={target}: a language model takes a Recurrent decoder")
    sizes = {"vocab_size": len(tokenizer), "feature_size": 0}
    with bounding("decoder"):
        decoder = instantiate(config["decoder"], "captioner.decoders", Recurrent, **sizes)
    return LanguageModel(decoder, tokenizer, {"encoder": None, "decoder": config["decoder"]})
