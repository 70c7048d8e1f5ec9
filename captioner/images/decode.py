"""From the bytes of a picture to the tensor that an encoder reads.

    bytes --decode--> RGB picture --Preprocess.resize, or Augment--> square --normalise--> tensor

Pillow opens every picture, and nothing else in the package does. There is no global state.
"""

import io
import math
import os
import stat
import struct
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from captioner.errors import InputError, printable

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
"""What Pillow may try. Phones' MPO files are JPEGs whose first picture is the photograph."""

MAX_PIXELS = 64 * 2**20
"""Largest picture that is decoded: 64 megapixels, 192 MB as RGB."""

# Pillow's warning comes before our error, and without the name of the picture.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

MAX_BYTES = 512 * 2**20
"""Largest file that is read."""

MAX_ASPECT = 1000
"""Longest side over shortest: beyond it, resizing the shorter side makes a giant of the longer."""

PILLOW_ERRORS = (
    OSError,  # unknown format, truncated file, broken stream
    SyntaxError,  # broken PNG chunk or TIFF header
    ValueError,  # impossible sizes and modes
    TypeError,  # TIFF tags of the wrong type
    LookupError,
    ArithmeticError,
    EOFError,
    NotImplementedError,
    struct.error,
    zlib.error,
    Warning,  # where the caller has made warnings errors
)
"""What Pillow 12 and 13 raise on broken files. Not MemoryError, which says nothing about them."""

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

ADAM7 = "0088 4088 0448 2044 0224 1022 0112"
"""The seven passes of an interlaced PNG: first column, first row, column step, row step."""


class ImageError(InputError):
    """One picture cannot be used. The message is one line: the file and the reason."""


