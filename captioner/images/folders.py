"""The pictures in a folder, found by the endings of names or, without one, by first bytes."""

import re
from collections.abc import Iterable
from pathlib import Path

from captioner.paths import files_below, is_litter

ENDINGS = frozenset(
    """.apng .arw .avif .bmp .cr2 .cr3 .dib .dng .gif .heic .heif .ico .jfif .jp2 .jpe .jpeg .jpg
    .jxl .nef .orf .pbm .pfm .pgm .png .pnm .ppm .psd .raf .raw .rw2 .svg .tga .tif .tiff
    .webp""".split()
)
"""Endings that promise a picture. One that cannot be read is reported, not passed over."""

SIGNATURES = re.compile(
    rb"""\xff\xd8\xff | \x89PNG\r\n\x1a\n | GIF8[79]a | RIFF....WEBP | II[*+]\0 | MM\0[*+]
    | BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0  # and the size of one of the known headers
    | P[1-6f]\s(?:\s|\#[^\n]*\n)*+\d+\s(?:\s|\#[^\n]*\n)*+\d+\s  # and width and height
    | ....ftyp(?:hei|hev|mif1|msf1|avi[fs]) | \0\0\0\x0c(?:JXL|jP)\x20 | \xff\x0a | 8BPS\0""",
    re.DOTALL | re.VERBOSE,
)
"""How pictures begin: those that can be read, then HEIC, AVIF, JPEG XL, JPEG 2000, Photoshop."""


def find_pictures(places: Iterable[Path]) -> tuple[list[Path], int]:
    """Return the pictures among files, in folders and below them, sorted; and how many files are
    none, apart from litter.

    Files that only promise to be a picture, files that may not be opened, and folders that may not
    be listed are among the pictures: reading them tells what is wrong.
    """
    pictures: set[Path] = set()
    paths: set[Path] = set()
    for place in places:
        if place.is_dir():
            paths.update(files_below(place, lambda error: pictures.add(Path(error.filename))))
        elif not is_litter(place):
            paths.add(place)
    pictures |= set(filter(is_picture, paths))
    return sorted(pictures), len(paths - pictures)


def is_picture(path: Path) -> bool:
    """Whether a file is a picture by its ending or its first bytes, or may not be opened."""
    if path.suffix.lower() in ENDINGS:
        return True
    try:
        if not path.is_file():  # opening a FIFO would wait for ever
            return False
        with open(path, "rb") as file:
            return SIGNATURES.match(file.read(512)) is not None
    except OSError:
        return True
