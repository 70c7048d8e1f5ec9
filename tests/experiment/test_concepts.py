"""A run with concepts, and with captions that have no picture, from the command to the model."""

import json

import pytest
import torch

from captioner import search
from captioner.commands import caption
from captioner.encoders import Timm
from captioner.encoders.concepts import Concepts
from captioner.errors import InputError
from captioner.models import loading
from captioner.models.caption_model import CaptionModel, build_captioner
from captioner.tokenizers import train_tokenizer
from tests.helpers.runs import in_process

TINY = [
    "encoder=timm", "encoder.name=resnet10t", "encoder.pretrained=false",
    "encoder.image_size=32", "encoder.concepts=auto",
    "decoder.embed_size=8", "decoder.hidden_size=8", "tokenizer.min_count=1",
    "trainer.max_epochs=1", "trainer.accelerator=cpu", "trainer.log_every_n_steps=1",
    "search=guided",
]  # fmt: skip


@pytest.fixture
def options(scenes_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(Concepts, "LEAST", 5)
    text = tmp_path / "text.txt"
    text.write_text("A xylophone.\n" * 20 + "Two dogs and a red bus.\n" * 20)
    return [
        *TINY,
        f"data.root={scenes_dir}",
        f"data.cache={tmp_path}/cache",
        f"data.text={{path:{text},style:odd}}",
    ]


def test_a_run_with_concepts_and_captions_without_pictures(options, scenes_dir, tmp_path, capsys):
    assert in_process(*options, f"run_dir={tmp_path}/one") == 0
    model = loading.load(tmp_path / "one" / "model")
    concepts = model.encoder.concepts
    assert {"dog", "coffee", "red", "background"} <= {forms[0] for forms in concepts.words}
    assert "xylophone" in model.tokenizer.ids  # from the text
    probed_X = concepts.bias_X > Concepts.NEVER
    assert probed_X[concepts.numbers["red"][0]] and not probed_X[concepts.numbers["bus"][0]]
    assert model.decoder.W_ih.weight.shape[1] == 512 + len(concepts.words)

    guided = search.Guided(3, max_length=5, threshold=0.0)
    pictures = sorted((scenes_dir / "images").glob("val_*"))[:6]
    result = model.caption(pictures, guided)
    free = model.caption(pictures, search.Beam(3, max_length=5))
    assert any(one.forced for one in result)
    for one, plain in zip(result, free):
        if one.forced:
            assert set(one.forced.words) & set(one.caption.split())
            assert not set(one.forced.words) & set(plain.caption.split())
        else:
            assert one.caption == plain.caption

    assert concepts.words[-1] == ["<odd>"] and list(concepts.styles) == ["odd"]
    odd = loading.load(tmp_path / "one" / "model", style="odd")
    pixels = torch.randn(2, 3, 32, 32)
    change_BD = odd.encode(pixels).pooled_BD - model.encode(pixels).pooled_BD
    assert (change_BD[:, :-1] == 0).all() and (change_BD[:, -1] > 0).all()
    with pytest.raises(InputError, match="style=even: .* give one of odd, or none"):
        loading.load(tmp_path / "one" / "model", style="even")

    model_path, picture = str(tmp_path / "one" / "model"), str(pictures[0])
    capsys.readouterr()
    assert caption.main(["--model", model_path, "--json", "--style", "odd", picture]) == 0
    assert json.loads(capsys.readouterr().out)["path"] == picture
    assert caption.main(["--model", model_path, "--style", "even", picture]) == 2
    assert "style=even" in capsys.readouterr().err

    old = f"model.init_from={tmp_path}/one/model"
    assert in_process(*options, old, "data.limit=20", f"run_dir={tmp_path}/two") == 0
    second = loading.load(tmp_path / "two" / "model")
    assert second.config["encoder"]["concepts"] == model.config["encoder"]["concepts"]
    assert torch.equal(second.encoder.concepts.probe_XD, concepts.probe_XD)


@pytest.mark.parametrize(
    "change, message",
    [
        ("encoder.concepts=null", "data.text: needs an encoder with concepts"),
        ("objective=self_critical", "data.text: rewards need pictures"),
        ("data.text=5", "data.text=5: give a file or folder, or {path, share, style}"),
        ("data.text={path:x,weight:1}", "give a file or folder, or {path, share, style}"),
        ("data.text={path:x,share:much}", "data.text.share='much': give a number"),
        ("data.text={path:x,share:1}", "data.text.share=1: give a number between 0 and 1"),
        ("data.text={path:x,style:a b}", "data.text.style='a b': give letters, digits"),
    ],
)
def test_what_does_not_go_together_is_refused(options, change, message, tmp_path, capsys):
    name = change.split("=")[0] + "="
    others = [option for option in options if not option.startswith(name)]
    assert in_process(*others, change, f"run_dir={tmp_path}/run") == 2
    assert message in capsys.readouterr().err


def test_guided_search_needs_concepts(model_dir, scenes_dir):
    picture = next((scenes_dir / "images").glob("val_*"))
    with pytest.raises(InputError, match="search=guided: the model's encoder has no concepts"):
        loading.load(model_dir).caption(picture, search.Guided())


def test_concepts_are_saved_where_the_cnn_is_not(tmp_path):
    decoder = {"_target_": "captioner.decoders.recurrent.Recurrent"}
    decoder |= {"embed_size": 4, "hidden_size": 4}
    encoder = {"_target_": "captioner.encoders.Timm", "weights": "pip", "concepts": [["a", "an"]]}
    config = {"encoder": encoder, "decoder": decoder}
    model = build_captioner(config, train_tokenizer(["a dog"])).eval()
    assert isinstance(model, CaptionModel) and isinstance(model.encoder, Timm)
    model.encoder.concepts.bias_X.fill_(0.5)
    model.save(tmp_path, torch.float16, encoder=False)
    assert (tmp_path / "model.safetensors").stat().st_size < 100_000
    again = loading.load(tmp_path, device="cpu")
    assert again.encoder.concepts.words == [["a", "an"]]
    pixels = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(again.encode(pixels).pooled_BD, model.encode(pixels).pooled_BD)
    assert json.loads((tmp_path / "config.json").read_text())["encoder"]["concepts"]
