"""The contract of all encoders: pictures -> Features.

    encoder.size                D, the width of v
    encoder.preprocess          turns a picture into the tensor that this CNN expects
    encoder(pixels, grid)       (B, 3, S, S) -> Features(pooled_BD, grid_BRD or None)
    encoder.look(pixels, grid)  what of it can be cached: without concepts the same

A CNN's `train` says how much of it is trained: "none" (frozen), "all", or an integer, the number of
its last stages. Batch-norm statistics do not change in modules whose weights are frozen.

Its `pool` says what v is. "mean": the mean of the last map, which keeps what is seen but not where.
A list of sides, such as [1, 2]: a spatial pyramid (Lazebnik 2006), the maxima of each channel in
the bins of grids of 1 x 1 and 2 x 2 (as He 2014 pools), over the maps of all stages: late ones tell
shapes, early ones the colours that a classifier learns to ignore (LOG.md). D is 1 + 4 times the
channels of all these maps. There are no regions then: decoders with attention need "mean".
"""

import hashlib
from collections.abc import Callable, Sequence

import torch
from PIL.Image import Image
from torch import Tensor, nn
from torch.nn.functional import adaptive_max_pool2d

from captioner.encoders.concepts import Concepts, Words, join_classifiers
from captioner.encoders.fusion import fuse_batch_norms
from captioner.errors import InputError
from captioner.images import Preprocess
from captioner.types import Features, PerMember


def pyramid(map_BDhw: Tensor, sides: Sequence[int]) -> Tensor:
    """Return the maxima in the bins of grids with these sides, (B, D * the number of bins)."""
    return torch.cat([adaptive_max_pool2d(map_BDhw, side).flatten(1) for side in sides], dim=1)


