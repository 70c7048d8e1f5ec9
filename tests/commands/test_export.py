"""A model to hand on says what the whole one says, and holds nothing that pip brings."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from captioner import encoders
from captioner.commands.main import main
from captioner.errors import InputError
from captioner.models import loading
from captioner.models.export import export_model


@pytest.fixture
def folder(tmp_path, model_dir):
    shutil.copytree(model_dir, tmp_path / "model")
    return tmp_path


def test_the_encoder_is_left_out_where_pip_brings_it(folder, capsys):
    model, out = folder / "model", folder / "out"
    assert main(["export", str(model), str(out)]) == 0
    assert "without the encoder" in capsys.readouterr().out
    tensors = load_file(out / "model.safetensors")
    assert not any(name.startswith("encoder.") for name in tensors)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    complete, small = loading.load(model), loading.load(out)
    for name, tensor in complete.state_dict().items():
        expected = tensor if name.startswith("encoder.") else tensor.half().to(tensor)
        other = small.state_dict()[name]
        assert other.dtype == tensor.dtype and torch.equal(other, expected), name
    pixels = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(small.encode(pixels), complete.encode(pixels))


def test_an_encoder_that_has_learned_is_kept(folder, capsys):
    model, out = folder / "model", folder / "out"
    changed = loading.load(model)
    next(changed.encoder.parameters()).data += 0.01
    changed.save(model)
    assert main(["export", str(model), str(out)]) == 0
    assert "with the encoder" in capsys.readouterr().out
    tensors = load_file(out / "model.safetensors")
    assert any(name.startswith("encoder.") for name in tensors)
    name, weight = next(iter(changed.encoder.named_parameters()))
    exported = loading.load(out).encoder.get_parameter(name)
    assert torch.equal(exported, weight.half().float())


def test_other_weights_than_those_it_was_made_with_are_noticed(folder, monkeypatch):
    export_model(folder / "model", folder / "out")

    class Other(encoders.Timm):
        def weights(self):
            return "other"

    Other.__module__ = "captioner.encoders"
    monkeypatch.setattr(encoders, "Timm", Other)
    with pytest.raises(InputError, match="out: made for other weights of the encoder"):
        loading.load(folder / "out")


def test_weights_come_from_nowhere_else(folder):
    export_model(folder / "model", folder / "out")
    path = folder / "out" / "config.json"
    config = json.loads(path.read_text())
    config["encoder"]["weights"] = "/etc/passwd"
    path.write_text(json.dumps(config))
    with pytest.raises(InputError, match="config.json: the encoder's weights are not here"):
        loading.load(folder / "out")


def test_numbers_too_large_for_float16_are_named(folder, capsys):
    model = loading.load(folder / "model")
    model.decoder.W_hy.bias.data[5] = 1e5
    model.save(folder / "model")
    assert main(["export", str(folder / "model"), str(folder / "out")]) == 2
    assert "decoder.W_hy.bias holds numbers beyond 65504" in capsys.readouterr().err
    assert not (folder / "out").exists()
