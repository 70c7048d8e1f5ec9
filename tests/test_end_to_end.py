"""The whole road on the embedded data: train, resume from the exported model, score, caption."""

import csv
import json
import math
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from pycocotools.coco import COCO
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import captioner
import eval as eval_command
import train as train_command
from captioner.commands.main import main as captioner_command
from captioner.data import records
from captioner.evaluation import scoring
from captioner.experiment import sources
from captioner.experiment.run_dir import RunDir
from captioner.models import loading
from tests.helpers.forks import ROOT, python
from tests.helpers.runs import run, scores_in


@pytest.fixture(scope="module")
def options(scenes_dir, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    return [f"data.root={scenes_dir}", f"data.cache={cache}", "data.workers=0"]


SMALL = [
    "decoder.embed_size=32",
    "decoder.hidden_size=32",
    "decoder.dropout=0",
    "tokenizer.min_count=1",
]


@pytest.fixture(scope="module")
def trained(options, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    extra = [
        *SMALL,
        "trainer.max_epochs=20",
        "data.batch_size=4",
        "optimizer.lr=0.02",
        "patience=99",
    ]
    score = run(train_command, *options, *extra, f"run_dir={folder}", "trainer.log_every_n_steps=1")
    return folder, score


pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice


def test_the_run_directory_holds_everything(trained, scenes_dir):
    folder, score = trained
    files = {"config.yaml", "tokenizer.json", "metrics.csv", "predictions.json", "scores.json"}
    folders = {"checkpoints", "model", "tensorboard"}
    assert files | folders <= {path.name for path in folder.iterdir()}
    header, *rows = (folder / "metrics.csv").read_text().splitlines()
    columns = header.split(",")
    wanted = {"train/loss", "train/nll", "train/grad_norm", "val/CIDEr", "val/nll", "val/Bleu_4"}
    assert wanted <= set(columns)
    losses = [float(x) for r in rows if (x := r.split(",")[columns.index("train/loss")])]
    assert len(losses) == 100 and losses[-1] < 0.8 * losses[0]
    scores = json.loads((folder / "scores.json").read_text())
    assert math.isclose(scores["corpus"]["CIDEr"], score, abs_tol=1e-6) and score > 0.01
    assert 0 <= scores["corpus"]["scene_accuracy"] <= 1
    assert len(scores["per_image"]) == 8
    board = EventAccumulator(str(folder / "tensorboard"))
    board.Reload()
    assert sum(tag.startswith("val/") for tag in board.Tags()["images"]) == 8
    assert "train/grad_norm" in board.Tags()["scalars"]
    (text, *_) = (tag for tag in board.Tags()["tensors"] if tag.startswith("val/"))
    assert board.Tensors(text)[-1].tensor_proto.string_val[0].count(b"- ") == 5  # references
    assert (folder / "tokenizer.json").read_text() == (folder / "model/tokenizer.json").read_text()


def test_the_model_keeps_the_statistics_of_its_training_pictures(trained, options):
    cfg = RunDir(trained[0]).resumed_config()
    loaded = loading.load(trained[0] / "model")
    some = sources.read_records(cfg.data, "train")
    _, source, _ = sources.make_source(cfg.data, loaded, some, train=True)
    v_BD = source(range(len(some)), None).pooled_BD
    standard = loaded.decoder.standard
    torch.testing.assert_close(standard.mean_D, v_BD.mean(0))
    torch.testing.assert_close(standard.std, v_BD.var(0, correction=0).mean().sqrt())


def test_training_goes_on_from_another_captioner_on_other_data(trained, options, tmp_path):
    """The vocabulary grows, and what was known is known still; here rewarded by itself."""
    folder = tmp_path / "words"
    old = loading.load(trained[0] / "model")
    first, *_ = old.tokenizer.units[4:]
    given = Path(options[0].removeprefix("data.root="))
    data = json.loads((given / "captions_train.json").read_text())
    data["annotations"][0]["caption"] = f"{first} zebra quagga"
    root = tmp_path / "data"
    root.mkdir()
    (root / "captions_train.json").write_text(json.dumps(data))
    for name in ("captions_val.json", "images"):
        (root / name).symlink_to(given / name)
    rest = [*options[1:], *SMALL, f"data.root={root}", "trainer.max_epochs=1", f"run_dir={folder}"]
    run(
        train_command,
        f"model.init_from={trained[0] / 'model'}",
        *rest,
        "objective=self_critical",
        "objective.samples=2",
        "trainer.log_every_n_steps=1",
        "optimizer.lr=0",
        "optimizer.weight_decay=0",
    )
    new = loading.load(folder / "model")
    known = len(old.tokenizer)
    assert new.tokenizer.units[:known] == old.tokenizer.units
    assert new.tokenizer.units[known:] == ["quagga", "zebra"]
    for name, tensor in old.state_dict().items():
        there = new.state_dict()[name]
        torch.testing.assert_close(there[:known] if there.shape != tensor.shape else there, tensor)
    header = (folder / "metrics.csv").read_text().splitlines()[0].split(",")
    panel = "train/reward train/baseline train/entropy train/length val/unique val/vocabulary "
    panel += "val/bad_endings val/unfinished val/repeated_words val/words"
    assert {*panel.split()} <= set(header)


def test_a_captioner_of_another_kind_is_no_start(trained, options, tmp_path, capsys):
    start = f"model.init_from={trained[0] / 'model'}"
    with pytest.raises(SystemExit):
        run(train_command, start, *options, f"run_dir={tmp_path / 'run'}")
    message = capsys.readouterr().err
    assert f"{start}: another model: " in message and '"hidden_size": 32' in message


def test_predictions_are_in_the_official_format(trained, scenes_dir, capsys):
    coco = COCO(str(scenes_dir / "captions_val.json"))
    results = coco.loadRes(str(trained[0] / "predictions.json"))
    assert results.getImgIds() == coco.getImgIds() and len(results.anns) == 8


def test_the_exported_model_gives_the_runs_scores(trained, options, tmp_path):
    folder, score = trained
    again = run(eval_command, f"model={folder / 'model'}", *options, f"run_dir={tmp_path}")
    assert math.isclose(again, score, abs_tol=1e-6)
    name = "predictions.json"
    assert (tmp_path / name).read_text() == (folder / name).read_text()
    assert scores_in(tmp_path) == scores_in(folder)


def test_predictions_are_scored_without_a_model(trained, scenes_dir, tmp_path):
    score = run(
        eval_command,
        f"predictions={trained[0] / 'predictions.json'}",
        f"references={scenes_dir / 'captions_val.json'}",
        f"run_dir={tmp_path}",
    )
    assert math.isclose(score, trained[1], abs_tol=1e-6)
    expected = scores_in(trained[0])["corpus"]
    found = scores_in(tmp_path)["corpus"]
    assert found == {name: value for name, value in expected.items() if "scene" not in name}
    score = run(
        eval_command,
        f"predictions={trained[0] / 'predictions.json'}",
        f"data.root={scenes_dir}",
        f"run_dir={tmp_path}",
    )
    assert scores_in(tmp_path) == scores_in(trained[0])


def test_every_metric_that_a_model_and_its_data_have(
    trained, options, tmp_path, capsys, monkeypatch
):
    metrics = "[rouge,cider_plain,language,perplexity,retrieval,chair]"
    folder = trained[0] / "model"
    beams = "search.n=3"
    rest = *options, f"metrics={metrics}", beams, "corpus=table.npz", f"run_dir={tmp_path}"
    root = next(o for o in options if o.startswith("data.root=")).removeprefix("data.root=")
    monkeypatch.chdir(tmp_path)
    assert captioner_command(["frequencies", f"{root}/captions_train.json", "table.npz"]) == 0
    first = run(eval_command, f"model={folder}", *rest)
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert first == scores["corpus"]["ROUGE_L"]  # the first metric, where there is no CIDEr
    names = {"CIDEr_plain", "novel", "unique", "mBLEU", "self_BLEU", "unfinished", "perplexity"}
    assert names | {"bits_per_character", "R@1", "median_rank"} <= set(scores["corpus"])
    assert None not in scores["corpus"].values()
    assert list(scores["unavailable"]) == ["chair"]
    assert scores["intervals"]["perplexity"][0] < scores["corpus"]["perplexity"]
    origin = scores["origin"]["options"]
    assert origin["search"]["n"] == 3 and origin["seed"] == 0
    assert list(origin["corpus"]) == ["table.npz"]
    assert list(origin["model"]) == [str(folder)] and origin["data"]["root"] == root
    said = json.loads((tmp_path / "predictions.json").read_text())
    assert all(len(entry["captions"]) == 3 for entry in said)
    out = capsys.readouterr().out
    assert "median_rank" in out and "95 % interval" in out and "objects=INSTANCES.json" in out


def test_predictions_are_there_before_a_metric_may_fail(trained, options, tmp_path, monkeypatch):
    def fail(case):
        raise RuntimeError("at the end")

    monkeypatch.setitem(scoring.METRICS, "bleu", fail)
    rest = *options, "metrics=[bleu]", f"run_dir={tmp_path}"
    with pytest.raises(RuntimeError, match="at the end"):
        run(eval_command, f"model={trained[0] / 'model'}", *rest)
    assert len(json.loads((tmp_path / "predictions.json").read_text())) == 8


def test_captions_are_not_novel_by_their_own_references(trained, scenes_dir, tmp_path):
    """A file without a split in its name serves whichever is asked for."""
    shutil.copy(scenes_dir / "captions_val.json", tmp_path / "captions.json")
    (tmp_path / "images").symlink_to(scenes_dir / "images")
    said = f"predictions={trained[0] / 'predictions.json'}"
    rest = "metrics=[language]", f"run_dir={tmp_path / 'run'}"
    run(eval_command, said, "data=folder", f"data.root={tmp_path}", *rest)
    assert "8 of the evaluated images" in scores_in(tmp_path / "run")["unavailable"]["novel"]
    (tmp_path / "captions.json").rename(tmp_path / "captions_val.json")
    (tmp_path / "captions_train.json").write_text("{broken")
    run(eval_command, said, "data=folder", f"data.root={tmp_path}", *rest)
    assert (
        "captions_train.json: not readable as JSON"
        in scores_in(tmp_path / "run")["unavailable"]["novel"]
    )


def test_pictures_without_captions_are_captioned_and_not_scored(trained, scenes_dir, tmp_path):
    """As those of COCO's test splits."""
    images = json.loads((scenes_dir / "captions_test.json").read_text())["images"]
    (tmp_path / "image_info_test2014.json").write_text(json.dumps({"images": images}))
    (tmp_path / "images").symlink_to(scenes_dir / "images")
    options = [f"model={trained[0] / 'model'}", "data=folder", f"data.root={tmp_path}"]
    options += ["split=test", "data.annotations=image_info_test2014.json"]
    run(eval_command, *options, "metrics=[]", f"run_dir={tmp_path / 'run'}")
    said = json.loads((tmp_path / "run" / "predictions.json").read_text())
    assert [entry["image_id"] for entry in said] == [image["id"] for image in images]
    assert not (tmp_path / "run" / "scores.json").exists()


def test_captions_from_paths_are_the_evaluations(trained, scenes_dir):
    """The same picture gives the same words by the cache (float16) and from its file."""
    some = records.read_records(scenes_dir, "val")
    said = captioner.load(trained[0] / "model").caption([r.image for r in some])
    predicted = json.loads((trained[0] / "predictions.json").read_text())
    same = sum(c.caption == p["caption"] for c, p in zip(said, predicted))
    assert same >= 7  # a near-tie may flip between float16 and float32


def test_runs_are_compared_in_a_table(trained, tmp_path, capsys):
    assert captioner_command(["runs", str(trained[0])]) == 0
    assert "scene_accuracy" in capsys.readouterr().out
    other = tmp_path / "other"
    shutil.copytree(trained[0], other)
    config = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(config.replace("lr: 0.", "lr: 3.0e-05 # 0."))
    for format, separator in (("markdown", " | "), ("csv", ",")):
        capsys.readouterr()
        assert captioner_command(["runs", str(trained[0]), str(other), f"--format={format}"]) == 0
        lines = capsys.readouterr().out.splitlines()
        names, *_, one, two = (line.strip("| ").split(separator) for line in lines)
        assert names[1] == "optimizer.lr" and (one[1], two[1]) == ("0.02", "3e-05")
        found = dict(zip(names, one))
        with open(trained[0] / "metrics.csv", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["val/CIDEr"]]
        best = max(rows, key=lambda row: float(row["val/CIDEr"]))
        assert float(found["perplexity"]) == pytest.approx(
            math.exp(float(best["val/nll"])), abs=0.01
        )
        assert float(found["CIDEr"]) == pytest.approx(100 * trained[1], abs=0.06)
        assert found["seconds"].isdigit() and found["parameters"].isdigit()
    assert captioner_command(["runs", "nowhere"]) == 2
    assert "nowhere/scores.json" in capsys.readouterr().err


def test_the_same_seed_gives_the_same_weights(options, trained, tmp_path):
    extra = [*SMALL, "trainer.max_epochs=1", "data.batch_size=4", "decoder.dropout=0.5"]
    weights = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(len(weights))  # what was drawn before does not matter
        run(train_command, *options, *extra, f"seed={seed}", f"run_dir={tmp_path / name}")
        weights.append(captioner.load(tmp_path / name / "model").decoder.state_dict())
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    assert not torch.equal(weights[0]["W_hy.weight"], weights[2]["W_hy.weight"])


def test_a_trainable_encoder_learns_from_pixels(options, tmp_path):
    run(
        train_command, *options, *SMALL, "debug=fast", "data.batch_size=2", "encoder.train=1",
        "encoder.image_size=64", "data.augment={colour:0.1}", "encoder_lr=0.01",
        "trainer.precision=bf16-mixed", f"run_dir={tmp_path}",
    )  # fmt: skip
    weights = captioner.load(tmp_path / "model").state_dict()
    fresh = captioner.encoders.Timm(weights="pip", train=1)
    learning = {n for n, p in fresh.named_parameters() if p.requires_grad}
    moved = {
        n for n, t in fresh.state_dict().items() if not torch.equal(t, weights[f"encoder.{n}"])
    }
    assert moved and not any(n.startswith("trunk.blocks.0") for n in moved)
    assert learning <= moved


@pytest.mark.slow
def test_eight_pictures_are_learned_by_heart(options, tmp_path):
    small = ["decoder.embed_size=64", "decoder.hidden_size=128", "optimizer.lr=0.01"]
    score = run(
        train_command, *options, "debug=overfit", *small, "search=greedy", f"run_dir={tmp_path}"
    )
    header, *rows = (tmp_path / "metrics.csv").read_text().splitlines()
    column = header.split(",").index("train/nll")  # not 0: five captions of each
    assert [float(x) for r in rows if (x := r.split(",")[column])][-1] < 0.5
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["corpus"]["Bleu_4"] > 0.9 and score > 2


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["data.root=nowhere"], "nowhere: no such folder"),
        (["data=flickr8k"], "data.root is not set"),
        (["data.val_split=dev2"], "dev2"),
        (["decoder.inject=x"], "decoder.inject=x"),
        (["optimizer._target_=os.system"], "optimizer._target_=os.system"),
        (["data.views=2"], "data.augment"),
        (["warmup=2"], "warmup=2"),
        (["data.batch_size=0"], "data.batch_size=0"),
        (["data.limit=-1"], "data.limit=-1"),
        (["trainer.max_epochs=0"], "trainer.max_epochs=0"),
        (["trainer.max_epochs=1", "trainer.check_val_every_n_epoch=2"], "no validation took place"),
    ],
)
def test_a_users_error_is_one_line_and_exit_code_2(options, tmp_path, overrides, message, capsys):
    with pytest.raises(SystemExit) as stop:
        keep = [
            o for o in options if not any(x.startswith(o.split("=")[0] + "=") for x in overrides)
        ]
        keep = keep if overrides != ["data=flickr8k"] else keep[1:]
        run(train_command, *keep, *SMALL, *overrides, f"run_dir={tmp_path}")
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_the_commands_run_as_the_readme_says(options, tmp_path):
    """train.py, eval.py and caption in processes of their own, from another folder."""
    env = os.environ | {"HYDRA_FULL_ERROR": "1"}
    folder = tmp_path / "run"

    def shell(*command):
        done = subprocess.run(
            [python(), *map(str, command)],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    out = shell(ROOT / "train.py", *options, *SMALL, "debug=fast", f"run_dir={folder}")
    assert "CIDEr" in out and str(folder / "model") in out
    out = shell(
        ROOT / "eval.py", f"model={folder}/model", *options, "split=test", "search=greedy",
        f"run_dir={tmp_path}/test",
    )  # fmt: skip
    assert "CIDEr" in out and (tmp_path / "test" / "scores.json").exists()
    pictures = Path(options[0].split("=")[1]) / "images"
    out = shell("-m", "captioner", "--model", f"{folder}/model", "--json", pictures)
    assert len(out.splitlines()) == 32


def test_a_run_is_never_overwritten(trained, options, capsys):
    before = (trained[0] / "scores.json").read_bytes()
    with pytest.raises(SystemExit):
        run(train_command, *options, *SMALL, f"run_dir={trained[0]}")
    assert "holds a run already" in capsys.readouterr().err
    assert (trained[0] / "scores.json").read_bytes() == before


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_any_precision_exports_a_float32_model(options, tmp_path, precision):
    extra = [*SMALL, "debug=fast", "encoder=blind", f"trainer.precision={precision}"]
    extra += [f"run_dir={tmp_path}"]
    run(train_command, *options, *extra)
    tensors = captioner.load(tmp_path / "model").decoder.state_dict().values()
    assert {tensor.dtype for tensor in tensors} == {torch.float32}


def test_jobs_of_a_sweep_have_directories_of_their_own(options, tmp_path):
    command = [python(), ROOT / "train.py", "-m", *options, *SMALL, "debug=fast"]
    command += ["decoder=rnn,lstm", "search=greedy", f"run_dir={tmp_path}/sweep"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    for job, cell in enumerate(("RNN", "LSTM")):
        saved = json.loads((tmp_path / "sweep" / str(job) / "model" / "config.json").read_text())
        assert saved["decoder"]["cell"] == cell


def test_two_processes_share_one_run(options, tmp_path):
    """gloo, two ranks: one run directory, every validation picture once."""
    command = [
        python(), ROOT / "train.py", *options, *SMALL, "debug=fast", "data.batch_size=4",
        "trainer.limit_val_batches=1.0", "trainer.devices=2", "trainer.accelerator=cpu",
        "trainer.strategy=ddp", f"run_dir={tmp_path}/run",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    assert len(json.loads((tmp_path / "run/predictions.json").read_text())) == 8
