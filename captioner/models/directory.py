"""The model directory on disk: config.json, tokenizer.json and model.safetensors, nothing else.

Written and read here. Nothing in it is executed: weights are plain tensors, and classes are named
in config.json, which captioner/models/loading.py looks up among those of captioner:

    format      1
    encoder     the options of the encoder; null in a language model
    decoder     the options of the decoder
    preprocess  what is done to a picture before the encoder; not in a language model
    search      the options of the search; may be missing

The weights carry a digest of their tokenizer, so that words and weights stay together.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from captioner import files, tokenizers
from captioner.errors import InputError, printable, read_json
from captioner.models.base import Model

FORMAT = 1
FILES = CONFIG, TOKENIZER, WEIGHTS = "config.json", "tokenizer.json", "model.safetensors"


class Contents(NamedTuple):
    """A model directory that was read. metadata: digests that are stored with the weights, of the
    "tokenizer" and, if its own weights are left out, of the "encoder"."""

    folder: Path
    config: dict[str, Any]
    tokenizer: tokenizers.Tokenizer
    metadata: dict[str, str]
    tensors: dict[str, Tensor]


def is_model(folder: str | Path) -> bool:
    """Whether a folder has the three files of a model directory."""
    return all((Path(folder) / name).is_file() for name in FILES)


def write_model(
    model: Model,
    folder: Path,
    config: Mapping[str, Any],
    dtype: torch.dtype = torch.float32,
    encoder_digest: str | None = None,
) -> None:
    """Write a model directory; the files of an existing one are replaced one by one.

    dtype: of the stored floating-point weights. encoder_digest: given, it is stored in place of the
    encoder's weights.
    """
    files.make_folder(folder)
    tensors = {
        name: (tensor.to(dtype) if tensor.is_floating_point() else tensor).cpu().contiguous()
        for name, tensor in model.state_dict().items()
        if encoder_digest is None or not name.startswith("encoder.")
    }
    metadata = {"tokenizer": model.tokenizer.digest()}
    if encoder_digest is not None:
        metadata["encoder"] = encoder_digest
    contents: dict[str, str | bytes] = {
        CONFIG: json.dumps({"format": FORMAT, **config}, indent=2) + "\n",
        TOKENIZER: model.tokenizer.to_json(),
        WEIGHTS: safetensors.torch.save(tensors, metadata),
    }
    for name, content in contents.items():
        files.write_atomic(folder / name, content)


def read_contents(folder: Path) -> Contents:
    """Read a model directory. Raises InputError naming the file that is missing or broken."""
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise InputError(
            f"{printable(folder)}: not a model directory, it has no {' and no '.join(missing)}; "
            "give the folder model/ of a run"
        )
    config = _read_config(folder / CONFIG)
    tokenizer = tokenizers.load_tokenizer(folder / TOKENIZER)
    return Contents(folder, config, tokenizer, *_read_tensors(folder / WEIGHTS))


def load_weights(model: Model, contents: Contents) -> None:
    """Copy the weights that were read into the model.

    Raises InputError if they are those of another model or tokenizer, or are not finite.
    """
    path = contents.folder / WEIGHTS
    if contents.metadata.get("tokenizer") != model.tokenizer.digest():
        raise InputError(
            f"{path}: was not trained with the tokenizer.json beside it: take both from one run"
        )
    expected, tensors = model.state_dict(), contents.tensors
    wrong = [f"{key} is missing" for key in expected if key not in tensors]
    wrong += [f"{key} is foreign" for key in tensors if key not in expected]
    wrong += [
        f"{key} has shape {tuple(tensor.shape)}, not {tuple(expected[key].shape)}"
        for key, tensor in tensors.items()
        if key in expected and tensor.shape != expected[key].shape
    ]
    if wrong:
        raise InputError(
            f"{path}: does not fit its config.json: {'; '.join(wrong[:5])}"
            + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else "")
            + ": take both from one run"
        )
    for key, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise InputError(
                f"{path}: {key} holds values that are not finite: its training diverged; "
                "train again with a lower learning rate"
            )
    model.load_state_dict(tensors)


def _read_config(path: Path) -> dict[str, Any]:
    """The entries of a config.json but its format."""
    saved = read_json(path)
    if not isinstance(saved, dict):
        raise InputError(f"{path}: not an object with format, encoder, decoder and preprocess")
    is_language_model = saved.get("encoder", 0) is None
    required = ["format", "encoder", "decoder", *([] if is_language_model else ["preprocess"])]
    if missing := [key for key in required if key not in saved]:
        raise InputError(f"{path}: the key {missing[0]!r} is missing: copy it again")
    if saved["format"] != FORMAT:
        raise InputError(
            f"{path}: format {saved['format']!r:.60}, this version reads {FORMAT}: use the version "
            "of captioner that wrote it"
        )
    config = {key: saved[key] for key in (*required[1:], "search") if key in saved}
    for key, value in config.items():
        if not isinstance(value, dict) and not (key == "encoder" and is_language_model):
            raise InputError(f"{path}: {key} is {value!r:.60}; it must be an object")
    return config


def _read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata and tensors of a safetensors file."""
    path.open("rb").close()  # for the system's own error
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        return metadata, safetensors.torch.load_file(path)
    except SafetensorError as error:
        message = f"{path}: not a whole safetensors file ({error}): copy it again"
        raise InputError(message) from error