def read_image(source: Path | str | bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture in a file or in bytes, as `decode` gives it. Raises ImageError."""
    if isinstance(source, bytes):
        return decode(source, max_pixels=max_pixels)
    return decode(read_bytes(source), str(source), max_pixels)


def read_bytes(path: Path | str) -> bytes:
    """The bytes of a regular file of at most MAX_BYTES. Raises ImageError.

    Anything else is refused before it is opened: reading a FIFO would wait for ever.
    """
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            os.scandir(path).close()  # may we see what is in it?
            reason = "a folder, not a regular file: give the pictures in it"
            raise ImageError(_message(path, reason))
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(_message(path, "not a regular file: copy it into one"))
        if status.st_size > MAX_BYTES:
            reason = f"{status.st_size:,} bytes; {MAX_BYTES:,} at most: make it smaller"
            raise ImageError(_message(path, reason))
        return Path(path).read_bytes()
    except OSError as error:
        raise ImageError(_message(path, error.strerror or str(error))) from error
    except ValueError as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(_message(path, str(error))) from error  # a NUL in the path


def decode(data: bytes, name: str = "image bytes", max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture in `data` in mode RGB, upright, opaque, 8 bits per channel.

    EXIF rotation is applied, transparency composited on white, 16-bit and float pixels scaled,
    CMYK converted; of an animation the first frame counts. The size is checked on the header:
    a picture that is refused is never decoded.

    Raises:
        ImageError: the data is not a whole picture in one of FORMATS, or has more than
            `max_pixels` pixels. The message begins with `name`.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                reason = f"{width} x {height} pixels; {max_pixels:,} at most: make it smaller"
                raise ImageError(_message(name, reason))
            if max(width, height) > MAX_ASPECT * min(width, height):
                reason = f"one side is over {MAX_ASPECT} times the other: crop it"
                raise ImageError(_message(name, f"{width} x {height} pixels: {reason}"))
            if image.format == "PNG":
                _check_png(data, width, height)
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return _rgb(image)
    except ImageError:
        raise
    except Image.UnidentifiedImageError as error:
        reason = "empty: copy it again"
        if data:
            reason = (
                f"begins with {data[:16]!r}: save it as {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
            )
        raise ImageError(_message(name, reason)) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        reason = f"too many pixels; {max_pixels:,} at most: make it smaller"
        raise ImageError(_message(name, reason)) from error
    except PILLOW_ERRORS as error:
        reason = (
            f"not a whole picture ({str(error) or type(error).__name__}): save or copy it again"
        )
        raise ImageError(_message(name, reason)) from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_eight_bit(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _eight_bit(pixels: np.ndarray) -> np.ndarray:
    """Grey pixels of 16 bits (white 65535) or floats (white 1), as 8 bits.

    Where they leave that range white is unknown, and their own range is stretched.
    """
    white = 1.0 if pixels.dtype.kind == "f" else 65535.0
    low, high = float(pixels.min()), float(pixels.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("pixels that are not finite numbers")
    if low >= 0 and high <= white:
        low, high = 0.0, white
    unit = (pixels.astype(np.float32) - low) / max(high - low, 1e-30)
    return np.rint(255 * unit).astype(np.uint8)


def _check_png(data: bytes, width: int, height: int) -> None:
    """Raise on what Pillow lets pass: a wrong CRC, and pixel data that ends early (black rows)."""
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        image.verify()
    bits, colour, interlaced = data[24], data[25], data[28]
    bits *= {2: 3, 4: 2, 6: 4}.get(colour, 1)
    missing = 0
    for one_pass in (ADAM7 if interlaced else "0011").split():
        x, y, dx, dy = map(int, one_pass)
        columns, rows = -((x - width) // dx), -((y - height) // dy)
        if columns > 0 and rows > 0:
            missing += rows * (1 + math.ceil(columns * bits / 8))
    inflate = zlib.decompressobj()
    position = 8
    while missing > 0 and position < len(data):
        length, kind = struct.unpack(">I4s", data[position : position + 8])
        compressed = data[position + 8 : position + 8 + length] if kind == b"IDAT" else b""
        while compressed and missing > 0:
            missing -= len(inflate.decompress(compressed, 2**20))
            compressed = inflate.unconsumed_tail
        position += length + 12
    if missing > 0:
        raise OSError(f"pixel data ends {missing} bytes early")


def _message(name: Path | str, reason: str) -> str:
    return f"{printable(name)}: {' '.join(reason.split())}"


@dataclass(frozen=True)
class Preprocess:
    """An RGB picture as the float32 tensor (3, size, size) that an encoder was trained on.

    mode "squash" resizes both sides to `size`; "crop" resizes the shorter side to
    floor(size / crop_pct) and keeps the middle: the pixels of timm's and torchvision's
    evaluation transforms on Pillow pictures. Part of a model's config.json, by `asdict`.
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
        whole = isinstance(self.size, int) and self.size > 0
        _require(whole, "size", self.size, "a whole number, 1 or more")
        _require(self.mode in ("squash", "crop"), "mode", self.mode, "squash or crop")
        share = _numbers([self.crop_pct]) and 0 < self.crop_pct <= 1
        _require(share, "crop_pct", self.crop_pct, "above 0 and at most 1")
        _require(
            self.interpolation in FILTERS, "interpolation", self.interpolation, " or ".join(FILTERS)
        )
        three = {name: _numbers(getattr(self, name), 3) for name in ("mean", "std")}
        _require(three["mean"], "mean", self.mean, "three numbers")
        _require(three["std"] and min(self.std) > 0, "std", self.std, "three above 0")

    def __call__(self, image: Image.Image) -> Tensor:
        return self.normalise(self.resize(image))

    def resize(
        self, image: Image.Image, box: tuple[float, float, float, float] | None = None
    ) -> Image.Image:
        """The square of `size` that the model sees, or `box` (left, top, right, bottom) squashed.

        Raises InputError where the picture's mode is not RGB, as `read` gives it.
        """
        _require(image.mode == "RGB", "picture mode", image.mode, "RGB, as images.read gives it")
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
        return image.resize((width, height), method).crop((left, top, left + size, top + size))

    def normalise(self, square: Image.Image) -> Tensor:
        """(pixels / 255 - mean) / std, channels first. By NumPy, which starts no threads."""
        pixels = np.ascontiguousarray(np.array(square, np.float32).transpose(2, 0, 1))
        pixels /= 255
        pixels -= np.array(self.mean, np.float32)[:, None, None]
        pixels /= np.array(self.std, np.float32)[:, None, None]
        return torch.from_numpy(pixels)


@dataclass(frozen=True)
class Augment:
    """A random view of a picture for training: a crop and a change of colour.

    min_area: smallest share of the picture that a crop keeps; the largest is all of it.
    stretch: a crop's aspect ratio is that of the evaluation view times 1/stretch to stretch.
    colour: brightness, contrast and saturation are each multiplied by 1 - colour to 1 + colour.
    flip: probability of mirroring. 0, because captions say left and right.
    """

    min_area: float = 0.7
    stretch: float = 4 / 3
    colour: float = 0.2
    flip: float = 0.0

    def __post_init__(self) -> None:
        _require(0 < self.min_area <= 1, "min_area", self.min_area, "above 0 and at most 1")
        _require(self.stretch >= 1, "stretch", self.stretch, "1 or more")
        _require(0 <= self.colour < 1, "colour", self.colour, "0 or more and below 1")
        _require(0 <= self.flip <= 1, "flip", self.flip, "a probability")

    def __call__(self, image: Image.Image, preprocess: Preprocess, seed: int) -> Image.Image:
        """The square view number `seed` of an RGB picture: the same on every call.

        The numbers come from a generator of this call. torchvision's transform classes draw from
        the global one, which threads would share; so only its functions are used.
        """
        # Imported here because it is slow, and captioning needs none of it.
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
    """torch.stack without torch's threads, of which each reader would start its own."""
    return torch.from_numpy(np.stack([view.numpy() for view in views]))


def view(
    image: Image.Image, preprocess: Preprocess, augment: Augment | None = None, seed: int = 0
) -> Tensor:
    """The tensor (3, size, size) of one view: with `augment`, number `seed`; without, the one that
    evaluation sees."""
    if augment is None:
        return preprocess(image)
    return preprocess.normalise(augment(image, preprocess, seed))


def _numbers(values: Sequence[object], count: int = 1) -> bool:
    return len(values) == count and all(isinstance(value, int | float) for value in values)


def _require(true: bool, name: str, value: object, wanted: str) -> None:
    if not true:
        raise InputError(f"{name} is {value!r}; it must be {wanted}")
