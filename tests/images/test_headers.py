"""Pixels count, metadata do not; what stands before the pixels has a limit, found in no time."""

import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageFile
from PIL.PngImagePlugin import PngInfo

from captioner import images
from captioner.images import ImageError
from captioner.images.headers import MAX_PIECES
from tests.helpers.pictures import PHOTO, ROWS, chunk, encode, png

JPEG, GIF = encode(PHOTO, "JPEG"), encode(PHOTO.convert("P"), "GIF")
EXIF = Image.Exif()
EXIF[0x0112] = 6  # a quarter turn
FIRST_BLOCK = 13 + (6 << (GIF[10] & 7))  # behind the palette


def ifd(*entries: tuple[int, int, int, bytes]) -> bytes:
    """EXIF of these tags: number, type, count, four bytes."""
    tags = b"".join(struct.pack(">HHI", *entry[:3]) + entry[3] for entry in entries)
    return b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", len(entries)) + tags + bytes(4)


TURNED = (0x0112, 3, 1, b"\0\6\0\0")
X_RESOLUTION = 0x011A
ODD_EXIF = {
    "resolution as SHORT": ifd(TURNED, (X_RESOLUTION, 3, 1, b"\0\1\0\0")),
    "resolution as ASCII": ifd(TURNED, (X_RESOLUTION, 2, 4, b"abc\0")),
    "a rational of -1/0": ifd(TURNED, (0x9204, 10, 1, b"\0\0\0\x08")),
}


@pytest.mark.parametrize("exif", ODD_EXIF.values(), ids=ODD_EXIF)
def test_a_jpeg_is_turned_whatever_else_its_exif_holds(exif):
    upright = images.decode_image(encode(PHOTO, "JPEG", exif=EXIF))
    assert upright.size == PHOTO.size[::-1]
    assert images.decode_image(encode(PHOTO, "JPEG", exif=exif)).tobytes() == upright.tobytes()


def test_warnings_of_pillow_which_name_no_picture_are_not_shown(tmp_path):
    path = tmp_path / "cut.jpg"
    path.write_bytes(encode(PHOTO, "JPEG", exif=ifd(TURNED, TURNED)[:-12]))
    with pytest.warns(UserWarning, match="Corrupt EXIF"), Image.open(path) as image:
        image.getexif()
    samples = struct.Struct("<HHII")  # per pixel: Pillow logs an error about a thousand
    tiff = encode(PHOTO, "TIFF").replace(samples.pack(277, 3, 1, 3), samples.pack(277, 3, 1, 1000))
    script = f"""from captioner import images
images.read_image({str(path)!r})
try:
    images.read_image({tiff!r})
except images.ImageError as error:
    print(error)"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stderr == b"" and b"not a whole picture" in done.stdout


@pytest.mark.parametrize("junk", [b"junkjunk", b"Exif\0\0junk", b"MM\0*"])
def test_a_webp_with_junk_for_exif_is_shown(junk):
    plain = images.decode_image(encode(PHOTO, "WEBP", lossless=True))
    with_junk = encode(PHOTO, "WEBP", lossless=True, exif=junk)
    assert images.decode_image(with_junk).tobytes() == plain.tobytes()


def test_a_png_is_shown_whatever_its_metadata_hold():
    text = PngInfo()
    for add in (text.add_text, text.add_itxt):
        add("Comment", "x" * 3 * 2**20, zip=True)
    start = encode(PHOTO, pnginfo=text, icc_profile=bytes(2 * 2**20), exif=EXIF)
    header = start[:33]
    broken = b"".join(chunk(kind, b"\0") for kind in (b"cHRM", b"pHYs", b"gAMA", b"sRGB", b"acTL"))
    wrong_checksum = chunk(b"tEXt", b"a\0b")[:-1] + b"?"
    data = header + broken + wrong_checksum + start[33:]
    assert (np.asarray(images.decode_image(data)) == np.rot90(np.asarray(PHOTO), -1)).all()


@pytest.mark.parametrize("kind", [b"IHDR", b"IDAT", b"IEND"])
def test_a_wrong_checksum_is_named_and_not_taken_for_another_format(kind):
    data = png(10, 10, 8, 2, ROWS)
    position = data.index(kind)
    length = int.from_bytes(data[position - 4 : position])
    wrong = bytearray(data)
    wrong[position + 4 + length] ^= 1
    with pytest.raises(ImageError, match=f"the checksum of its {kind.decode()} chunk is wrong"):
        images.decode_image(bytes(wrong))


def test_a_broken_file_of_a_known_format_is_not_told_to_be_of_another():
    with pytest.raises(ImageError, match="not a whole picture: save or copy it again"):
        images.decode_image(b"\xff\xd8\xff" + bytes(20))


@pytest.mark.parametrize(
    "data",
    [png(20, 20, 8, 3, (b"\0" + b"\1" * 20) * 20), b"PyP\n20 20 255\n" + bytes(1200)],
    ids=["palette", "PyP"],
)
def test_whatever_a_decoder_raises_is_the_pictures_error(data):
    with pytest.raises(ImageError, match="^image bytes: not a whole picture"):
        images.decode_image(data)


@pytest.mark.parametrize("error", [AssertionError, AttributeError, RecursionError, RuntimeError])
def test_any_class_of_exception(monkeypatch, error):
    def load(self):
        raise error("of some decoder")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    with pytest.raises(ImageError, match="of some decoder"):
        images.decode_image(JPEG)


MANY = 2 * MAX_PIECES
COSTLY = {
    "PNG text chunks": png(10, 10, 8, 2, ROWS, chunk(b"tEXt", b"a\0") * MANY),
    "JPEG comments": JPEG[:2] + b"\xff\xfe\0\2" * MANY + JPEG[2:],
    "JPEG fill bytes": JPEG[:2] + b"\xff" * 10 * MANY + JPEG[2:],
    "GIF comments": GIF[:FIRST_BLOCK] + b"\x21\xfe\1x\0" * MANY + GIF[FIRST_BLOCK:],
    "a GIF comment": GIF[:FIRST_BLOCK] + b"\x21\xfe" + b"\1x" * MANY + b"\0" + GIF[FIRST_BLOCK:],
    "numbers as text": b"P3 1500 1500 255\n" + b"1 " * 3 * 1500**2,
    "a PPM comment": b"P5 #" + b"x" * 10 * MANY + b"\n20 20 255\n" + bytes(400),
    "PPM comments": b"P6\n" + b"#\n" * MANY + b"20 20 255\n" + bytes(1200),
    "BigTIFF tags": b"II+\0\x08\0\0\0\x10" + bytes(7) + struct.pack("<Q", MANY) + bytes(20 * MANY),
}


@pytest.mark.parametrize("data", COSTLY.values(), ids=COSTLY)
def test_what_would_take_minutes_is_refused_at_once(data, monkeypatch):
    """A minute for files as large as may be: Pillow is not even asked to open them."""
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("opened"))
    with pytest.raises(ImageError, match="not a whole picture .*(over 100,000|text;|a header of)"):
        images.decode_image(data)


def test_extreme_floats_are_stretched_to_black_and_white():
    low, high = np.finfo(np.float32).min, np.finfo(np.float32).max
    grey = Image.fromarray(np.array([[low, 0, high]], np.float32))
    assert np.asarray(images.decode_image(encode(grey, "TIFF")))[0, :, 0].tolist() == [0, 128, 255]
