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
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from captioner import files, tokenizers
from captioner.errors import InputError, open_input, printable, read_json
from captioner.models.base import Model

FORMAT = 1
SMALL = 2**26
"""The most bytes of config.json and tokenizer.json."""
HEADER = 2**23
"""The most bytes of the header of a safetensors file, which lists its tensors."""
FREE = {"encoder": (1000, 150_000_000), "decoder": (100, 2**20)}
"""Tensors and numbers that a part may have before it is trimmed: a CNN is made with its head."""
FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
FILES = CONFIG, TOKENIZER, WEIGHTS = "config.json", "tokenizer.json", "model.safetensors"


class Contents(NamedTuple):
    """A model directory that was read. metadata: digests that are stored with the weights, of the
    "tokenizer" and, if its own weights are left out, of the "encoder"."""

    folder: Path
    config: dict[str, Any]
    tokenizer: tokenizers.Tokenizer
    metadata: dict[str, str]
    tensors: dict[str, Tensor]

    @contextmanager
    def bounding(self, part: str) -> Iterator[None]:
        """While a part of the model is made, raise InputError as soon as it has far more weights
        than the file, which is before they are initialised: a small file may say hidden_size=10**6.
        """
        sizes = [t.numel() for key, t in self.tensors.items() if key.startswith(f"{part}.")]
        free_tensors, free_numbers = FREE[part]
        tensors, numbers = 2 * len(sizes) + free_tensors, 2 * sum(sizes) + free_numbers
        thread = threading.get_ident()

        def spend(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
            nonlocal tensors, numbers
            if parameter is not None and threading.get_ident() == thread:
                tensors, numbers = tensors - 1, numbers - parameter.numel()
                if tensors < 0 or numbers < 0:
                    raise InputError(f"far more weights than {WEIGHTS}: take both from one run")

        hook = register_module_parameter_registration_hook(spend)
        try:
            yield
        finally:
            hook.remove()


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
        if encoder_digest is None or not is_of_cnn(name)
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


def is_of_cnn(name: str) -> bool:
    """Whether a tensor of this name is the CNN's, which a pip package may bring."""
    return name.startswith("encoder.") and not name.startswith("encoder.concepts.")


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
    wrong += [
        f"{key} is of {tensor.dtype}, not {expected[key].dtype}"
        for key, tensor in tensors.items()
        if key in expected
        and not {tensor.dtype, expected[key].dtype} <= FLOATS
        and tensor.dtype != expected[key].dtype
    ]
    if wrong:
        raise InputError(
            f"{path}: does not fit its config.json: {'; '.join(wrong[:5])}"
            + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else "")
            + ": take both from one run"
        )
    for key, tensor in tensors.items():
        if not tensor.to(expected[key].dtype).isfinite().all():
            raise InputError(
                f"{path}: {key} holds values that are not finite: its training diverged; "
                "train again with a lower learning rate"
            )
    model.load_state_dict(tensors)


def _read_config(path: Path) -> dict[str, Any]:
    """The entries of a config.json but its format."""
    saved = read_json(path, SMALL)
    if not isinstance(saved, dict):
        raise InputError(f"{path}: not an object with format, encoder, decoder and preprocess")
    is_language_model = saved.get("encoder", 0) is None
    required = ["format", "encoder", "decoder", *([] if is_language_model else ["preprocess"])]
    if missing := [key for key in required if key not in saved]:
        raise InputError(f"{path}: the key {missing[0]!r} is missing: copy it again")
    if saved["format"] != FORMAT or saved["format"] is True:
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
    try:
        with open_input(path) as start:
            if int.from_bytes(start.read(8), "little") > HEADER:
                raise ValueError(f"a header of over {HEADER:,} bytes")
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        return metadata, safetensors.torch.load_file(path)
    except InputError:
        raise
    except Exception as error:  # the header may say anything
        message = f"{path}: not a whole safetensors file ({error}): copy it again"
        raise InputError(message) from error
