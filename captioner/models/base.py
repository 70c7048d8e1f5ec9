"""What captioners and language models have in common: a decoder and its tokenizer."""

from abc import ABC, abstractmethod
from typing import Any

from torch import nn

from captioner.decoders.base import Decoder
from captioner.tokenizers import Tokenizer
from captioner.types import Batch, Features, Memory, State, TextBatch


class Model(nn.Module, ABC):
    """A decoder, its tokenizer, and the configuration that the model was built from."""

    carries_state = False
    """Whether a training batch begins with the state that the one before ended with."""

    def __init__(self, decoder: Decoder, tokenizer: Tokenizer, config: dict[str, Any]):
        super().__init__()
        self.decoder, self.tokenizer, self.config = decoder, tokenizer, config

    @abstractmethod
    def start(
        self, batch: Batch | TextBatch, state: State | None
    ) -> tuple[Features | None, Memory, State]:
        """The image features, memory and state that the decoder reads a training batch with."""
