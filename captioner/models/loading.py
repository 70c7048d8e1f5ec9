"""Load models from their directories."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from captioner import images, search
from captioner.decoders.ensemble import Ensemble
from captioner.encoders import CNN, Encoders
from captioner.errors import InputError, naming_file, printable
from captioner.instantiate import construct, instantiate
from captioner.models.caption_model import CaptionModel, build_captioner
from captioner.models.directory import CONFIG, Contents, is_of_cnn, load_weights, read_contents
from captioner.models.language_model import LanguageModel, build_language_model

PRETRAINED = Path(__file__).parents[1] / "pretrained"
"""The model that comes with the installation; its README.md says what it is."""

SAVED = {"width": 200, "n": 200, "samples": 1000, "groups": 200, "max_length": 1000}
"""The largest options of a search that a model may bring, since they cost memory and time."""

DEVICES = ("auto", "cpu", "cuda", "mps")


def load(
    *folders: str | Path,
    average: str = "log_prob",
    device: str | torch.device = "auto",
    style: str | None = None,
) -> CaptionModel:
    """Load a captioner in evaluation mode: of several directories an ensemble, of none the model
    that comes with the installation.

    average: how an ensemble averages, log_prob or prob; it searches as its first member does.
    device: one of DEVICES ("auto": a GPU if there is one), or torch's own. style: one that a model
    with concepts has learned (see `Concepts`), or "none", instead of its own. Raises InputError
    naming the file and the key, if one is missing, foreign or broken, if tokenizers differ, or for
    an unknown style.
    """
    folders = folders or (PRETRAINED,)
    device, members = choose_device(device), []
    for folder in folders:
        member = read_model(folder)
        if not isinstance(member, CaptionModel):
            raise InputError(
                f"{printable(folder)}: a language model, it sees no pictures: `captioner sample` "
                "lets it write, model.init_from= starts a captioner from it"
            )
        if style is not None:
            if member.encoder.concepts is None:  # type: ignore[union-attr]  # it is one model
                raise InputError(f"style={style}: {printable(folder)} has no concepts: give none")
            member.encoder.concepts.style = None if style == "none" else style  # type: ignore
        members.append(member)
        if member.tokenizer.digest() != members[0].tokenizer.digest():
            raise InputError(
                f"{printable(folder)}: its tokenizer.json is not that of {printable(folders[0])}: "
                "an ensemble needs one"
            )
    model = members[0]
    if len(members) > 1:
        encoder = Encoders([member.encoder for member in members])  # type: ignore[misc]
        decoder = Ensemble([member.decoder for member in members], average)
        model = CaptionModel(encoder, decoder, model.tokenizer, {}, model.strategy)
    return model.eval().to(device)


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """The torch device of that name; "auto" is the best one here: cuda, mps or cpu.

    Raises InputError for a name that is not one of DEVICES, and for a device that is not here.
    """
    if isinstance(device, torch.device):
        return device
    if device not in DEVICES:
        raise InputError(f"device={device}: give one of {', '.join(DEVICES)}")
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    available = {"cuda": cuda, "mps": mps, "cpu": True}
    if device == "auto":
        device = next(name for name in available if available[name])
    if not available[device]:
        raise InputError(f"device={device}: torch finds no such device: give auto or cpu")
    return torch.device(device)


def read_model(folder: str | Path) -> CaptionModel | LanguageModel:
    """Load one model directory, of either kind, in evaluation mode on the CPU (see `load`)."""
    with naming_file(folder):
        contents = read_contents(Path(folder))
    if contents.config["encoder"] is not None:
        return _captioner(contents).eval()
    with _naming(contents.folder / CONFIG):
        decoder = contents.config["decoder"]
        model = build_language_model({"decoder": decoder}, contents.tokenizer, contents.bounding)
    load_weights(model, contents)
    return model.eval()


@contextmanager
def _naming(place: str | Path) -> Iterator[None]:
    """Begin the message of an error with the place that it is about."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{place}: {error}") from error


def _captioner(contents: Contents) -> CaptionModel:
    folder, config, tokenizer, metadata, tensors = contents
    path, encoder = folder / CONFIG, config["encoder"]
    if "encoder" not in metadata:  # the weights of the encoder are in this directory too
        no_download = {"pretrained": False, "weights": None}
        encoder = {key: no_download.get(key, value) for key, value in encoder.items()}
    elif encoder.get("weights") != "pip":
        raise InputError(
            f"{path}: the encoder's weights are not here, and not pip's: copy it again"
        )
    with _naming(path):
        preprocess = construct(images.Preprocess, config.pop("preprocess"), "preprocess")
    with _naming(f"{path}: search"):
        options = config.pop("search", {"_target_": "captioner.search.Beam"})
        strategy = instantiate(options, "captioner.search", search.STRATEGIES)
        if large := [name for name, most in SAVED.items() if options.get(name, 1) > most]:
            wrong = f"{options['_target_']}: {large[0]}={options[large[0]]}"
            raise InputError(f"{wrong}: {SAVED[large[0]]} at most in a file")
    with _naming(path):
        parts = {"encoder": encoder, "decoder": config["decoder"]}
        model = build_captioner(parts, tokenizer, contents.bounding)
    assert isinstance(model.encoder, CNN)
    model.config, model.encoder.preprocess, model.strategy = config, preprocess, strategy
    if "encoder" in metadata:
        if model.encoder.weights() != metadata["encoder"]:
            raise InputError(
                f"{printable(folder)}: made for other weights of the encoder than the installed "
                "ones: use the version of captioner that brought it"
            )
        built = model.state_dict()
        tensors.update({key: built[key] for key in built if is_of_cnn(key)})
    load_weights(model, contents)
    model.encoder.fuse()
    return model
