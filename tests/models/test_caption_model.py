"""A model directory holds everything, executes nothing, and says what is wrong with it."""

import io
import json
import os
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import captioner
from captioner import images, search
from captioner.errors import InputError
from captioner.models import caption_model, directory, loading
from captioner.tokenizers import train_tokenizer
from captioner.types import Features
from tests.helpers.models import tiny_captioner


@pytest.fixture
def copied(model_dir, tmp_path):
    return shutil.copytree(model_dir, tmp_path / "copied")


def edit_config(folder, change):
    contents = json.loads((folder / "config.json").read_text())
    change(contents)
    (folder / "config.json").write_text(json.dumps(contents))


def test_saved_and_loaded_it_says_the_same(model_dir, scenes_dir, tmp_path):
    first = loading.load(model_dir)
    first.save(tmp_path / "again")
    second = loading.load(tmp_path / "again")
    torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)
    paths = sorted((scenes_dir / "images").iterdir())[:5]
    captions = first.caption(paths)
    assert captions == second.caption(paths)
    assert all(c.caption for c in captions)
    assert {p.name for p in model_dir.iterdir()} == set(directory.FILES)


def test_a_saved_pyramid_is_the_same_pyramid(tmp_path):
    encoder = {"_target_": "captioner.encoders.Timm", "name": "resnet10t", "pool": [1, 2]}
    decoder = {"_target_": "captioner.decoders.recurrent.Recurrent", "hidden_size": 5}
    config = {"encoder": encoder | {"image_size": 64}, "decoder": decoder}
    first = caption_model.build_captioner(config, train_tokenizer(["a dog runs"])).eval()
    first.save(tmp_path)
    second = loading.load(tmp_path, device="cpu")
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    assert first.caption(picture) == second.caption(picture)
    assert first.encoder.fingerprint() == second.encoder.fingerprint()


@pytest.mark.parametrize("strategy", [search.Beam(2, 0.3), search.Consensus(n=2, samples=9)])
def test_the_search_is_saved_and_used_unless_told_otherwise(tmp_path, strategy):
    model = tiny_captioner()
    assert model.strategy == search.Beam()
    model.save(tmp_path / "other")
    model.strategy = strategy
    model.save(tmp_path)
    loaded = loading.load(tmp_path, device="cpu")
    assert loaded.strategy == strategy
    assert loading.load(tmp_path, tmp_path / "other", device="cpu").strategy == strategy
    spy = loaded.strategy = Spy()
    features = Features(torch.zeros(1, model.encoder.size))
    loaded.generate(features)
    loaded.generate(features, search.Greedy())
    assert spy.calls == 1
    with pytest.raises(InputError, match="only the strategies of captioner.search are saved"):
        loaded.save(tmp_path)


class Spy(search.Strategy):
    rows, calls = 1, 0

    def search(self, inputs):
        self.calls += 1


def test_the_saved_preprocessing_counts_and_search_options_may_be_missing(copied):
    edit_config(copied, lambda c: c.pop("search") and c["preprocess"].update(size=96))
    loaded = loading.load(copied)
    assert loaded.encoder.preprocess.size == 96 and loaded.strategy == search.Beam()


