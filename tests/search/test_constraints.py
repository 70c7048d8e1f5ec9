"""What captions may and must say, in words: from the model, the command line, and eval.py."""

import copy
import json
from functools import partial

import pytest

import captioner
import eval as eval_command
from captioner import search
from captioner.commands.caption import main
from captioner.data import records
from captioner.data.batches import PixelSource
from captioner.errors import InputError
from captioner.evaluation import predictions
from captioner.search.constraints import UNCONSTRAINED, Constraints
from captioner.types import EOS, UNK
from tests.helpers.runs import run


@pytest.fixture(scope="module")
def loaded(model_dir):
    return captioner.load(model_dir).double()


@pytest.fixture(scope="module")
def paths(scenes_dir):
    return sorted((scenes_dir / "images").iterdir())[:4]


def test_by_default_neither_the_unknown_word_nor_nothing(loaded, paths):
    speechless = copy.deepcopy(loaded)
    speechless.decoder.W_hy.bias.data[[UNK, EOS]] = 100.0
    for strategy in (search.Greedy(), search.Beam(2), search.Sample(), search.StochasticBeam(2)):
        for result in speechless.caption(paths, strategy):
            assert result.caption and "<unk>" not in result.caption
    silent = speechless.caption(paths, constraints=Constraints(min_length=0))
    assert {result.caption for result in silent} == {""}
    unknown = speechless.caption(paths, constraints=Constraints(unk=True))
    assert all("<unk>" in result.caption for result in unknown)


def test_words_and_phrases(loaded, paths):
    free = [result.caption.split() for result in loaded.caption(paths)]
    word, phrase = free[0][0], " ".join(free[1][:2])

    def captions(**options):
        constraints = Constraints(**options)
        return [r.caption for r in loaded.caption(paths, constraints=constraints, batch_size=3)]

    several = captions(forbid=[word], forbid_in={1: [phrase]}, include_in={2: ["red circle"]})
    assert all(word not in caption.split() for caption in several)
    assert f" {phrase} " not in f" {several[1]} "
    assert "red circle" in several[2] and "red circle" not in " ".join(free[2])
    for caption in captions(begin="a red", include=["circle"]):
        assert caption.startswith("a red") and "circle" in caption
    for caption in captions(max_length=4, endings=["a", "the", "and"]):
        assert len(caption.split()) <= 4 and caption.split()[-1] not in ("a", "the", "and")
    for caption in captions(no_repeated_ngram=1, no_repeat=True):
        assert len(set(caption.split())) == len(caption.split())


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(forbid=["zebra"]), "constraints.forbid='zebra': the model does not know 'zebra'"),
        (dict(include=["a zebra"]), "constraints.include='a zebra': the model does not know"),
        (dict(include_in={0: [" "]}), "constraints.include_in=' ': there is no word in it"),
        (dict(endings=["a red"]), "give single words"),
    ],
)
def test_words_that_are_not_known_are_named(loaded, paths, options, message):
    with pytest.raises(InputError, match=message):
        loaded.caption(paths, constraints=Constraints(**options))


def test_a_picture_without_a_caption_has_an_error(loaded, paths):
    everything = [unit for unit in loaded.tokenizer.units if not unit.startswith("<")]
    results = loaded.caption(paths, constraints=Constraints(forbid_in={2: everything}))
    assert [result.error is None for result in results] == [True, True, False, True]
    assert str(paths[2]) in results[2].error and "forbid(in_image)" in results[2].error
    assert results[2].caption is None and results[2].hypotheses == ()


def test_the_best_and_their_tokens(loaded, paths):
    results = loaded.caption(paths, search.Beam(4, n=3), tokens=True)
    for result in results:
        assert len(result.hypotheses) == 3 and result.hypotheses[0].caption == result.caption
        assert len({hypothesis.caption for hypothesis in result.hypotheses}) == 3
        for hypothesis in result.hypotheses:
            words = [word for word, _ in hypothesis.tokens if word != "<eos>"]
            assert loaded.tokenizer.join(words) == hypothesis.caption
            total = sum(log_prob for _, log_prob in hypothesis.tokens)
            assert abs(total - hypothesis.log_prob) < 1e-9
    assert loaded.caption(paths)[0].hypotheses[0].tokens is None


def test_on_the_command_line(model_dir, paths, capsys):
    command = ["--model", str(model_dir), *map(str, paths[:2])]
    assert main([*command, "--include", "red circle", "--forbid", "blue", "--best", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and all("red circle" in line and "blue" not in line for line in lines)
    assert main([*command, "--json", "--best", "2", "--tokens"]) == 0
    for record in map(json.loads, capsys.readouterr().out.splitlines()):
        best = record["best"][0]
        assert (best["caption"], best["tokens"]) == (record["caption"], record["tokens"])
        assert abs(sum(log_prob for _, log_prob in best["tokens"]) - best["log_prob"]) < 1e-4
    assert main([*command, "--json", "--tokens", "--include", "red " * 40]) == 1
    for line in capsys.readouterr().out.splitlines():
        assert "the words it must include are not all in it" in line
    assert main([*command, "--beam", "2", "--best", "3"]) == 2
    assert "--best=3: give 1 to --beam=2" in capsys.readouterr().err
    assert main([*command, "--include", "zebra"]) == 2
    assert "does not know 'zebra'" in capsys.readouterr().err


def test_an_evaluation_names_the_images_without_a_caption(loaded, scenes_dir):
    five = records.read_records(scenes_dir, "val")[:5]
    source = PixelSource([record.image for record in five], loaded.encoder.preprocess)
    predict = partial(predictions.predict, loaded, five, source, search.Beam(3), 2)
    with pytest.raises(InputError) as error:
        predict(constraints=Constraints(max_length=1, include_in={1: ["a red"], 3: ["a red"]}))
    lines = str(error.value).splitlines()
    assert [line.split(":")[0].strip() for line in lines[1:]] == [str(five[i].id) for i in (1, 3)]
    assert len(predict(constraints=UNCONSTRAINED)) == 5


def test_in_eval(model_dir, scenes_dir, tmp_path):
    run(
        eval_command, f"model={model_dir}", f"data.root={scenes_dir}", "split=val",
        "wording.max_length=3", "wording.include=[red]", "+wording.forbid_in={0:[a]}",
        f"run_dir={tmp_path}", f"data.cache={tmp_path}/cache",
    )  # fmt: skip
    predicted = json.loads((tmp_path / "predictions.json").read_text())
    words = [prediction["caption"].split() for prediction in predicted]
    assert all("red" in caption and len(caption) <= 3 for caption in words)
    assert "a" not in words[0]
