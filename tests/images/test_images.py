import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from captioner import images
from captioner.errors import InputError
from captioner.images import Augment, ImageError, Preprocess, decode
from tests.helpers.pictures import PHOTO, RAMP, ROWS, chunk, encode, png


def pixels(data: bytes) -> np.ndarray:
    image = images.decode_image(data)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def flat(image: Image.Image) -> list[int]:
    """The one colour of an encoded picture of one colour."""
    colours = np.unique(pixels(encode(image)).reshape(-1, 3), axis=0)
    assert len(colours) == 1
    return colours[0].tolist()


# What a picture is


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_gives_the_upright_picture(form, orientation):
    upright = Image.new("RGB", (48, 32), "black")
    upright.paste("red", (0, 0, 24, 16))
    upright.paste("blue", (24, 16, 48, 32))
    undo = [None, None, 0, 3, 1, 5, 2, 6, 4]  # the Image.Transpose that the camera "did"
    stored = upright if orientation == 1 else upright.transpose(undo[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    read = pixels(encode(stored, form, exif=exif))
    assert read.shape == (32, 48, 3)
    assert np.abs(read - np.asarray(upright)).mean() < 12  # JPEG and WebP are lossy


@pytest.mark.parametrize("mode", ["L", "P", "1"])
def test_grey_palette_and_one_bit_pictures_become_rgb(mode):
    image = PHOTO.convert(mode)
    assert (pixels(encode(image)) == np.asarray(image.convert("RGB"))).all()


def test_transparency_is_composited_on_white():
    assert flat(Image.new("RGBA", (4, 4), (255, 0, 0, 0))) == [255, 255, 255]
    assert flat(Image.new("RGBA", (4, 4), (255, 0, 0, 128))) == [255, 127, 127]
    assert flat(Image.new("LA", (4, 4), (0, 51))) == [204, 204, 204]
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert flat(palette) == [10, 20, 30]
    for transparent in (1, bytes([255, 0])):  # an index, or an alpha for every index
        palette.info["transparency"] = transparent
        assert flat(palette) == [255, 255, 255]
    key = png(1, 1, 8, 2, b"\0\1\2\3", chunk(b"tRNS", bytes([0, 1, 0, 2, 0, 3])))
    assert (pixels(key) == 255).all()
    for length in (1, 5, 7, 300):  # none of this type: left out
        key = png(1, 1, 8, 2, b"\0\1\2\3", chunk(b"tRNS", bytes(length)))
        assert pixels(key).flatten().tolist() == [1, 2, 3]
    colours = chunk(b"PLTE", bytes(range(6)))
    key = png(1, 1, 8, 3, b"\0\1", colours, chunk(b"tRNS", bytes(300)))
    assert pixels(key).flatten().tolist() == [3, 4, 5]


def test_sixteen_bits_and_floats_are_scaled_not_clipped():
    deep = (RAMP * 600).astype(np.uint16)
    expected = np.rint(deep / 65535 * 255)[..., None]
    for form in ("PNG", "TIFF", "PPM"):
        assert (pixels(encode(Image.fromarray(deep), form)) == expected).all(), form
    big_endian = Image.frombytes("I;16B", (60, 40), deep.astype(">u2").tobytes())
    assert (pixels(encode(big_endian, "TIFF")) == expected).all()
    unit = (RAMP / 98).astype(np.float32)  # white is 1
    expected = np.rint(unit * 255)[..., None]
    assert (pixels(encode(Image.fromarray(unit), "TIFF")) == expected).all()
    stretched = pixels(encode(Image.fromarray(unit * 7000 - 50), "TIFF"))  # white is unknown
    assert (stretched == expected).all()
    colour = png(1, 1, 16, 2, b"\0" + bytes([200, 0, 100, 0, 50, 0]))
    assert pixels(colour).tolist() == [[[200, 100, 50]]]
    with pytest.raises(ImageError, match="not finite"):
        images.decode_image(encode(Image.fromarray(np.full((2, 2), np.nan, np.float32)), "TIFF"))


def test_cmyk_jpeg_has_the_colours_of_the_rgb_one():
    cmyk = pixels(encode(PHOTO.convert("CMYK"), "JPEG", quality=95))  # Adobe: stored inverted
    assert np.abs(cmyk - np.asarray(PHOTO)).mean() < 4


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_of_an_animation_the_first_frame_counts(form):
    red, blue = Image.new("RGB", (16, 16), "red"), Image.new("RGB", (16, 16), "blue")
    data = encode(red, form, save_all=True, append_images=[blue])
    assert np.abs(pixels(data) - [255, 0, 0]).max() < 8


@pytest.mark.parametrize("bits,colour", [(1, 0), (8, 0), (8, 2), (16, 6)])
@pytest.mark.parametrize("size", [(1, 1), (5, 3), (9, 17)])
def test_interlaced_png(bits, colour, size):
    width, height = size
    samples = {0: 1, 2: 3, 6: 4}[colour] * bits
    rows = b""
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2)]
    for x, y, dx, dy in [*passes, (0, 1, 1, 2)]:
        columns = len(range(x, width, dx))
        if columns:
            rows += (b"\0" + b"\xff" * -(-columns * samples // 8)) * len(range(y, height, dy))
    assert (pixels(png(width, height, bits, colour, rows, interlaced=1)) == 255).all()
    with pytest.raises(ImageError):
        images.decode_image(png(width, height, bits, colour, rows[:-1], interlaced=1))


# What is refused


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM"])
def test_a_file_cut_anywhere_is_an_error_or_the_whole_picture(form):
    data = encode(PHOTO.resize((24, 16)), form)
    complete = pixels(data)
    for length in range(len(data)):
        try:
            assert (pixels(data[:length]) == complete).all(), length
        except ImageError as error:
            assert "\n" not in str(error)
    with pytest.raises(ImageError):
        images.decode_image(data[: len(data) // 2])


@pytest.mark.parametrize(
    "data,reason",
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>404</html>", "begins with b'<!DOCTYPE html>"),
        (b"GIF89a", "image bytes: "),
        (encode(PHOTO, "ICO"), "begins with"),  # a format that is not in the list
        (png(10, 10, 8, 2, ROWS)[:-20] + bytes(4) + png(10, 10, 8, 2, ROWS)[-16:], "checksum"),
        (png(10, 10, 8, 2, ROWS[:155]), "ends 155 bytes early"),  # Pillow: the rest is black
        (png(10, 10, 1, 0, b""), "ends 30 bytes early"),
        (png(30_000, 30_000, 8, 2, b""), "pixels"),
        (png(9_000, 9_000, 8, 2, b""), "9000 x 9000 pixels; 67,108,864 at most"),
        (png(60_000, 2, 8, 2, b""), "over 1000 times"),
    ],
)
def test_bad_bytes_are_a_named_error_without_decoding(data, reason, monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ImageError) as caught:
        images.decode_image(data)
    assert str(caught.value).startswith("image bytes: ") and reason in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_read_takes_paths_and_names_them_in_errors(tmp_path):
    path = tmp_path / "café 图 😀.png"
    path.write_bytes(encode(PHOTO))
    for name in (path, str(path)):
        assert np.array_equal(images.read_image(name), PHOTO)
    os.mkfifo(tmp_path / "fifo.jpg")  # reading it would wait for a writer
    (tmp_path / "empty.jpg").touch()
    with (tmp_path / "giant.tif").open("wb") as file:
        file.truncate(decode.MAX_BYTES + 1)  # sparse: takes no space
    for name, reason in {
        "fifo.jpg": "not a regular file",
        "giant.tif": "536,870,913 bytes",
        ".": "not a regular file",
        "gone.jpg": "No such file",
        "empty.jpg/x.jpg": "Not a directory",
        "x" * 300: "too long",
        "nul\0.jpg": "null",
        "new\nline.jpg": "No such file",
        "empty.jpg": "empty",
    }.items():
        with pytest.raises(ImageError, match=reason) as caught:
            images.read_image(tmp_path / name)
        printed = str(tmp_path / name)
        assert str(caught.value).startswith(printed if printed.isprintable() else repr(printed))
        assert len(str(caught.value).splitlines()) == 1


def test_running_out_of_memory_is_not_the_pictures_fault(monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", Mock(side_effect=MemoryError))
    with pytest.raises(MemoryError):
        images.decode_image(encode(PHOTO))


# The tensor


@pytest.mark.parametrize("size", [(500, 375), (333, 500), (7, 9), (224, 224)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("square,crop_pct", [(224, 0.875), (240, 0.882), (64, 1.0), (33, 0.9)])
def test_preprocess_equals_torchvision(size, interpolation, square, crop_pct):
    from torchvision import transforms

    image = PHOTO.resize(size)
    mode = transforms.InterpolationMode(interpolation)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    tensor = [transforms.ToTensor(), transforms.Normalize(mean, std)]
    squash = transforms.Compose([transforms.Resize((square, square), mode), *tensor])
    resized = transforms.Resize(int(square / crop_pct), mode)
    crop = transforms.Compose([resized, transforms.CenterCrop(square), *tensor])
    for name, theirs in {"squash": squash, "crop": crop}.items():
        ours = Preprocess(square, name, crop_pct, interpolation, mean, std)(image)
        assert ours.shape == (3, square, square) and ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs(image), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(37, 23), (23, 37), (300, 2), (2, 301), (640, 480), (64, 64)])
def test_preprocess_of_the_middle_alone_equals_that_of_the_whole(size, monkeypatch):
    """Where the whole would be too large: a thin picture, or a stranger's crop_pct."""
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    image, preprocess = Image.fromarray(noise), Preprocess(48, "crop", 0.3)
    expected = np.array(preprocess.resize(image), np.int16)
    monkeypatch.setattr("captioner.images.preprocess.MAX_PIXELS", 1)
    middle = np.array(preprocess.resize(image), np.int16)
    assert abs(middle - expected).max() <= 1  # of 255


@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 0.95])
def test_preprocess_equals_timm(crop_pct):
    from timm.data import create_transform

    theirs = create_transform(224, crop_pct=crop_pct, interpolation="bicubic")
    mean, std = theirs.transforms[-1].mean.tolist(), theirs.transforms[-1].std.tolist()
    ours = Preprocess(224, "crop", crop_pct, "bicubic", mean, std)
    for image in (PHOTO.resize((500, 375)), PHOTO.resize((231, 640))):
        torch.testing.assert_close(ours(image), theirs(image), rtol=0, atol=1e-6)


def test_settings_survive_json_and_wrong_ones_are_named():
    preprocess = Preprocess(240, "crop", 0.882, "bilinear", (0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    assert Preprocess(**json.loads(json.dumps(asdict(preprocess)))) == preprocess
    wrong: list[tuple[type, str, list]] = [
        (Preprocess, "size", [0, 224.0]),
        (Preprocess, "mode", ["pad"]),
        (Preprocess, "crop_pct", [1.1, "0.9"]),
        (Preprocess, "interpolation", ["nearest"]),
        (Preprocess, "mean", [(0.5,), "abc"]),
        (Preprocess, "std", [(1, 1, 0)]),
        (Augment, "min_area", [0]),
        (Augment, "stretch", [0.9]),
        (Augment, "colour", [1]),
        (Augment, "flip", [2]),
    ]
    for kind, name, values in wrong:
        for value in values:
            with pytest.raises(InputError, match=f"^{name} is "):
                kind(**{name: value})
    with pytest.raises(InputError, match="'P'; it must be RGB"):  # not from read_image
        Preprocess()(PHOTO.convert("P"))


# Augmentation


@pytest.mark.parametrize("mode", ["squash", "crop"])
def test_a_view_is_a_pure_function_of_picture_and_seed(mode):
    preprocess, augment = Preprocess(32, mode), Augment(flip=0.5)
    before = torch.get_rng_state()
    alone = [images.view(PHOTO, preprocess, augment, seed) for seed in range(40)]
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(1)
    with ThreadPoolExecutor(4) as pool:  # the same in threads, and whatever the global seed
        threads = pool.map(lambda seed: images.view(PHOTO, preprocess, augment, seed), range(40))
    assert all(map(torch.equal, alone, threads))
    assert len({tensor.numpy().tobytes() for tensor in alone}) == 40
    assert torch.equal(images.view(PHOTO, preprocess), preprocess(PHOTO))
    nothing, squash = Augment(min_area=1, stretch=1, colour=0), Preprocess(32)
    assert torch.equal(images.view(PHOTO, squash, nothing, seed=7), squash(PHOTO))


def test_crops_keep_min_area_and_never_mirror():
    """On a picture whose red is x and green is y, the crop can be read off the colours."""
    x, y = np.meshgrid(np.arange(256), np.arange(256))
    image = Image.fromarray(np.stack([x, y, 0 * x], axis=-1).astype(np.uint8))
    lefts = []
    for seed in range(100):
        view = Augment(min_area=0.5, stretch=1.1, colour=0)(image, Preprocess(64), seed)
        red, green, _ = np.asarray(view).astype(float).transpose(2, 0, 1)
        width, height = np.ptp(red) / 63 * 64, np.ptp(green) / 63 * 64
        assert red[0, -1] > red[0, 0] and green[-1, 0] > green[0, 0]
        assert width * height > 0.5 * 256**2 * 0.95  # sides are cut to the picture, and rounded
        assert 1 / 1.15 < width / height < 1.15
        lefts.append(red.min())
    assert min(lefts) < 5 and max(lefts) > 40
    mirrored = Augment(min_area=1, stretch=1, colour=0, flip=1)(image, Preprocess(256), 0)
    assert np.array_equal(np.asarray(mirrored), np.asarray(image)[:, ::-1])


def test_colour_strength_bounds_the_brightness():
    grey = Image.new("RGB", (8, 8), (100, 100, 100))
    augment = Augment(colour=0.3)
    values = [np.asarray(augment(grey, Preprocess(8), seed)).mean() for seed in range(100)]
    assert 70 <= min(values) < 80 and 120 < max(values) <= 130


def test_importing_and_captioning_do_not_load_torchvision():
    code = "import sys; from captioner import images; from PIL import Image;"
    code += "images.view(Image.new('RGB', (9, 9)), images.Preprocess(8));"
    code += "sys.exit('torchvision' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
