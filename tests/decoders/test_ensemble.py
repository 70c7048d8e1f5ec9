"""An ensemble is a decoder: the laws hold, itself twice is itself, and commands take several."""

import json

import pytest
import torch

import captioner
import eval as eval_command
from captioner import tokenizers
from captioner.commands.caption import main
from captioner.data import records
from captioner.decoders.attention import SoftAttention
from captioner.decoders.ensemble import AVERAGES, Ensemble
from captioner.decoders.recurrent import Recurrent
from captioner.decoders.transformer import Transformer
from captioner.errors import InputError
from captioner.models import caption_model
from tests.helpers import laws
from tests.helpers.laws import LENGTH_N, D, N, OnOne, V, features, tokens
from tests.helpers.runs import run


def members(vocabulary=V):
    return [
        laws.randomised(Recurrent(vocabulary, D, "GRU", 4, 5, inject="first", dropout=0.0)),
        laws.randomised(SoftAttention(vocabulary, D, "LSTM", 4, 5, 6, dropout=0.0)),
        laws.randomised(Transformer(vocabulary, D, 8, 2, 2, 12, dropout=0.0)),
    ]


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize(
    "law", [laws.forward_is_the_unrolled_step, laws.forward_goes_on_from_a_state]
)
def test_law(law, average):
    law(lambda vocabulary: OnOne(members(vocabulary), average))


@pytest.mark.parametrize("average", AVERAGES)
def test_it_averages_its_members(average):
    several, inputs, token_NT = members(), features(), tokens()
    ensemble = OnOne(several, average)
    memory, state = ensemble.start(inputs, N)
    keep = ["0.h0", "1.alpha", "2.alpha"]
    logits_PV, _, kept = ensemble(token_NT, LENGTH_N, memory, state, keep)
    log_probs = []
    for member, name in zip(several, keep):
        logits, _, traces = member(token_NT, LENGTH_N, *member.start(inputs, N), [name[2:]])
        log_probs.append(logits.log_softmax(1))
        assert torch.equal(kept[name], traces[name[2:]])
    log_probs = torch.stack(log_probs)
    expected = log_probs.mean(0) if average == "log_prob" else log_probs.exp().mean(0).log()
    torch.testing.assert_close(logits_PV, expected, atol=1e-12, rtol=0)
    with pytest.raises(ValueError, match="h0"):
        ensemble(token_NT, LENGTH_N, memory, state, ["h0"])


def test_models_with_different_encoders_caption_together(model_dir, scenes_dir, tmp_path, capsys):
    """Two more models over the same words: another encoder, which the last one trained, and
    other decoders."""
    tokenizer = tokenizers.load_tokenizer(model_dir / "tokenizer.json")
    encoder = {"_target_": "captioner.encoders.Timm", "name": "resnet10t", "image_size": 64}
    folders = [model_dir, tmp_path / "b", tmp_path / "c"]
    kinds = (("attention.UpDown", "none"), ("recurrent.Recurrent", "all"))
    for folder, (name, train) in zip(folders[1:], kinds):
        decoder = {"_target_": f"captioner.decoders.{name}", "hidden_size": 16}
        config = {"encoder": encoder | {"train": train}, "decoder": decoder}
        caption_model.build_captioner(config, tokenizer).save(folder)
    inputs = [record.image for record in records.read_records(scenes_dir, "val")]

    together = captioner.load(*folders)
    captions = together.caption([*inputs, "nowhere.png"], batch_size=3)
    assert [c.error is None for c in captions] == [True] * len(inputs) + [False]
    assert main([*(f"--model={folder}" for folder in folders), *map(str, inputs)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ", 1)[1] for line in lines] == [c.caption for c in captions[:-1]]
    one = captioner.load(model_dir).caption(inputs)
    twice = captioner.load(model_dir, model_dir).caption(inputs)
    assert [c.caption for c in one] == [c.caption for c in twice]
    with pytest.raises(InputError, match="save its members"):
        together.save("x")

    names = ",".join(map(str, folders))
    data = [f"data.root={scenes_dir}", f"data.cache={tmp_path / 'cache'}", "average=prob"]
    run(eval_command, f"model=[{names}]", *data, f"run_dir={tmp_path / 'run'}")
    predicted = json.loads((tmp_path / "run" / "predictions.json").read_text())
    captions = captioner.load(*folders, average="prob").caption(inputs)
    same = sum(p["caption"] == c.caption for p, c in zip(predicted, captions))
    assert same >= len(inputs) - 1  # a near-tie may flip between float16 and float32


def test_models_that_do_not_fit_are_named(model_dir, tmp_path):
    config = json.loads((model_dir / "config.json").read_text())
    words = tokenizers.train_tokenizer(["another tokenizer"] * 9)
    config = {key: config[key] for key in ("encoder", "decoder")}
    caption_model.build_captioner(config, words).save(tmp_path / "other")
    with pytest.raises(InputError, match="other: its tokenizer.json is not that of"):
        captioner.load(model_dir, tmp_path / "other")
    with pytest.raises(InputError, match="average=mean: give one of log_prob, prob"):
        captioner.load(model_dir, model_dir, average="mean")
    with pytest.raises(InputError, match="one vocabulary"):
        Ensemble([members(5)[0], members(6)[0]])