class CNN(nn.Module):
    """A backbone's last feature map and v; subclasses say where the backbone comes from.

    channels: of the last map. stages: the backbone's parameters from input to output, in the groups
    that `train=n` counts. pool: "mean", or the sides of a pyramid's grids. concepts: the words of
    those that are appended to the mean (see `Concepts`, also for style), D = seen_size + X.
    classifiers: those of the backbone's models, for ImageNet's classes.

    Raises InputError if `train` is neither "none", "all" nor 1 .. len(stages); if `pool` is neither
    "mean" nor sides that fit the last map; if there are concepts, for anything but a frozen mean.
    """

    def __init__(
        self,
        trunk: nn.Module,
        channels: int,
        stages: list[list[nn.Parameter]],
        preprocess: Preprocess,
        train: str | int,
        pool: str | Sequence[int] = "mean",
        concepts: Words | None = None,
        classifiers: Sequence[nn.Linear] = (),
        style: str | None = None,
    ):
        super().__init__()
        self.trunk, self.preprocess = trunk, preprocess
        self.concepts = self.classifier = None
        if concepts is not None:
            if (train, pool) != ("none", "mean"):
                wrong = f"encoder.train={train} encoder.pool={pool}"
                raise InputError(f"encoder.concepts with {wrong}: give train=none pool=mean")
            self.concepts = Concepts(concepts, channels, style)
            self.classifier = join_classifiers(classifiers)
        self._fused: list[nn.Module] = []  # one or none; in a list, since it is no submodule
        self.sides = () if pool == "mean" else _check_sides(pool)
        self.seen_size = self._pyramid_size() if self.sides else channels
        self.size = self.seen_size + len(concepts or ())
        if train != "none":
            used = self._used_parameters()
            in_use = ([p for p in stage if p in used] for stage in stages)
            stages = [stage for stage in in_use if stage]
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
        self.register_load_state_dict_post_hook(_unfuse)

    def _pyramid_size(self) -> int:
        side = self.preprocess.size
        with torch.no_grad():
            maps = self.eval().stage_maps(self.trunk, torch.zeros(1, 3, side, side))
        smallest, sides = min(maps[-1].shape[2:]), list(self.sides)
        if max(sides) > smallest:
            raise InputError(
                f"encoder.pool={sides}: the last map's side is {smallest}: give no larger ones"
            )
        return sum(m.shape[1] for m in maps) * sum(side**2 for side in sides)

    def _used_parameters(self) -> set[nn.Parameter]:
        """The parameters that the feature map depends on: a head's are in the trunk, but unused."""
        parameters = list(self.trunk.parameters())
        side = self.preprocess.size
        with torch.enable_grad():
            last = self.eval().look(torch.zeros(1, 3, side, side)).pooled_BD.sum()
        gradients = torch.autograd.grad(last, parameters, allow_unused=True)
        return {p for p, gradient in zip(parameters, gradients) if gradient is not None}

    def train(self, mode: bool = True) -> "CNN":
        """Training mode for the stages that train; a frozen one keeps its statistics."""
        super().train(mode)
        for module in self.trunk.modules():
            parameters = list(module.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                module.eval()
        return self

    def feature_map(self, trunk: nn.Module, pixels_B3SS: Tensor) -> Tensor:
        """Return the trunk's last map, (B, D, h, w)."""
        return trunk(pixels_B3SS)

    def stage_maps(self, trunk: nn.Module, pixels_B3SS: Tensor) -> list[Tensor]:
        """Return the maps of all stages, from input to output: those that a pyramid pools."""
        return [self.feature_map(trunk, pixels_B3SS)]

    def fuse(self) -> None:
        """Compute features with batch-norms fused into their convolutions from now on, if frozen.

        To be called when the weights are final. Loading others ends it; another type of numbers
        repeats it. Weights, digests and what is saved stay those of the network as it was.
        """
        if not self.frozen:
            return
        weight, side = next(self.parameters(), torch.zeros(0)), self.preprocess.size
        noise_13SS = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
        noise_13SS = noise_13SS.to(weight.device, weight.dtype, memory_format=torch.channels_last)
        with torch.no_grad():
            self._fused[:] = [fuse_batch_norms(self.trunk, self.feature_map, noise_13SS)]

    def _apply(self, fn: Callable, recurse: bool = True) -> "CNN":  # of `to`, `double`, `cuda`
        before = [p.dtype for p in self.parameters()]
        super()._apply(fn, recurse)
        if [p.dtype for p in self.parameters()] == before:
            for network in self._fused:
                network._apply(fn)
        elif self._fused:
            self.fuse()
        return self

    def forward(self, images: Tensor | Features, grid: bool = False) -> Features:
        """Normalised pixels (B, 3, S, S), or what `look` made of them -> Features.

        Features that are complete are handed on.
        """
        features = images if isinstance(images, Features) else self.look(images, grid)
        v_BD = features.pooled_BD
        if self.concepts is None or self.classifier is None or v_BD.shape[1] == self.size:
            return features
        class_BK = self.classifier(v_BD).softmax(1)
        return features._replace(pooled_BD=self.concepts(v_BD, class_BK))

    def look(self, pixels_B3SS: Tensor, grid: bool = False) -> Features:
        """Normalised pixels -> Features; the last map's cells, row by row, are the regions.

        Raises InputError if the backbone's output is not a map of the right number of channels, and
        for the regions of a pyramid.
        """
        pixels_B3SS = pixels_B3SS.contiguous(memory_format=torch.channels_last)
        trunk = self._fused[0] if self._fused and not torch.is_grad_enabled() else self.trunk
        if grid and (self.sides or self.concepts is not None):
            raise InputError(
                "this decoder looks at the regions of the last map: give encoder.pool=mean and "
                "encoder.concepts=null"
            )
        if self.sides:
            maps = self.stage_maps(trunk, pixels_B3SS)
            return Features(torch.cat([pyramid(m, self.sides) for m in maps], dim=1))
        map_BDhw = self.feature_map(trunk, pixels_B3SS)
        if map_BDhw.ndim != 4 or map_BDhw.shape[1] != self.seen_size:
            raise InputError(
                f"the backbone gives {tuple(map_BDhw.shape)}, not (B, {self.seen_size}, h, w): "
                "it is not a CNN that can serve as encoder"
            )
        pooled_BD = map_BDhw.mean(dim=(2, 3))
        return Features(pooled_BD, map_BDhw.flatten(2).transpose(1, 2) if grid else None)

    def fingerprint(self) -> str:
        """Return a digest of the class, the trunk's modules, `pool`, weights and statistics."""
        pool = f" {self.sides}" if self.sides else ""  # the mean's digests are older than this
        return self._digest(
            f"{type(self).__name__} {self.seen_size} {self.trunk!r}{pool}", "trunk."
        )

    def weights(self) -> str:
        """Return a digest of the weights and statistics alone, without what `concepts` learns."""
        return self._digest("", ("trunk.", "classifier."))

    def _digest(self, head: str, prefixes: str | tuple[str, ...]) -> str:
        digest = hashlib.sha256(head.encode())
        for name, tensor in sorted(self.state_dict().items()):
            if not name.startswith(prefixes):
                continue
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        return digest.hexdigest()


def _check_sides(pool: str | Sequence[int]) -> tuple[int, ...]:
    sides: tuple[int, ...] = ()
    if isinstance(pool, Sequence) and not isinstance(pool, str):
        sides = tuple(pool)
    if not sides or any(type(side) is not int or side < 1 for side in sides):
        raise InputError(
            f"encoder.pool={pool}: give mean, or the sides of a pyramid's grids, as [1, 2]"
        )
    return sides


def _unfuse(encoder: CNN, keys: object) -> None:
    """Go back to the network itself, whose weights were just loaded."""
    encoder._fused.clear()


class Blind(CNN):
    """v = 0 whatever the picture: what a decoder reaches from the language of captions alone.

    The baseline that any captioner must beat to show that it uses the image. `size` is D.
    """

    def __init__(self, size: int = 1280):
        if not 1 <= size <= 2**20:
            raise InputError(f"encoder.size={size}: give 1 to {2**20}")
        super().__init__(nn.Identity(), size, [], Preprocess(size=1), "none")

    def feature_map(self, trunk: nn.Module, pixels_B3SS: Tensor) -> Tensor:
        return pixels_B3SS.new_zeros(len(pixels_B3SS), self.size, 1, 1)


class Encoders(nn.Module):
    """The encoders of an ensemble's members, each with its own preprocessing."""

    def __init__(self, members: Sequence[CNN]):
        super().__init__()
        self.members: Sequence[CNN] = nn.ModuleList(members)  # type: ignore[assignment]
        self.frozen = all(member.frozen for member in members)

    def preprocess(self, picture: Image) -> PerMember:
        """An RGB picture as each member expects it."""
        return PerMember(member.preprocess(picture) for member in self.members)

    def fuse(self) -> None:
        """See CNN.fuse."""
        for member in self.members:
            member.fuse()

    def forward(self, pixels: PerMember, grid: Sequence[bool]) -> PerMember:
        """Each member's pixels, or what it made of them -> each member's Features."""
        return PerMember(member(x, g) for member, x, g in zip(self.members, pixels, grid))
