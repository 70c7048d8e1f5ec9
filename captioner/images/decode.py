"""Decode the bytes of a picture into an upright, opaque RGB picture with 8 bits per channel.

Pillow opens every picture, and no other file of the package calls it to do so.
"""

import ctypes
import io
import logging
import math
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageOps

from captioner.errors import InputError, os_reason, printable
from captioner.images.headers import check_png_rows, checked_header

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
"""Formats that Pillow may try. An MPO file of a phone is a JPEG whose first picture counts."""
MAX_BYTES = 512 * 2**20  # of the largest file that is read
MAX_PIXELS = 64 * 2**20  # of the largest picture that is decoded: 192 MB as RGB
MAX_ASPECT = 1000  # beyond this ratio of the sides, resizing the shorter makes the longer one huge

# Pillow's warnings do not name the picture: of its metadata, or before our error.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)
with suppress(OSError, AttributeError):  # libtiff writes to stderr itself
    _libtiff = ctypes.CDLL(Image.core.__file__)
    _libtiff.TIFFSetErrorHandler(None)
    _libtiff.TIFFSetWarningHandler(None)


class ImageError(InputError):
    """One picture cannot be used. The message is one line: the file and the reason."""


Bytes: TypeAlias = bytes | bytearray | memoryview
Source: TypeAlias = str | os.PathLike | Bytes | Image.Image | np.ndarray
"""What `read_image` takes."""


def read_image(source: Source, name: str | None = None) -> Image.Image:
    """Return a picture as `decode_image` does: of a file's path, its bytes, a picture of Pillow's,
    or an array (H, W, 3) of uint8. Raises ImageError, beginning with `name` (default: the path).
    """
    if isinstance(source, str | os.PathLike):
        path = os.fsdecode(source)
        return decode_image(read_bytes(path), name or path)
    if isinstance(source, Bytes):
        return decode_image(bytes(source), name or "image bytes")
    if not isinstance(source, Image.Image | np.ndarray):
        kinds = "a path, bytes, a PIL image or an array"
        raise InputError(f"{name or 'image'}: {type(source).__name__} is no picture: give {kinds}")
    with _naming(name or "image"):
        if isinstance(source, np.ndarray):
            if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3:
                got = f"an array {source.shape} of {source.dtype}"
                raise _Refused(f"{got}: give (height, width, 3) of uint8")
            source = Image.fromarray(np.ascontiguousarray(source))
        _check_size(source)
        return _upright_rgb(source.copy())


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Return the bytes of a regular file of at most MAX_BYTES. Raises ImageError.

    Anything else is refused before it is opened: reading a FIFO would wait for ever.
    """
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            os.scandir(path).close()  # a folder that may not be read is reported as such
            raise _error(path, "a folder, not a regular file: give the pictures in it")
        if not stat.S_ISREG(status.st_mode):
            raise _error(path, "not a regular file: copy it into one")
        if status.st_size > MAX_BYTES:
            raise _error(path, f"{status.st_size:,} bytes; {MAX_BYTES:,} at most: make it smaller")
        return Path(path).read_bytes()
    except ImageError:
        raise
    except OSError as error:
        raise _error(path, os_reason(error)) from error
    except ValueError as error:  # a NUL in the path
        raise _error(path, str(error)) from error


def decode_image(data: bytes, name: str = "image bytes") -> Image.Image:
    """Return the picture in `data` in mode RGB, upright, opaque, with 8 bits per channel.

    EXIF rotation is applied, transparency is composited on white, 16-bit and float pixels are
    scaled, CMYK is converted; the first frame of an animation counts. The size is checked on the
    header: a picture that is refused is never decoded.

    Raises ImageError, beginning with `name`, if the data is not a complete picture in one of
    FORMATS, or has more than MAX_PIXELS pixels.
    """
    with _naming(name, data):
        data = checked_header(data)
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image)
            if image.format == "PNG":
                check_png_rows(data)
            return _upright_rgb(image)


class _Refused(ValueError):
    """Why a picture is not used, and what to do about it."""


@contextmanager
def _naming(name: str, data: bytes = b"") -> Iterator[None]:
    """Turn whatever a decoder raises into an ImageError with the picture's name."""
    try:
        yield
    except MemoryError:  # not the file's fault
        raise
    except _Refused as error:
        raise _error(name, str(error)) from error
    except Image.UnidentifiedImageError as error:
        if _is_known(data):
            raise _error(name, "not a whole picture: save or copy it again") from error
        formats = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        begin = f"begins with {data[:16]!r}: save it as {formats}"
        raise _error(name, begin if data else "empty: copy it again") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _error(name, f"too many pixels; {MAX_PIXELS:,} at most: make it smaller") from error
    except Exception as error:  # for a broken file Pillow raises nearly anything
        reason = str(error) or type(error).__name__
        raise _error(name, f"not a whole picture ({reason}): save or copy it again") from error


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    size = f"{width} x {height} pixels"
    if width * height == 0:
        raise _Refused(f"{size}: give a picture that has some")
    if width * height > MAX_PIXELS:
        raise _Refused(f"{size}; {MAX_PIXELS:,} at most: make it smaller")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise _Refused(f"{size}: one side is over {MAX_ASPECT} times the other: crop it")


def _is_known(data: bytes) -> bool:
    """Whether the file begins as one of FORMATS does."""
    tests = [Image.OPEN[form][1] for form in FORMATS]
    return any(test is not None and test(data[:16]) is True for test in tests)


def _upright_rgb(image: Image.Image) -> Image.Image:
    image.load()
    with suppress(Exception):  # it turns the pixels, then rewrites EXIF of any kind
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_eight_bit(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def _eight_bit(pixels: np.ndarray) -> np.ndarray:
    """Return grey pixels of 16 bits (white is 65535) or floats (white is 1) as 8 bits.

    If some are outside, white is unknown, and the range from darkest to brightest is stretched.
    """
    white = 1.0 if pixels.dtype.kind == "f" else 65535.0
    low, high = float(pixels.min()), float(pixels.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("pixels that are not finite numbers")
    if low >= 0 and high <= white:
        low, high = 0.0, white
    eight = np.empty(pixels.shape, np.uint8)
    for row, row_of_eight in zip(pixels, eight):  # a row at a time: float64 takes much memory
        unit = (row.astype(np.float64) - low) / max(high - low, 1e-30)  # float32 could overflow
        row_of_eight[:] = np.rint(255 * unit)
    return eight


def _error(name: str | os.PathLike[str], reason: str) -> ImageError:
    return ImageError(f"{printable(name)}: {' '.join(reason.split())}")
