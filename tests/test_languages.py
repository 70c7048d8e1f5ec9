"""Captions in a language without blanks between words, from training to scores."""

import csv
import json
import shutil

import numpy as np
import pytest

import eval as eval_command
import train as train_command
from captioner.commands.command_line import add_tokenizer
from captioner.commands.main import main as captioner
from captioner.console import Parser
from captioner.errors import InputError
from captioner.evaluation.frequencies import read_frequencies
from captioner.metrics.score import score, tokens
from captioner.metrics.tokenize import TOKENIZERS
from tests.helpers.runs import run

REFERENCES = {
    1: ["一只狗在草地上奔跑。", "草地上有一只狗"],
    2: ["两个人在街上骑马", "两个男人骑着马。"],
    3: ["一辆红色的汽车停在路边", "路边有一辆汽车"],
}
CAPTIONS = {1: "一只狗在草地上。", 2: "两只狗骑着马", 3: "一辆红色的汽车"}
TINY = [
    "encoder=blind", "decoder.embed_size=16", "decoder.hidden_size=16", "search=greedy",
    "tokenizer.min_count=1", "data.workers=0",
    "trainer.max_epochs=1", "trainer.log_every_n_steps=1",
]  # fmt: skip


def spelled(text):
    """Each character as a word that the official tokenizer keeps as it is."""
    return " ".join("".join(chr(97 + int(digit)) for digit in str(ord(c))) for c in text)


def test_characters_score_as_words_would_and_tokens_as_they_are():
    by_character = score(REFERENCES, CAPTIONS, tokenizer="char")
    references = {image: [*map(spelled, texts)] for image, texts in REFERENCES.items()}
    captions = {image: spelled(text) for image, text in CAPTIONS.items()}
    assert by_character == score(references, captions)
    assert by_character == score(references, captions, tokenizer="none")
    assert 0.3 < by_character["corpus"]["Bleu_4"] < 1
    spread = {image: f" {text[:2]}\n{text[2:]}\u3000" for image, text in CAPTIONS.items()}
    assert by_character == score(REFERENCES, spread, tokenizer="char")


def test_official_tokens_of_them_are_warned_of():
    with pytest.warns(UserWarning, match="6 of 6 references have no blanks .*_tokenizer=char"):
        score(REFERENCES, CAPTIONS)


@pytest.mark.parametrize("overrides", [["data.batch_size=16"], ["objective=self_critical"]])
def test_a_captioner_is_trained_and_scored_by_characters(overrides, scenes_dir, tmp_path, capsys):
    (tmp_path / "data/images").mkdir(parents=True)
    records = []
    for number, path in enumerate(sorted((scenes_dir / "images").iterdir())[:12]):
        shutil.copy(path, tmp_path / "data/images")
        split, captions = "val" if number > 8 else "train", REFERENCES[number % 3 + 1]
        records += [{"image": path.name, "caption": text, "split": split} for text in captions]
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    (tmp_path / "data/captions.jsonl").write_text("\n".join(lines))
    data = ["data=folder", f"data.root={tmp_path / 'data'}", f"data.cache={tmp_path / 'cache'}"]
    by_character = ["metrics_tokenizer=char", f"run_dir={tmp_path / 'run'}"]
    run(train_command, *data, *TINY, "tokenizer.kind=char", *by_character, *overrides)
    run_dir = tmp_path / "run"
    predictions = json.loads((run_dir / "predictions.json").read_text())
    references = {
        entry["image_id"]: [r["caption"] for r in records if r["image"] == entry["image_id"]]
        for entry in predictions
    }
    captions = {entry["image_id"]: entry["caption"] for entry in predictions}
    expected = score(references, captions, tokenizer="char")["corpus"]
    scores = json.loads((run_dir / "scores.json").read_text())
    assert {name: scores["corpus"][name] for name in expected} == expected
    assert scores["origin"]["versions"]["tokenizer"] == "char"
    with open(run_dir / "metrics.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["val/CIDEr"]]
    assert float(rows[-1]["val/CIDEr"]) == pytest.approx(expected["CIDEr"])

    metrics = ["metrics=[bleu,cider,perplexity,language]", *by_character[:1]]
    metrics += [f"run_dir={tmp_path / 'scored'}", f"model={run_dir / 'model'}"]
    tables = ["corpus"] if (run_dir / "frequencies.npz").exists() else []
    assert bool(tables) == ("objective=self_critical" in overrides)
    metrics += [f"corpus={run_dir / 'frequencies.npz'}" for _ in tables]
    run(eval_command, *data, *metrics)
    again = json.loads((tmp_path / "scored/scores.json").read_text())
    assert again["corpus"]["Bleu_4"] == expected["Bleu_4"]
    assert again["corpus"]["words"] == np.mean([len(text) for text in captions.values()])
    bits = again["corpus"]["bits_per_character"]
    assert again["corpus"]["perplexity"] == pytest.approx(2**bits)  # characters are its words


def test_frequencies_are_of_one_tokenizer(tmp_path, capsys):
    captions, table = tmp_path / "captions.token", tmp_path / "table.npz"
    captions.write_text("".join(f"{i}.jpg#0\t{t[0]}\n" for i, t in REFERENCES.items()))
    assert captioner(["frequencies", str(captions), str(table), "--tokenizer", "char"]) in (None, 0)
    counted = read_frequencies(captions, tokenizer="char")
    saved = read_frequencies(table)
    assert saved.version == counted.version == "char"
    assert np.array_equal(saved.frequency_G, counted.frequency_G)
    texts = [*REFERENCES.values()], [*CAPTIONS.values()]
    assert tokens(*texts, saved, tokenizer="char").cider("CIDEr").corpus()["CIDEr"] > 1
    for tokenizer in ("ptb", "none"):
        message = f"are of char tokens, not {tokenizer}: .* --tokenizer {tokenizer}"
        with pytest.raises(InputError, match=message):
            tokens(*texts, saved, tokenizer=tokenizer)


def test_commands_take_every_tokenizer():
    parser = Parser()
    add_tokenizer(parser)
    assert list(parser._actions[-1].choices) == list(TOKENIZERS)


@pytest.mark.parametrize("options", [{"tokenizer": "jieba"}, {"tokenizer": "char", "official": 1}])
def test_what_metrics_cannot_do(options):
    with pytest.raises(InputError, match="metrics_tokenizer=(jieba|char): .* (none|ptb)"):
        tokens([*REFERENCES.values()], [*CAPTIONS.values()], **options)
