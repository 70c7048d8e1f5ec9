"""The feature cache: equal to the encoder, never stale, goes on where it was."""

import os
import shutil
from pathlib import Path
from unittest.mock import Mock

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


@pytest.fixture
def computed(monkeypatch, encoder):
    """Gives the number of pictures that went through the encoder since the last call."""
    sizes, forward = [], type(encoder).forward

    def counting(self, pixels, grid=False):
        sizes.append(len(pixels))
        return forward(self, pixels, grid)

    def count():
        total = sum(sizes)
        sizes.clear()
        return total

    monkeypatch.setattr(type(encoder), "forward", counting)
    return count


def rows(cache, paths):
    return cache.compute(paths, batch_size=3, workers=0)


def vectors(cache, paths, view=0):
    return cache[rows(cache, paths)[:, view]].pooled_BD


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
    other = Timm("resnet10t", image_size=64)
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
    torch.testing.assert_close(features, complete, atol=2e-3, rtol=2e-3)


def test_views_are_different_and_repeat(tmp_path, encoder, pictures):
    augment = images.Augment(min_area=0.3)
    cache = FeatureCache(tmp_path / "a", encoder, views=3, augment=augment)
    numbers = rows(cache, pictures)
    assert numbers.shape == (7, 3) and len(np.unique(numbers)) == 21
    view_0, view_1, view_2 = (cache[numbers[:, k]].pooled_BD for k in range(3))
    plain_BD = vectors(FeatureCache(tmp_path / "b", encoder), pictures)
    torch.testing.assert_close(view_0, plain_BD, atol=2e-3, rtol=2e-3)
    assert not torch.allclose(view_0, view_1, atol=1e-3)
    again = FeatureCache(tmp_path / "c", encoder, views=3, augment=augment)
    again_BD = vectors(again, pictures[::-1], view=2).flip(0)
    torch.testing.assert_close(again_BD, view_2, atol=2e-3, rtol=2e-3)


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
