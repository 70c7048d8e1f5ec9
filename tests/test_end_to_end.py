"""The whole road on the embedded data: train, resume from the exported model, score, caption."""

import json
import math
import shutil
import subprocess

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
from tests.helpers.runs import logged, run, scores_in


@pytest.fixture(scope="module")
def options(scenes_dir, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    return [f"data.root={scenes_dir}", f"data.cache={cache}", "data.workers=0"]


SMALL = [
    "decoder.embed_size=32", "decoder.hidden_size=32", "decoder.dropout=0", "tokenizer.min_count=1",
    "data.batch_size=4", "trainer.log_every_n_steps=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def trained(options, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    long = ["trainer.max_epochs=20", "trainer.check_val_every_n_epoch=5", "optimizer.lr=0.02"]
    return folder, run(train_command, *options, *SMALL, *long, f"run_dir={folder}")


def test_the_run_directory_holds_everything(trained, scenes_dir):
    folder, score = trained
    names = {"config.yaml", "tokenizer.json", "metrics.csv", "predictions.json", "scores.json"}
    names |= {"checkpoints", "model", "tensorboard"}
    assert names <= {path.name for path in folder.iterdir()}
    for name in ("train/nll", "train/grad_norm", "val/CIDEr", "val/nll", "val/Bleu_4"):
        assert len(logged(folder, name)) == (100 if name.startswith("train") else 4)
    losses = logged(folder, "train/loss")
    assert len(losses) == 100 and losses[-1] < 0.8 * losses[0]
    scores = scores_in(folder)
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
    coco = COCO(str(scenes_dir / "captions_val.json"))  # predictions are in the official format
    results = coco.loadRes(str(folder / "predictions.json"))
    assert results.getImgIds() == coco.getImgIds() and len(results.anns) == 8


def test_the_model_keeps_the_statistics_of_its_training_pictures(trained, options):
    config = RunDir(trained[0]).resumed_config()
    model = loading.load(trained[0] / "model")
    train = sources.read_records(config.data, "train")
    _, source, _ = sources.make_source(config.data, model, train, train=True)
    v_BD = source(range(len(train)), None).pooled_BD
    standard = model.decoder.standard
    torch.testing.assert_close(standard.mean_D, v_BD.mean(0))
    torch.testing.assert_close(standard.std, v_BD.var(0, correction=0).mean().sqrt())


def test_training_goes_on_from_another_captioner_on_other_data(
    trained, options, scenes_dir, tmp_path
):
    """The vocabulary grows, and what was known is known still; here rewarded by itself."""
    folder = tmp_path / "words"
    old = loading.load(trained[0] / "model")
    first, *_ = old.tokenizer.units[4:]
    data = json.loads((scenes_dir / "captions_train.json").read_text())
    data["annotations"][0]["caption"] = f"{first} zebra quagga"
    root = tmp_path / "data"
    root.mkdir()
    (root / "captions_train.json").write_text(json.dumps(data))
    for name in ("captions_val.json", "images"):
        (root / name).symlink_to(scenes_dir / name)
    run(
        train_command, *options[1:], *SMALL, f"data.root={root}", f"run_dir={folder}",
        "data.images=images",
        f"model.init_from={trained[0] / 'model'}", "trainer.max_epochs=1", "optimizer.lr=0",
        "optimizer.weight_decay=0", "objective=self_critical", "objective.samples=2",
    )  # fmt: skip
    new = loading.load(folder / "model")
    known = len(old.tokenizer)
    assert new.tokenizer.units[:known] == old.tokenizer.units
    assert new.tokenizer.units[known:] == ["quagga", "zebra"]
    for name, tensor in old.state_dict().items():
        grown = new.state_dict()[name]
        torch.testing.assert_close(grown[:known] if grown.shape != tensor.shape else grown, tensor)
    panel = "train/reward train/baseline train/entropy train/length val/unique val/vocabulary "
    panel += "val/bad_endings val/unfinished val/repeated_words val/words"
    assert all(logged(folder, name) for name in panel.split())


def test_the_exported_model_and_its_predictions_give_the_runs_scores(
    trained, options, scenes_dir, tmp_path
):
    folder, score = trained
    expected, predictions = scores_in(folder), folder / "predictions.json"
    again = run(eval_command, f"model={folder / 'model'}", *options, f"run_dir={tmp_path}")
    assert math.isclose(again, score, abs_tol=1e-6) and scores_in(tmp_path) == expected
    assert (tmp_path / "predictions.json").read_text() == predictions.read_text()
    options = [f"predictions={predictions}", f"run_dir={tmp_path / 'other'}"]
    again = run(eval_command, *options, f"references={scenes_dir / 'captions_val.json'}")
    assert math.isclose(again, score, abs_tol=1e-6)
    corpus = {name: x for name, x in expected["corpus"].items() if "scene" not in name}
    assert scores_in(tmp_path / "other")["corpus"] == corpus
    run(eval_command, *options, f"data.root={scenes_dir}")
    assert scores_in(tmp_path / "other") == expected


def test_every_metric_that_a_model_and_its_data_have(
    trained, options, scenes_dir, tmp_path, capsys, monkeypatch
):
    folder = trained[0] / "model"
    metrics = "metrics=[rouge,cider_plain,language,perplexity,retrieval,chair]"
    rest = *options, metrics, "search.n=3", "corpus=table.npz", f"run_dir={tmp_path}"
    monkeypatch.chdir(tmp_path)
    captions = str(scenes_dir / "captions_train.json")
    assert captioner_command(["frequencies", captions, "table.npz"]) == 0
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
    assert list(origin["model"]) == [str(folder)] and origin["data"]["root"] == str(scenes_dir)
    predictions = json.loads((tmp_path / "predictions.json").read_text())
    assert all(len(entry["captions"]) == 3 for entry in predictions)
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
    options = [f"predictions={trained[0] / 'predictions.json'}", "metrics=[language]"]
    options += ["data.images=images"]
    options += ["data=folder", f"data.root={tmp_path}", f"run_dir={tmp_path / 'run'}"]
    run(eval_command, *options)
    assert "8 of the evaluated images" in scores_in(tmp_path / "run")["unavailable"]["novel"]
    (tmp_path / "captions.json").rename(tmp_path / "captions_val.json")
    (tmp_path / "captions_train.json").write_text("{broken")
    run(eval_command, *options)
    reason = scores_in(tmp_path / "run")["unavailable"]["novel"]
    assert "captions_train.json: not readable as JSON" in reason


def test_pictures_without_captions_are_captioned_and_not_scored(trained, scenes_dir, tmp_path):
    """As those of COCO's test splits."""
    images = json.loads((scenes_dir / "captions_test.json").read_text())["images"]
    (tmp_path / "image_info_test2014.json").write_text(json.dumps({"images": images}))
    (tmp_path / "images").symlink_to(scenes_dir / "images")
    options = [f"model={trained[0] / 'model'}", "data=folder", f"data.root={tmp_path}"]
    options += ["split=test", "data.annotations=image_info_test2014.json", "data.images=images"]
    run(eval_command, *options, "metrics=[]", f"run_dir={tmp_path / 'run'}")
    predictions = json.loads((tmp_path / "run" / "predictions.json").read_text())
    assert [entry["image_id"] for entry in predictions] == [image["id"] for image in images]
    assert not (tmp_path / "run" / "scores.json").exists()


def test_captions_from_paths_are_the_evaluations(trained, scenes_dir):
    """The same picture gives the same words by the cache (float16) and from its file."""
    paths = [record.image for record in records.read_records(scenes_dir, "val")]
    results = captioner.load(trained[0] / "model").caption(paths)
    predictions = json.loads((trained[0] / "predictions.json").read_text())
    same = sum(c.caption == p["caption"] for c, p in zip(results, predictions))
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
        values = dict(zip(names, one))
        _, nll = max(zip(*(logged(trained[0], f"val/{name}") for name in ("CIDEr", "nll"))))
        assert float(values["perplexity"]) == pytest.approx(math.exp(nll), abs=0.01)
        assert float(values["CIDEr"]) == pytest.approx(100 * trained[1], abs=0.06)
        assert values["seconds"].isdigit() and values["parameters"].isdigit()
    assert captioner_command(["runs", "nowhere"]) == 2
    assert "nowhere/scores.json" in capsys.readouterr().err


def test_the_same_seed_gives_the_same_weights(options, tmp_path):
    extra = [*SMALL, "encoder=blind", "trainer.max_epochs=1", "decoder.dropout=0.5"]
    weights = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(len(weights))  # what was drawn before does not matter
        run(train_command, *options, *extra, f"seed={seed}", f"run_dir={tmp_path / name}")
        weights.append(captioner.load(tmp_path / name / "model").decoder.state_dict())
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    assert not torch.equal(weights[0]["W_hy.weight"], weights[2]["W_hy.weight"])


@pytest.mark.filterwarnings("ignore:Precision bf16-mixed is not supported by the model summary")
def test_a_trainable_encoder_learns_from_pixels(options, tmp_path):
    run(
        train_command, *options, *SMALL, "debug=fast", "data.batch_size=2", "encoder.train=1",
        "encoder.image_size=64", "data.augment={colour:0.1}", "encoder_lr=0.01",
        "trainer.precision=bf16-mixed", f"run_dir={tmp_path}",
    )  # fmt: skip
    weights = captioner.load(tmp_path / "model").state_dict()
    fresh = captioner.encoders.Timm(weights="pip", train=1)
    learning = {n for n, p in fresh.named_parameters() if p.requires_grad}
    before = fresh.state_dict()
    moved = {n for n in before if not torch.equal(before[n], weights[f"encoder.{n}"])}
    assert moved and not any(n.startswith("trunk.blocks.0") for n in moved)
    assert learning <= moved


@pytest.mark.slow
def test_eight_pictures_are_learned_by_heart(options, tmp_path):
    small = ["decoder.embed_size=64", "decoder.hidden_size=128", "optimizer.lr=0.01"]
    score = run(
        train_command, *options, "debug=overfit", *small, "search=greedy", f"run_dir={tmp_path}"
    )
    assert logged(tmp_path, "train/nll")[-1] < 0.5  # not 0: five captions of each
    assert scores_in(tmp_path)["corpus"]["Bleu_4"] > 0.9 and score > 2


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["warmup=2"], "warmup=2"),
        (["data.batch_size=0"], "data.batch_size=0"),
        (["data.limit=-1"], "data.limit=-1"),
        (["trainer.max_epochs=0"], "trainer.max_epochs=0"),
        (["+trainer.val_check_interval=999"], "trainer: `val_check_interval` (999) must be less"),
        (["trainer.max_epochs=1", "trainer.check_val_every_n_epoch=2"], "no validation took place"),
    ],
)
def test_a_users_error_is_one_line_and_exit_code_2(options, tmp_path, overrides, message, capsys):
    with pytest.raises(SystemExit) as stop:
        run(train_command, *options, *SMALL, "encoder=blind", *overrides, f"run_dir={tmp_path}")
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_the_commands_run_in_another_folder(trained, options, scenes_dir, tmp_path):
    """eval.py and caption in processes of their own; train.py: see test_bad_input.py."""

    def output(*command):
        command = [python(), *map(str, command)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        return done.stdout

    model = trained[0] / "model"
    search = "split=test", "search=greedy", f"run_dir={tmp_path}/test"
    assert "CIDEr" in output(ROOT / "eval.py", f"model={model}", *options, *search)
    assert (tmp_path / "test" / "scores.json").exists()
    out = output("-m", "captioner", "--model", model, "--json", scenes_dir / "images")
    assert len(out.splitlines()) == 32


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_any_precision_exports_a_float32_model(options, tmp_path, precision, capsys):
    extra = ["debug=fast", "encoder=blind", f"trainer.precision={precision}"]
    run(train_command, *options, *SMALL, *extra, f"run_dir={tmp_path}")
    out = capsys.readouterr().out
    assert "CIDEr" in out and f"caption --model {tmp_path / 'model'} PATH" in out
    tensors = captioner.load(tmp_path / "model").decoder.state_dict().values()
    assert {tensor.dtype for tensor in tensors} == {torch.float32}
