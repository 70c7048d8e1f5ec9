"""Writing a model to hand on: in float16, without weights that an installation brings anyway."""

from pathlib import Path

import torch

from captioner.encoders import CNN
from captioner.errors import InputError, printable
from captioner.instantiate import instantiate
from captioner.models import loading


def export_model(model: Path, folder: Path) -> bool:
    """Write a captioner in float16, with its encoder only if pip does not bring the same weights.

    Returns whether the encoder is in it. Raises InputError for a number beyond float16's range.
    """
    captioner = loading.load(model, device="cpu")
    assert isinstance(captioner.encoder, CNN)  # it is one model
    limit = torch.finfo(torch.float16).max
    for name, tensor in captioner.state_dict().items():
        if tensor.is_floating_point() and tensor.abs().max() > limit:
            raise InputError(
                f"{printable(model)}: {name} holds numbers beyond {limit:g}, float16's range"
            )
    options = captioner.config["encoder"]
    with_encoder = options.get("weights") != "pip" or (
        instantiate(options, "captioner.encoders", CNN).weights() != captioner.encoder.weights()
    )
    captioner.save(folder, torch.float16, encoder=with_encoder)
    return with_encoder
