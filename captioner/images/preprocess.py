"""Turn an RGB picture into the tensor that an encoder reads, with or without augmentation.

    RGB picture --Preprocess.resize, or Augment--> square picture --normalise--> (3, size, size)

No function here draws from a global random generator, so threads may call all of them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from captioner.errors import InputError

MAX_SIDE = 2048
"""Pixels of a side of what an encoder sees."""
MAX_PIXELS = 64 * 2**20
"""Of a picture that is resized as a whole before its middle is cut out."""
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class Preprocess:
    """Turns an RGB picture into the float32 tensor (3, size, size) that an encoder expects.

    mode "squash" resizes both sides to `size`; "crop" resizes the shorter side to
    floor(size / crop_pct) and keeps the middle. The pixels equal those of timm's and torchvision's
    evaluation transforms of Pillow pictures. A model's config.json holds it, via `asdict`.
    """

    size: int = 224
    mode: str = "squash"
    crop_pct: float = 1.0
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        for name in ("mean", "std"):  # JSON and YAML give lists
            object.__setattr__(self, name, tuple(getattr(self, name)))
        small = isinstance(self.size, int) and 0 < self.size <= MAX_SIDE
        _require(small, self, "size", f"a whole number from 1 to {MAX_SIDE}")
        _require(self.mode in ("squash", "crop"), self, "mode", "squash or crop")
        fraction = _are_numbers([self.crop_pct], 1) and 0.1 <= self.crop_pct <= 1
        _require(fraction, self, "crop_pct", "at least 0.1 and at most 1")
        _require(self.interpolation in FILTERS, self, "interpolation", " or ".join(FILTERS))
        _require(_are_numbers(self.mean, 3), self, "mean", "three numbers")
        positive = _are_numbers(self.std, 3) and min(self.std) >= 1e-6
        _require(positive, self, "std", "three numbers, each 1e-6 or more")

    def __call__(self, image: Image.Image) -> Tensor:
        return self.normalise(self.resize(image))

    def resize(
        self, image: Image.Image, box: tuple[float, float, float, float] | None = None
    ) -> Image.Image:
        """Return the square that the model sees, or `box` (left, top, right, bottom) squashed.

        Raises InputError if the picture's mode is not RGB, as of `read_image`.
        """
        _require(image.mode == "RGB", image, "mode", "RGB, see images.read_image")
        method, size = FILTERS[self.interpolation], self.size
        if box is not None or self.mode == "squash":
            return image.resize((size, size), method, box)
        width, height = image.size
        short = math.floor(size / self.crop_pct)
        if width < height:
            width, height = short, int(short * height / width)
        else:
            width, height = int(short * width / height), short
        left, top = round((width - size) / 2), round((height - size) / 2)
        if width * height > MAX_PIXELS:  # only the middle is made, from a box in float32
            x, y = image.width / width, image.height / height
            box = left * x, top * y, (left + size) * x, (top + size) * y
            return image.resize((size, size), method, box)
        return image.resize((width, height), method).crop((left, top, left + size, top + size))

    def normalise(self, square: Image.Image) -> Tensor:
        """Return (pixels / 255 - mean) / std, channels first. NumPy starts no threads for it."""
        pixels = np.ascontiguousarray(np.array(square, np.float32).transpose(2, 0, 1))
        pixels /= 255
        pixels -= np.array(self.mean, np.float32)[:, None, None]
        pixels /= np.array(self.std, np.float32)[:, None, None]
        return torch.from_numpy(pixels)


@dataclass(frozen=True)
class Augment:
    """Random crops and changes of colour, for training.

    min_area: smallest fraction of the picture's area that a crop keeps; the largest is 1.
    stretch: a crop's aspect ratio is that of the evaluation view times 1/stretch to stretch.
    colour: brightness, contrast and saturation are each multiplied by 1 - colour to 1 + colour.
    flip: probability of mirroring. 0, because captions say left and right.
    """

    min_area: float = 0.7
    stretch: float = 4 / 3
    colour: float = 0.2
    flip: float = 0.0

    def __post_init__(self) -> None:
        _require(0 < self.min_area <= 1, self, "min_area", "above 0 and at most 1")
        _require(self.stretch >= 1, self, "stretch", "1 or more")
        _require(0 <= self.colour < 1, self, "colour", "0 or more and below 1")
        _require(0 <= self.flip <= 1, self, "flip", "a probability")

    def __call__(self, image: Image.Image, preprocess: Preprocess, seed: int) -> Image.Image:
        """Return the square view of an RGB picture that `seed` determines."""
        # torchvision's functions only: its classes draw from a generator that threads would share.
        # Imported here because it is slow, and captioning does not need it.
        from torchvision.transforms.v2 import functional

        area, stretch, x, y, mirror, *colours = torch.rand(
            8, generator=torch.Generator().manual_seed(seed)
        ).tolist()
        width, height = image.size
        aspect = width / height if preprocess.mode == "squash" else 1.0
        aspect *= self.stretch ** (2 * stretch - 1)
        area = width * height * (self.min_area + area * (1 - self.min_area))
        crop_width = min(width, math.sqrt(area * aspect))
        crop_height = min(height, math.sqrt(area / aspect))
        left, top = x * (width - crop_width), y * (height - crop_height)
        view = preprocess.resize(image, (left, top, left + crop_width, top + crop_height))
        if mirror < self.flip:
            view = functional.horizontal_flip(view)
        brightness, contrast, saturation = (1 + self.colour * (2 * c - 1) for c in colours)
        view = functional.adjust_brightness(view, brightness)
        view = functional.adjust_contrast(view, contrast)
        return functional.adjust_saturation(view, saturation)


def stack(views: Sequence[Tensor]) -> Tensor:
    """Stack like torch.stack, but without torch's threads: every reader would start its own."""
    return torch.from_numpy(np.stack([tensor.numpy() for tensor in views]))


def view(
    image: Image.Image, preprocess: Preprocess, augment: Augment | None = None, seed: int = 0
) -> Tensor:
    """Return the evaluation view or, with `augment`, the view number `seed`: (3, size, size)."""
    if augment is None:
        return preprocess(image)
    return preprocess.normalise(augment(image, preprocess, seed))


def _are_numbers(values: Sequence[object], count: int) -> bool:
    numbers = all(isinstance(value, int | float) and abs(value) <= 1e6 for value in values)
    return len(values) == count and numbers


def _require(condition: bool, owner: object, name: str, wanted: str) -> None:
    if not condition:
        raise InputError(f"{name} is {getattr(owner, name)!r}; it must be {wanted}")
