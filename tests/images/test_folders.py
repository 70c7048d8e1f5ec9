"""Which files of a folder are pictures: none is dropped in silence, and text is no picture."""

import os
from pathlib import Path

import pytest
from PIL import Image

from captioner.images.decode import FORMATS
from captioner.images.folders import find_pictures, is_picture
from tests.helpers.pictures import PHOTO, encode

PNG = encode(PHOTO)


def heads():
    """The name and the content of pictures without an ending, and of files that are none."""
    modes = {"TIFF": ("L", "RGB", "I;16"), "PPM": ("1", "L", "RGB", "F"), "BMP": ("1", "P", "RGB")}
    for form in FORMATS:
        for mode in modes.get(form, ("RGB",)):
            yield f"{form} {mode}", encode(Image.new(mode, (3, 2)), form), True
    yield "BigTIFF", encode(PHOTO, "TIFF", big_tiff=True), True
    yield "with a comment", b"P2\n# by hand\n3 2\n9\n1 2 3 4 5 6", True
    yield "HEIC", b"\0\0\0\x18ftypheic\0\0\0\0", True
    yield "AVIF", b"\0\0\0\x20ftypavif\0\0\0\0", True
    yield "cut", PNG[:20], True
    yield "video", b"\0\0\0\x20ftypisom\0\0\0\0", False
    for text in (
        "",
        "P",
        "BM",
        "BMW is a maker of cars, they say",
        "P1 notes\n",
        "P6",
        "II",
        "MM*",
    ):
        yield f"text {text[:6]}", text.encode(), False
    yield "sound", b"RIFF\0\0\0\0WAVEfmt ", False


@pytest.mark.parametrize("content, expected", [pytest.param(*h[1:], id=h[0]) for h in heads()])
def test_pictures_without_an_ending_are_known_by_their_bytes(tmp_path, content, expected):
    (tmp_path / "file").write_bytes(content)
    assert is_picture(tmp_path / "file") is expected


def test_every_file_is_a_picture_counted_or_litter(tmp_path):
    """Links are followed once, whatever loops they form."""
    tree, elsewhere = tmp_path / "tree", tmp_path / "elsewhere"
    for path in (tree / "inner", elsewhere):
        path.mkdir(parents=True)
    pictures = ["._c.png", "a.JFIF", "inner/b", "again/d.png", "gone.jpg", "note.heic", "pipe.png"]
    for name in ("._c.png", "a.JFIF", "inner/b"):
        (tree / name).write_bytes(PNG)
    (elsewhere / "d.png").write_bytes(PNG)
    for name, target in (("more", elsewhere), ("again", elsewhere), ("inner/up", tree)):
        (tree / name).symlink_to(target)
    (elsewhere / "back").symlink_to(tree)
    (tree / "gone.jpg").symlink_to("nowhere")
    (tree / "note.heic").write_text("?")
    for name in ("pipe.png", "pipe"):
        os.mkfifo(tree / name)
    for name in ("notes.txt", "inner/data"):
        (tree / name).write_text("P1 is a note")
    for name in (".DS_Store", "Thumbs.db", "inner/desktop.ini"):
        (tree / name).write_bytes(PNG)
    (tree / "._a.JFIF").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    paths, others = find_pictures([tree])
    assert (paths, others) == (sorted(Path(tree, name) for name in pictures), 3)
    assert find_pictures([tree / "notes.txt", tree / "._a.JFIF"]) == ([], 1)
