"""`captioner compare`, and the tables of document frequencies that it takes."""

import json
import random

import pytest

from captioner.commands.main import main
from captioner.data.records import read_references
from captioner.metrics.score import score

WORDS = "a the dog cat man runs sits on grass sofa red big in with ball".split()


@pytest.fixture
def files(tmp_path):
    """References of 40 images, and two systems: most of a reference, and its first word."""
    draw = random.Random(0)
    texts = [[" ".join(draw.choices(WORDS, k=8)) for _ in range(3)] for _ in range(40)]
    refs = {
        "images": [{"id": i, "file_name": f"{i}.jpg"} for i in range(40)],
        "annotations": [{"image_id": i, "caption": text} for i in range(40) for text in texts[i]],
    }
    good = [{"image_id": i, "caption": several[0][:-2]} for i, several in enumerate(texts)]
    bad = [{"image_id": i, "caption": several[0].split()[0]} for i, several in enumerate(texts)]
    for name, content in {"refs": refs, "good": good, "bad": bad, "short": bad[:-2]}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


def run(files, *more, a="good", b="bad"):
    refs = ["--refs", str(files / "refs.json"), "--resamples", "500"]
    return main(["compare", str(files / f"{a}.json"), str(files / f"{b}.json"), *refs, *more])


def test_a_better_system_is_surely_better(files, capsys):
    assert run(files, "--json") == 0
    differences = json.loads(capsys.readouterr().out)
    assert list(differences) == ["Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "CIDEr"]
    references = {r.id: r.captions for r in read_references(files / "refs.json")}
    for system, name in (("a", "good"), ("b", "bad")):
        rows = json.loads((files / f"{name}.json").read_text())
        corpus = score(references, {p["image_id"]: p["caption"] for p in rows})["corpus"]
        assert {m: d[system] for m, d in differences.items()} == pytest.approx(corpus)
    for metric in ("ROUGE_L", "CIDEr"):
        values = differences[metric]
        assert values["p"] < 0.01
        assert 0 < values["low"] < values["difference"] < values["high"]


def test_a_table_for_people(files, capsys):
    assert run(files, "--metrics", "rouge") == 0
    out = capsys.readouterr().out
    assert "40 images" in out and "ROUGE_L" in out and " to " in out and "0.00" in out
    assert run(files, "--metrics", "rouge", a="bad", b="bad") == 0
    assert "1.0000" in capsys.readouterr().out


def test_document_frequencies_of_a_corpus(files, capsys):
    table = str(files / "table.npz")
    assert main(["frequencies", str(files / "refs.json"), table]) == 0
    assert "of 40 images" in capsys.readouterr().out
    few = json.loads((files / "refs.json").read_text())
    few["images"], few["annotations"] = few["images"][:20], few["annotations"][:60]
    (files / "few.json").write_text(json.dumps(few))
    scores = []
    for corpus in (None, table, str(files / "refs.json"), str(files / "few.json")):
        more = ["--corpus", corpus] if corpus else []
        assert run(files, "--metrics", "cider", "--json", *more) == 0
        scores.append(json.loads(capsys.readouterr().out)["CIDEr"]["a"])
    assert scores[:3] == pytest.approx([scores[0]] * 3)  # the corpus is that of the references
    assert scores[3] != pytest.approx(scores[0])


@pytest.mark.parametrize(
    "b, more, message",
    [
        ("short", [], "2 images (38, 39) with references but without a caption"),
        ("bad", ["--metrics", "blue"], "metrics blue: give a list of some of bleu, rouge"),
        ("bad", ["--resamples", "5"], "resamples=5"),
        ("bad", ["--corpus", "none.npz"], "none.npz: No such file"),
        ("bad", ["--refs", "none.json"], "none.json"),
    ],
)
def test_errors_are_messages(files, capsys, b, more, message):
    assert run(files, *more, b=b) == 2
    assert message in capsys.readouterr().err


def test_tables_of_one_split(files, capsys):
    content = {
        "images": [
            {"imgid": i, "filename": f"{i}.jpg", "split": s, "sentences": [{"raw": "a dog"}]}
            for i, s in enumerate(["train", "train", "val"])
        ]
    }
    path, table = files / "dataset_x.json", str(files / "t.npz")
    path.write_text(json.dumps(content))
    for arguments, code, message in (
        ([table, "--split", "train"], 0, "3 n-grams of 2 images"),
        ([table, "--split", "test"], 2, "no images of split 'test', only train, val"),
        ([str(files / "t.txt")], 2, ".npz"),
    ):
        assert main(["frequencies", str(path), *arguments]) == code
        assert message in "".join(capsys.readouterr())
