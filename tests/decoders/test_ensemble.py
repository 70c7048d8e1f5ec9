"""An ensemble is a decoder: the laws hold, itself twice is itself, and commands take several."""

import json
import shutil

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
from captioner.search import Beam
from tests.helpers import laws
from tests.helpers.laws import LENGTH_N, B, D, N, OnOne, V, features, tokens
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
    traced = ("h0", "alpha", "alpha")
    keep = [f"{k}.{name}" for k, name in enumerate(traced)]
    logits_PV, _, kept = ensemble(token_NT, LENGTH_N, memory, state, keep)
    log_probs = []
    for member, name, key in zip(several, traced, keep):
        logits, _, traces = member(token_NT, LENGTH_N, *member.start(inputs, N), [name])
        log_probs.append(logits.log_softmax(1))
        assert torch.equal(kept[key], traces[name])
    log_probs = torch.stack(log_probs)
    expected = log_probs.mean(0) if average == "log_prob" else log_probs.exp().mean(0).log()
    torch.testing.assert_close(logits_PV, expected, atol=1e-12, rtol=0)
    with pytest.raises(ValueError, match="h0"):
        ensemble(token_NT, LENGTH_N, memory, state, ["h0"])


def test_a_member_and_itself_are_that_member():
    decoder, inputs = members()[0], features()
    alone = Beam(3)(decoder.step, *decoder.start(inputs, B * 3))
    for average in AVERAGES:
        twice = OnOne([decoder, decoder], average)
        together = Beam(3)(twice.step, *twice.start(inputs, B * 3))
        assert torch.equal(together.token_BKT, alone.token_BKT)
        torch.testing.assert_close(together.score_BK, alone.score_BK)


@pytest.fixture
def others(model_dir, scenes_dir, tmp_path):
    """Two more models over the same words: another encoder, size and decoder; and other weights."""
    tokenizer = tokenizers.load_tokenizer(model_dir / "tokenizer.json")
    encoder = {"_target_": "captioner.encoders.Timm", "name": "resnet10t", "image_size": 64}
    folders = {tmp_path / "b": "attention.UpDown", tmp_path / "c": "recurrent.Recurrent"}
    for folder, name in folders.items():
        decoder = {"_target_": f"captioner.decoders.{name}", "hidden_size": 16}
        config = {"encoder": encoder, "decoder": decoder}
        caption_model.build_captioner(config, tokenizer).save(folder)
    return list(folders)


def test_models_with_different_encoders_caption_together(model_dir, others, scenes_dir, capsys):
    inputs = [record.image for record in records.read_records(scenes_dir, "val")]
    together = captioner.load(model_dir, *others)
    captions = together.caption([*inputs, "nowhere.png"], batch_size=3)
    assert [c.error is None for c in captions] == [True] * len(inputs) + [False]
    models = [f"--model={folder}" for folder in (model_dir, *others)]
    assert main([*models, *map(str, inputs)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ", 1)[1] for line in lines] == [c.caption for c in captions[:-1]]
    one = captioner.load(model_dir).caption(inputs)
    twice = captioner.load(model_dir, model_dir).caption(inputs)
    assert [c.caption for c in one] == [c.caption for c in twice]
    with pytest.raises(InputError, match="save its members"):
        together.save("x")


def test_eval_py_takes_a_list(model_dir, others, scenes_dir, tmp_path):
    """Of a frozen encoder, whose features are cached, and of one that was trained, too."""
    config = json.loads((others[1] / "config.json").read_text())
    config["encoder"]["train"] = "all"
    (others[1] / "config.json").write_text(json.dumps(config))
    names = ",".join(map(str, (model_dir, *others)))
    data = [f"data.root={scenes_dir}", f"data.cache={tmp_path / 'cache'}", "average=prob"]
    run(eval_command, f"model=[{names}]", *data, f"run_dir={tmp_path / 'run'}")
    predicted = json.loads((tmp_path / "run" / "predictions.json").read_text())
    inputs = [record.image for record in records.read_records(scenes_dir, "val")]
    captions = captioner.load(model_dir, *others, average="prob").caption(inputs)
    same = sum(p["caption"] == c.caption for p, c in zip(predicted, captions))
    assert same >= len(inputs) - 1  # a near-tie may flip between float16 and float32


def test_models_that_do_not_fit_are_named(model_dir, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(model_dir, other)
    config = json.loads((model_dir / "config.json").read_text())
    words = tokenizers.train_tokenizer(["another tokenizer"] * 9)
    config = {key: config[key] for key in ("encoder", "decoder")}
    caption_model.build_captioner(config, words).save(other)
    with pytest.raises(InputError, match="other: its tokenizer.json is not that of"):
        captioner.load(model_dir, other)
    with pytest.raises(InputError, match="average=mean: give one of log_prob, prob"):
        captioner.load(model_dir, model_dir, average="mean")
    with pytest.raises(InputError, match="one vocabulary"):
        Ensemble([members(5)[0], members(6)[0]])
