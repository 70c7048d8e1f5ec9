"""Encoders from torchvision's CNNs."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from captioner.encoders import weight_files
from captioner.encoders.base import CNN
from captioner.errors import InputError
from captioner.images import Preprocess


class Torchvision(CNN):
    """torchvision's ResNet, ResNeXt, DenseNet, VGG, MobileNet, EfficientNet, ConvNeXt ... by name.

    pretrained: torchvision's default weights, which it downloads on first use.
    weights: a file in torchvision's own names. train, image_size, resize, pool: as for `Timm`.
    """

    def __init__(
        self,
        name: str = "resnet101",
        pretrained: bool = False,
        weights: str | None = None,
        train: str | int = "none",
        image_size: int = 224,
        resize: str = "squash",
        pool: str | Sequence[int] = "mean",
    ):
        from torchvision import models

        if name not in models.list_models(models):
            raise InputError(f"encoder.name={name}: no such model in torchvision.models")
        create = partial(models.get_model, name, weights="DEFAULT" if pretrained else None)
        model = weight_files.build(create, name, pretrained, weights)
        if isinstance(features := getattr(model, "features", None), nn.Sequential):
            stages = features
        elif isinstance(model, models.ResNet):
            stages = nn.Sequential(
                nn.Sequential(model.conv1, model.bn1, model.relu, model.maxpool),
                *(model.layer1, model.layer2, model.layer3, model.layer4),
            )
        else:
            raise InputError(
                f"encoder.name={name}: its last feature map is not known; "
                "take a ResNet, a model with `features`, or timm's version"
            )
        side = min(image_size, 224)  # the number of channels does not depend on it
        with torch.no_grad():
            channels = stages.eval()(torch.zeros(1, 3, side, side)).shape[1]
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        preprocess = Preprocess(image_size, resize, 1.0, "bilinear", mean, std)
        parameters = [list(stage.parameters()) for stage in stages]
        super().__init__(stages, channels, [p for p in parameters if p], preprocess, train, pool)

    def stage_maps(self, trunk: nn.Module, pixels_B3SS: Tensor) -> list[Tensor]:
        maps = {}  # the last one of every resolution
        x = pixels_B3SS
        for layer in trunk.children():
            x = layer(x)
            maps[x.shape[2:]] = x
        return list(maps.values())
