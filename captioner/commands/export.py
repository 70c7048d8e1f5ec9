"""`python -m captioner.commands.export MODEL FOLDER`: a model to hand on, in half the space."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from captioner.encoders import CNN
from captioner.errors import InputError, printable
from captioner.instantiate import instantiate
from captioner.models import loading


def export(model: Path, folder: Path) -> bool:
    """Writes the model in float16; the encoder only if pip does not bring its very weights.

    Returns whether it was written. Raises InputError for a number that float16 does not hold.
    """
    captioner = loading.load(model)
    assert isinstance(captioner.encoder, CNN)  # it is one model
    limit = torch.finfo(torch.float16).max
    for name, tensor in captioner.state_dict().items():
        if tensor.is_floating_point() and tensor.abs().max() > limit:
            raise InputError(
                f"{printable(model)}: {name} holds numbers beyond {limit:g}, float16's end"
            )
    options = captioner.config["encoder"]
    whole = options.get("weights") != "pip" or (
        instantiate(options, "captioner.encoders", CNN).weights() != captioner.encoder.weights()
    )
    captioner.save(folder, torch.float16, encoder=whole)
    return whole


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns 0, or 2 for an error."""
    parser = argparse.ArgumentParser(
        "captioner.commands.export",
        description="Write a model in float16, without what pip brings.",
    )
    parser.add_argument("model", type=Path, help="a model directory")
    parser.add_argument("folder", type=Path, help="where to write")
    options = parser.parse_args(argv)
    try:
        whole = export(options.model, options.folder)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    size = sum(file.stat().st_size for file in options.folder.iterdir()) / 1e6
    encoder = "with the encoder" if whole else "without the encoder, whose weights pip brings"
    print(f"{options.folder}: {size:.1f} MB, {encoder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