def test_the_device_is_the_best_one_here(model_dir, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert loading.choose_device() == torch.device("cpu")
    with pytest.raises(InputError, match="device=cuda: torch finds no such device"):
        loading.load(model_dir, device="cuda")
    with pytest.raises(InputError, match="device=gpu: give one of auto, cpu, cuda, mps"):
        loading.load(model_dir, device="gpu")
    assert next(loading.load(model_dir, device="cpu").parameters()).device.type == "cpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert loading.choose_device("auto") == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert loading.choose_device("auto") == torch.device("cuda")


def test_captions_come_in_order_and_errors_with_them(model_dir, scenes_dir, tmp_path):
    good = sorted((scenes_dir / "images").iterdir())[:4]
    bad = tmp_path / "bad.png"
    bad.write_text("<html>")
    paths = [bad, *good[:2], tmp_path / "none.jpg", *good[2:]]
    captions = captioner.load(model_dir).caption(map(str, paths), batch_size=2)
    assert [c.path for c in captions] == [str(p) for p in paths]
    assert [c.error is None for c in captions] == [False, True, True, False, True, True]
    assert "bad.png" in captions[0].error and "none.jpg" in captions[3].error
    assert all((c.caption is None) == (c.score is None) == (c.error is not None) for c in captions)


def test_a_picture_is_a_path_bytes_an_image_or_an_array_and_has_one_caption(model_dir, scenes_dir):
    loaded = captioner.load(model_dir)
    path = min((scenes_dir / "images").iterdir())
    image = Image.open(path)
    pixels = np.asarray(image.convert("RGB"))
    expected = loaded.caption([path])[0]
    forms = [path, str(path), path.read_bytes(), image, pixels, pixels[::1, ::-1][:, ::-1]]
    for form in forms:
        caption = loaded.caption(form)
        assert caption[1:] == expected[1:] and caption.error is None
    many = loaded.caption(iter(forms))
    assert [c.caption for c in many] == [expected.caption] * len(forms)
    names = [str(path), str(path), "picture 3", "picture 4", "picture 5", "picture 6"]
    assert [c.path for c in many] == names

    class Named:
        def __init__(self, name):
            self.name = name

        def __fspath__(self):
            return self.name

    data = path.read_bytes()
    for form in (bytearray(data), memoryview(data), Named(str(path)), Named(os.fsencode(path))):
        caption = loaded.caption(form)
        assert caption[1:] == expected[1:]
        assert caption.path == (str(path) if isinstance(form, Named) else "picture 1")
    assert loaded.caption(np.stack([pixels, pixels]))[1].caption == expected.caption
    assert loaded.caption([]) == []


@pytest.mark.parametrize(
    "picture, message",
    [
        (np.zeros((4, 4), np.uint8), r"picture 1: an array \(4, 4\) of uint8: give \(height"),
        (np.zeros((4, 4, 3)), r"an array \(4, 4, 3\) of float64"),
        (np.zeros((0, 4, 3), np.uint8), "picture 1: 4 x 0 pixels"),
        (np.zeros((2000, 1, 3), np.uint8), "picture 1: 1 x 2000 pixels: one side"),
        (b"", "picture 1: empty"),
        ("none.jpg", "none.jpg: No such file"),
        (Image.new("L", (2000, 1)), "picture 1: 2000 x 1 pixels: one side"),
    ],
)
def test_a_picture_that_cannot_be_used_has_an_error_in_place_of_a_caption(
    model_dir, picture, message
):
    caption = captioner.load(model_dir).caption(picture)
    assert caption.caption is None and re.search(message, caption.error)


@pytest.mark.parametrize(
    "pictures, message",
    [
        (7, "int: give a path"),
        (None, "NoneType: give a path"),
        ({"a.jpg": 1}, "dict: give a path"),
        (["a.jpg", 7], "picture 2: int is no picture: give a path, bytes, a PIL image or an array"),
        (torch.zeros(3, 4, 4), "^Tensor: give a path"),
        ([torch.zeros(3, 4, 4)], "picture 1: Tensor is no picture"),
        (io.BytesIO(b"x\ny"), "^BytesIO: give a path, bytes"),
        (io.StringIO("a.jpg\nb.jpg"), "^StringIO: give a path, bytes"),
    ],
)
def test_what_is_no_picture_is_refused_by_name(model_dir, pictures, message):
    with pytest.raises(InputError, match=message):
        captioner.load(model_dir).caption(pictures)


def test_captions_do_not_depend_on_the_batch(model_dir, scenes_dir):
    loaded = captioner.load(model_dir).double()  # in which equality is a law
    paths = sorted((scenes_dir / "images").iterdir())[:4]
    pixels = torch.stack([loaded.encoder.preprocess(images.read_image(p)) for p in paths]).double()
    together = loaded.texts(loaded.generate(pixels, search.Beam(3)))
    alone = [loaded.texts(loaded.generate(p[None], search.Beam(3)))[0] for p in pixels]
    assert [best.caption for best, *_ in together] == [best.caption for best, *_ in alone]


TARGET, LOAD = "captioner.decoders.recurrent.Recurrent", "captioner.encoders.torch.load"
BEAM, OS = {"_target_": "captioner.search.Beam", "width": 0}, {"_target_": "os.system"}
NO_CLASS = ": not a class of captioner."


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c["preprocess"].update(sise=3), "config.json: .*'sise'"),
        (lambda c: c["encoder"].update(_target_=TARGET), f"=.*{TARGET}{NO_CLASS}encoders"),
        (lambda c: c["encoder"].update(_target_=LOAD), f"{NO_CLASS}encoders"),
        (lambda c: c.update(search=OS), f"config.json: search: .*{NO_CLASS}search"),
        (lambda c: c["decoder"].update(dropout="x"), "give a number"),
        (lambda c: c["encoder"].update(train=0.5), "a word or a whole"),
        (lambda c: c["decoder"].update(hidden_size=2**40), "give 1048576 at most"),
        (lambda c: c.update(preprocess=[]), "must be an object"),
        (lambda c: c.update(search="beam"), "search is 'beam'; it must"),
        (lambda c: c.update(search=BEAM), "config.json: search: search.width=0: give"),
    ],
)
def test_a_damaged_config_is_named(copied, change, message):
    """Other damages are in test_bad_input.py."""
    edit_config(copied, change)
    with pytest.raises(InputError, match=message) as error:
        loading.load(copied)
    assert str(copied) in str(error.value)


def test_a_foreign_weight_and_a_config_that_is_a_list_are_named(copied):
    model = loading.load(copied)
    model.register_buffer("x", torch.zeros(1))
    model.save(copied)
    with pytest.raises(InputError, match="model.safetensors: .*x is foreign"):
        loading.load(copied)
    (copied / "config.json").write_text("[]")
    with pytest.raises(InputError, match="config.json: not an object with"):
        loading.load(copied)
