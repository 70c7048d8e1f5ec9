"""The feature cache: equal to the encoder, never stale, goes on where it was."""

import shutil
import time

import numpy as np
import pytest
import torch
from PIL import Image

from captioner import images
from captioner.data.cache import FeatureCache
from captioner.encoders import Blind, Timm
from captioner.errors import InputError
from captioner.images import integrity


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return Timm("resnet10t", image_size=64)


@pytest.fixture
def pictures(tmp_path):
    """Seven pictures of noise, all different."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(7):
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return sorted(folder.iterdir())


def count_calls(monkeypatch, encoder):
    seen = []
    real = type(encoder).forward
    monkeypatch.setattr(
        type(encoder),
        "forward",
        lambda self, x, grid=False: (seen.append(len(x)), real(self, x, grid))[1],
    )
    return lambda: sum(seen)


def rows(cache, paths):
    return cache.compute(paths, batch_size=3, workers=0)


@pytest.mark.parametrize("grid", [False, True])
def test_cached_features_are_the_encoders(tmp_path, encoder, pictures, grid):
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
    assert torch.equal(again[rows(again, pictures[::-1])[::-1, 0]].pooled_BD, features.pooled_BD)


def test_nothing_is_computed_twice(tmp_path, encoder, pictures, monkeypatch):
    rows(FeatureCache(tmp_path / "cache", encoder), pictures[:4])
    copy = tmp_path / "another name.png"
    shutil.copy(pictures[0], copy)
    cache = FeatureCache(tmp_path / "cache", encoder)
    computed = count_calls(monkeypatch, encoder)
    cache = FeatureCache(tmp_path / "cache", encoder)
    found = rows(cache, [*pictures, copy])
    assert computed() == 3
    assert found[0] == found[-1]  # the same bytes are the same picture


def test_bytes_are_read_again_only_where_size_or_time_changed(
    tmp_path, encoder, pictures, monkeypatch
):
    rows(FeatureCache(tmp_path / "cache", encoder), pictures)
    read = []
    real = images.read_bytes
    monkeypatch.setattr(integrity, "read_bytes", lambda path: (read.append(path), real(path))[1])
    rows(FeatureCache(tmp_path / "cache", encoder), pictures)
    assert read == []
    time.sleep(0.01)
    pictures[2].touch()
    rows(FeatureCache(tmp_path / "cache", encoder), pictures)
    assert read == [pictures[2]]


def test_a_changed_picture_or_encoder_is_never_served_from_before(tmp_path, encoder, pictures):
    cache = FeatureCache(tmp_path / "cache", encoder)
    before = cache[rows(cache, pictures)[:, 0]].pooled_BD
    time.sleep(0.01)
    shutil.copy(pictures[1], pictures[0])
    cache = FeatureCache(tmp_path / "cache", encoder)
    after = cache[rows(cache, pictures)[:, 0]].pooled_BD
    assert torch.equal(after[0], before[1]) and torch.equal(after[1:], before[1:])
    other = Timm("resnet10t", image_size=64)
    other.load_state_dict(
        {k: t * 1.5 if "conv1" in k else t for k, t in encoder.state_dict().items()}
    )
    larger = Timm("resnet10t", image_size=96)
    larger.load_state_dict(encoder.state_dict())
    folders = {FeatureCache(tmp_path / "cache", e).folder for e in (encoder, other, larger)}
    assert len(folders) == 3
    blind = {FeatureCache(tmp_path / "cache", Blind(size)).folder for size in (5, 6)}
    assert len(blind) == 2


@pytest.mark.parametrize("cut", ["rows", "data", "lost", "hashes"])
def test_interrupted_it_goes_on(tmp_path, encoder, pictures, monkeypatch, cut):
    """Whatever was written last when the power went: whole rows stay, half ones are done again."""
    cache = FeatureCache(tmp_path / "cache", encoder)
    whole = cache[rows(cache, pictures)[:, 0]].pooled_BD.clone()
    cache = FeatureCache(tmp_path / "interrupted", encoder)
    rows(cache, pictures[:4])
    text = cache.folder / "rows.txt"
    if cut == "rows":
        text.write_bytes(text.read_bytes()[:-5])
    elif cut == "data":
        with open(cache.folder / "pooled.f16", "ab") as file:
            file.write(b"half a row")
    elif cut == "lost":  # named, but its data never reached the disk
        path = cache.folder / "pooled.f16"
        path.write_bytes(path.read_bytes()[:-5])
    else:
        cache.digests.path.write_bytes(cache.digests.path.read_bytes()[:-9])
    computed = count_calls(monkeypatch, encoder)
    cache = FeatureCache(tmp_path / "interrupted", encoder)
    features = cache[rows(cache, pictures)[:, 0]].pooled_BD
    assert computed() == (4 if cut in ("rows", "lost") else 3)
    torch.testing.assert_close(features, whole, atol=2e-3, rtol=2e-3)


def test_views_are_different_and_repeat(tmp_path, encoder, pictures):
    augment = images.Augment(min_area=0.3)
    cache = FeatureCache(tmp_path / "a", encoder, views=3, augment=augment)
    found = rows(cache, pictures)
    assert found.shape == (7, 3) and len(np.unique(found)) == 21
    plain = FeatureCache(tmp_path / "b", encoder)
    torch.testing.assert_close(
        cache[found[:, 0]].pooled_BD,
        plain[rows(plain, pictures)[:, 0]].pooled_BD,
        atol=2e-3, rtol=2e-3,
    )  # fmt: skip
    assert not torch.allclose(cache[found[:, 0]].pooled_BD, cache[found[:, 1]].pooled_BD, atol=1e-3)
    again = FeatureCache(tmp_path / "c", encoder, views=3, augment=augment)
    torch.testing.assert_close(
        again[rows(again, pictures[::-1])[::-1, 2]].pooled_BD,
        cache[found[:, 2]].pooled_BD,
        atol=2e-3, rtol=2e-3,
    )  # fmt: skip


def test_all_bad_pictures_are_listed_and_the_good_ones_kept(
    tmp_path, encoder, pictures, monkeypatch
):
    (tmp_path / "html.jpg").write_text("<html>")
    paths = [pictures[0], tmp_path / "html.jpg", *pictures[1:], tmp_path / "none.jpg"]
    with pytest.raises(InputError, match="2 of 9 pictures") as error:
        rows(FeatureCache(tmp_path / "cache", encoder), paths)
    assert "html.jpg" in str(error.value) and "none.jpg" in str(error.value)
    computed = count_calls(monkeypatch, encoder)
    rows(FeatureCache(tmp_path / "cache", encoder), pictures)
    assert computed() == 0


def test_wrong_uses_are_named(tmp_path, encoder):
    with pytest.raises(InputError, match="encoder.train=none"):
        FeatureCache(tmp_path, Timm("resnet10t", train="all"))
    with pytest.raises(InputError, match="data.views=3 needs data.augment"):
        FeatureCache(tmp_path, encoder, views=3)
    with pytest.raises(InputError, match="data.views=2 or more"):
        FeatureCache(tmp_path, encoder, augment=images.Augment())
