"""Model directories: config.json, tokenizer.json and model.safetensors, nothing else.

Nothing in them is executed: classes are those of `captioner.encoders` and `captioner.decoders`,
weights are plain tensors. captioner/models/loading.py reads what `Model.save` writes.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import safetensors.torch
import torch
from torch import nn

from captioner import files, tokenizers
from captioner.decoders.base import Decoder
from captioner.types import Batch, Features, Memory, State, TextBatch

FORMAT = 1
FILES = ("config.json", "tokenizer.json", "model.safetensors")


class Model(nn.Module, ABC):
    """A decoder and its tokenizer, and what there is besides. config: what it was made from."""

    carries_state = False
    """Whether a training batch begins with the state that the one before ended with."""

    def __init__(self, decoder: Decoder, tokenizer: tokenizers.Tokenizer, config: dict[str, Any]):
        super().__init__()
        self.decoder, self.tokenizer, self.config = decoder, tokenizer, config

    @abstractmethod
    def start(
        self, batch: Batch | TextBatch, state: State | None
    ) -> tuple[Features | None, Memory, State]:
        """The image features, memory and state that the decoder reads a training batch with."""

    def write(
        self,
        folder: Path,
        dtype: torch.dtype = torch.float32,
        more: Mapping[str, Any] = MappingProxyType({}),
        marks: Mapping[str, str] = MappingProxyType({}),
        without: str | None = None,
    ) -> None:
        """Writes the model directory; an existing one is replaced file by file.

        The weights carry a digest of their tokenizer, so that words and weights cannot be parted.
        dtype: of all numbers, whatever was trained in, so that a model has one precision.
        more: what config.json holds besides. marks: what the weights' file says of itself besides.
        without: the prefix of weights that are left out.
        """
        files.make_folder(folder)
        config = {"format": FORMAT, **self.config, **more}
        tensors = {
            name: (tensor.to(dtype) if tensor.is_floating_point() else tensor).cpu().contiguous()
            for name, tensor in self.state_dict().items()
            if without is None or not name.startswith(without)
        }
        marks = {"tokenizer": self.tokenizer.digest(), **marks}
        contents: dict[str, str | bytes] = {
            "config.json": json.dumps(config, indent=2) + "\n",
            "tokenizer.json": self.tokenizer.to_json(),
            "model.safetensors": safetensors.torch.save(tensors, marks),
        }
        for name in FILES:
            files.write_atomic(folder / name, contents[name])
