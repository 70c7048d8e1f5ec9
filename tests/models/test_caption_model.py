"""A model directory holds everything, executes nothing, and says what is wrong with it."""

import json
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import captioner
from captioner import images, search
from captioner.errors import InputError
from captioner.models import directory, loading
from captioner.types import Features
from tests.helpers.models import tiny_captioner


@pytest.fixture
def copied(model_dir, tmp_path):
    return shutil.copytree(model_dir, tmp_path / "copied")


def test_saved_and_loaded_it_says_the_same(model_dir, scenes_dir, tmp_path):
    first = loading.load(model_dir)
    first.save(tmp_path / "again")
    second = loading.load(tmp_path / "again")
    assert first.state_dict().keys() == second.state_dict().keys()
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])
    paths = sorted((scenes_dir / "images").iterdir())[:5]
    captions = first.caption(paths)
    assert captions == second.caption(paths)
    assert all(c.caption for c in captions)
    assert {p.name for p in model_dir.iterdir()} == set(directory.FILES)


def test_the_saved_preprocessing_counts(copied):
    config(lambda contents: contents["preprocess"].update(size=96))(copied)
    assert loading.load(copied).encoder.preprocess.size == 96


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
    used = []
    loaded.strategy = Spy(used)
    features = Features(torch.zeros(1, model.encoder.size))
    loaded.generate(features)
    loaded.generate(features, search.Greedy())
    assert used == [1]
    with pytest.raises(InputError, match="only the strategies of captioner.search are saved"):
        loaded.save(tmp_path)


class Spy(search.Strategy):
    rows = 1

    def __init__(self, used):
        self.used = used

    def search(self, inputs):
        self.used.append(len(next(iter(inputs.state.values()))))


def test_a_directory_without_search_options_has_the_default_ones(copied):
    config(lambda contents: contents.pop("search"))(copied)
    assert loading.load(copied).strategy == search.Beam()


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


def test_captions_do_not_depend_on_the_batch(model_dir, scenes_dir):
    loaded = captioner.load(model_dir).double()  # in which equality is a law
    paths = sorted((scenes_dir / "images").iterdir())[:4]
    pixels = torch.stack([loaded.encoder.preprocess(images.read_image(p)) for p in paths]).double()
    together = loaded.texts(loaded.generate(pixels, search.Beam(3)))
    alone = [loaded.texts(loaded.generate(p[None], search.Beam(3)))[0] for p in pixels]
    assert [best.caption for best, *_ in together] == [best.caption for best, *_ in alone]


def test_unk_is_never_said(model_dir, scenes_dir):
    loaded = captioner.load(model_dir)
    loaded.decoder.W_hy.bias.data[3] = 100.0
    paths = sorted((scenes_dir / "images").iterdir())[:3]
    for strategy in (search.Greedy(), search.Beam(2), search.Sample()):
        assert all("<unk>" not in c.caption for c in loaded.caption(paths, strategy))


def config(change):
    """The damage of a changed config.json."""

    def damage(folder):
        contents = json.loads((folder / "config.json").read_text())
        change(contents)
        (folder / "config.json").write_text(json.dumps(contents))

    return damage


def tensors(change):
    """The damage of changed weights, with the metadata as they were."""

    def damage(folder):
        path = folder / "model.safetensors"
        weights = load_file(path)
        change(weights)
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        save_file(weights, path, metadata)

    return damage


def truncate(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100_000])


def pickled(folder):
    torch.save({"decoder.W_hy.bias": torch.zeros(3)}, folder / "model.safetensors")


def foreign_tokenizer(folder):
    path = folder / "tokenizer.json"
    saved = json.loads(path.read_text())
    path.write_text(json.dumps(saved | {"units": saved["units"][::-1]}))


TARGET, LOAD = "captioner.decoders.recurrent.Recurrent", "captioner.encoders.torch.load"
BEAM, OS = {"_target_": "captioner.search.Beam", "width": 0}, {"_target_": "os.system"}
NO_CLASS, BIAS = ": not a class of captioner.", "decoder.W_hy.bias"


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda d: (d / "tokenizer.json").unlink(), "it has no tokenizer.json"),
        (lambda d: (d / "config.json").write_text("{"), "config.json: not readable as JSON"),
        (lambda d: (d / "config.json").write_text("[]"), "config.json: not an object with"),
        (config(lambda c: c.pop("decoder")), "config.json: the key 'decoder'"),
        (config(lambda c: c.update(format=9)), "config.json: format 9"),
        (config(lambda c: c["preprocess"].update(sise=3)), "config.json: .*'sise'"),
        (config(lambda c: c["decoder"].update(OS)), f"{NO_CLASS}decoders"),
        (config(lambda c: c["encoder"].update(_target_=TARGET)), f"=.*{TARGET}{NO_CLASS}encoders"),
        (config(lambda c: c["encoder"].update(_target_=LOAD)), f"{NO_CLASS}encoders"),
        (config(lambda c: c.update(search=OS)), f"config.json: search: .*{NO_CLASS}search"),
        (config(lambda c: c["decoder"].update(layer=2)), "'layer'"),
        (config(lambda c: c["decoder"].update(dropout="x")), "give a number"),
        (config(lambda c: c["encoder"].update(train=0.5)), "a word or a whole"),
        (config(lambda c: c["decoder"].update(hidden_size=2**40)), "memory"),
        (config(lambda c: c.update(preprocess=[])), "must be an object"),
        (config(lambda c: c.update(search="beam")), "search is 'beam'; it must"),
        (config(lambda c: c.update(search=BEAM)), "config.json: search: search.width=0: give"),
        (tensors(lambda t: t.pop(BIAS)), "W_hy.bias is missing"),
        (tensors(lambda t: t.update(x=torch.zeros(1))), "x is foreign"),
        (tensors(lambda t: t.update({BIAS: torch.zeros(2)})), r"W_hy.bias has shape \(2,\)"),
        (foreign_tokenizer, "has shape|not trained with the tokenizer"),
        (truncate, "model.safetensors: not a whole safetensors file"),
        (pickled, "model.safetensors: not a whole safetensors file"),
    ],
)
def test_a_damaged_directory_is_named(copied, damage, message):
    damage(copied)
    with pytest.raises(InputError, match=message) as error:
        loading.load(copied)
    assert str(copied) in str(error.value)


def test_a_folder_that_is_no_model_says_so(tmp_path):
    with pytest.raises(InputError, match="no config.json"):
        captioner.load(tmp_path)
