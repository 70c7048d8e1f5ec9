"""With an escape sequence in every string that a file holds, none reaches a terminal or a page."""

import json
import re
import shutil

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import eval as eval_command
import train as train_command
from captioner.commands.caption import main as caption
from captioner.commands.main import main as captioner
from captioner.errors import UNSAFE, InputError
from captioner.training import lightning
from tests.helpers.runs import composed

ESC = "\x1b]0;t\x07\x9b2J\u202e[x]"
TINY = [
    "encoder=blind", "decoder.embed_size=8", "decoder.hidden_size=8", "search=greedy",
    "tokenizer.kind=char", "tokenizer.min_count=1", "tokenizer.max_length=60",
    "data.batch_size=4", "data.workers=0", "trainer.max_epochs=1", "trainer.log_every_n_steps=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def world(scenes_dir, tmp_path_factory):
    """A folder with a data set, a run, and a text corpus: every name and value holds ESC."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "data/images").mkdir(parents=True)
    records = []
    for number, path in enumerate(sorted((scenes_dir / "images").iterdir())[:6]):
        name, split = f"{ESC}{number}.png", "val" if number > 3 else "train"
        shutil.copy(path, folder / "data/images" / name)
        records.append({"image": name, "caption": f"a {ESC} dog {number} {ESC}", "split": split})
    (folder / "data/captions.jsonl").write_text("".join(f"{json.dumps(r)}\n" for r in records))
    (folder / f"docs{ESC}").mkdir()
    for number in range(12):
        text = f"the cat {ESC} on the mat\nthe dog\n" * 4
        (folder / f"docs{ESC}/{ESC}{number}.txt").write_text(text)
    return folder


def run(command, config, **values):
    """train.py or eval.py with values that Hydra's grammar has no place for."""
    for name, value in values.items():
        config[name] = str(value)
    lightning.silence()
    return command.main.__wrapped__(config)


@pytest.fixture(scope="module")
def trained(world):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(world)
        config = composed("data=folder", "data.root=data", "data.cache=cache", *TINY)
        run(train_command, config, run_dir=f"run{ESC}")
    return world / f"run{ESC}"


def check(capsys, escaped=True):
    out, err = capsys.readouterr()
    text = re.sub(r"\r|\x1b\[A", "", out + err).replace("\n", "").replace("\t", "")
    assert not UNSAFE.search(text), repr(text)
    assert not escaped or "\\x1b" in text or "\\u001b" in text, repr(text)


def test_training_and_its_pages(world, monkeypatch, capsys):
    monkeypatch.chdir(world)
    config = composed("data=folder", "data.root=data", "data.cache=cache", *TINY)
    run(train_command, config, run_dir=f"again{ESC}")
    check(capsys)
    board = EventAccumulator(f"again{ESC}/tensorboard")
    board.Reload()
    texts = [
        text.decode()
        for tag in board.Tags()["tensors"] if tag.startswith("val/")
        for event in board.Tensors(tag) for text in event.tensor_proto.string_val
    ]  # fmt: skip
    assert texts and not any(UNSAFE.search(text.replace("\n", "")) for text in texts)
    assert any("\\x1b" in text for text in texts)


def test_commands_on_a_strangers_run(world, trained, monkeypatch, capsys):
    monkeypatch.chdir(world)
    model = f"--model={trained}/model"
    for options in ["--best=2", "--beam=2"], ["--json", "--tokens"]:
        caption([model, "data", *options])
        check(capsys)
    assert captioner(["runs", str(trained), str(trained)]) == 0
    check(capsys)
    evaluation = composed("data=folder", "data.root=data", name="eval")
    run(eval_command, evaluation, model=f"{trained}/model", run_dir=f"eval{ESC}")
    check(capsys)
    files = [str(trained / "predictions.json")] * 2
    captioner(["compare", *files, "--refs", "data/captions.jsonl", "--resamples=9"])
    check(capsys, escaped=False)


def change(path, *keys, to):
    """Set a value in a JSON file."""
    content = inner = json.loads(path.read_text())
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = to
    path.write_text(json.dumps(content))


CONFIG = ["decoder", "encoder", "preprocess", "search"]


@pytest.mark.parametrize(
    "key", ["_target_", "name", ESC, "size"], ids=["class", "name", "other", "size"]
)
@pytest.mark.parametrize("part", [*CONFIG, "tokenizer"])
def test_messages_about_a_strangers_model(part, key, trained, tmp_path, capsys):
    shutil.copytree(trained / "model", tmp_path / f"m{ESC}")
    if part == "tokenizer":
        change(tmp_path / f"m{ESC}/tokenizer.json", {"_target_": "kind"}.get(key, key), to=ESC)
    else:
        content = json.loads((tmp_path / f"m{ESC}/config.json").read_text())
        content[part] = (content.get(part) or {}) | {key: f"captioner.{ESC}"}
        (tmp_path / f"m{ESC}/config.json").write_text(json.dumps(content))
    caption([f"--model={tmp_path}/m{ESC}", "x.png"])
    check(capsys, escaped=part != "tokenizer")


@pytest.mark.parametrize(
    "name, text",
    [
        (f"{ESC}.json", json.dumps({"annotations": [{ESC: 1}], "images": [{"id": ESC}]})),
        (f"{ESC}.json", json.dumps([{"image": ESC, "caption": "a", ESC: 1}])),
        (f"{ESC}.json", json.dumps({"images": [{"id": ESC, "file_name": ESC}] * 2})),
        (f"{ESC}.jsonl", json.dumps({"image": ESC, "caption": ESC, "split": ESC})),
        (f"{ESC}.jsonl", '{"image": "' + ESC),
        (f"{ESC}.csv", f"image,{ESC},{ESC}\na,b,c\n"),
        (f"{ESC}.csv", f"image,caption\n{ESC},{ESC}\n"),
        (f"{ESC}.token", f"{ESC}#0\t{ESC}\n{ESC}\n"),
        (f"{ESC}.txt", ESC),
    ],
    ids=range(9),
)
def test_messages_about_caption_files(name, text, tmp_path):
    from captioner.data.records import read_records, read_references

    (tmp_path / name).write_text(text)
    for read in (
        lambda: read_references(tmp_path / name),
        lambda: read_records(tmp_path, "train", captions=name),
        lambda: read_records(tmp_path, "train"),
    ):
        try:
            read()
        except InputError as error:
            assert not UNSAFE.search(str(error).replace("\n", ""))


def test_a_language_model_and_its_page(world, monkeypatch, capsys):
    monkeypatch.chdir(world)
    config = composed(
        "experiment=charlm", "decoder.hidden_size=8", "data.batch_size=2", "data.bptt=8",
        "trainer.max_epochs=1", "tokenizer.min_count=1",
        f"data.path={world}/x.txt", "data.val_share=0.2",
    )  # fmt: skip
    config.data.path = f"docs{ESC}"
    run(train_command, config, run_dir=f"text{ESC}")
    check(capsys)
    captioner(["sample", f"text{ESC}/model", "--length=50", "--n=2", "--seed=1"])
    check(capsys, escaped=False)
    page = f"n{ESC}.html"
    options = [f"--out={page}", "--val-share=0.3"]
    assert captioner(["neurons", f"text{ESC}/model", f"docs{ESC}", *options]) == 0
    check(capsys)
    html = (world / page).read_text()
    assert "\\x1b" in html and not UNSAFE.search(html.replace("\n", ""))
