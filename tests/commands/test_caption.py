"""The `caption` command, as a user runs it."""

import json
import os
import shutil
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path

import pytest

from captioner import PRETRAINED, load
from captioner.commands import caption
from captioner.commands.caption import main
from captioner.search import Beam, Consensus, Greedy, Sample
from tests.helpers.forks import python

ROOT = Path(__file__).parents[2]


@pytest.fixture
def pictures(scenes_dir, tmp_path, monkeypatch):
    """A folder with three pictures, one of them in a sub-folder, a text file, and a broken one."""
    (tmp_path / "album" / "inner").mkdir(parents=True)
    names = ("a b.png", "ü[1].PNG", "inner/c.png")
    for path, name in zip(sorted((scenes_dir / "images").iterdir()), names):
        shutil.copy(path, tmp_path / "album" / name)
    (tmp_path / "album" / "notes.txt").write_text("not a picture")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_files_folders_and_globs(pictures, model_dir, capsys):
    command = ["--model", str(model_dir)]
    assert main([*command, "album"]) == 0
    lines = capsys.readouterr().out.splitlines()
    paths, captions = zip(*(line.split(": ") for line in lines))
    assert paths == ("album/a b.png", "album/inner/c.png", "album/ü[1].PNG") and all(captions)
    assert main([*command, "album/ü[1].PNG", "album/**/*.png"]) == 0
    again = capsys.readouterr().out.splitlines()
    assert set(again) == set(lines) and len(again) == 3


def test_json_lines_with_scores_and_errors(pictures, model_dir, capsys):
    paths = ["album/a b.png", "broken.jpg", "none.png", "album/inner"]
    assert main(["--json", "--model", str(model_dir), *paths]) == 1
    printed = capsys.readouterr()
    records = [json.loads(line) for line in printed.out.splitlines()]
    assert [record["path"] for record in records] == [*paths[:3], "album/inner/c.png"]
    captioned, failed = {"path", "caption", "score"}, {"path", "error"}
    assert [set(record) for record in records] == [captioned, failed, failed, captioned]
    assert records[0]["score"] < 0
    assert "broken.jpg" in printed.err and "none.png" in printed.err


def test_captions_that_agree_with_samples(pictures, model_dir, capsys):
    options = ["--json", "--consensus", "20", "--best", "5"]
    assert main([*options, "--model", str(model_dir), "album"]) == 0
    for line in capsys.readouterr().out.splitlines():
        scores = [caption["score"] for caption in json.loads(line)["best"]]
        assert 10 >= scores[0] > 0 and scores == sorted(scores, reverse=True)


def test_the_model_is_that_of_the_environment_or_of_the_installation(
    pictures, model_dir, capsys, monkeypatch
):
    monkeypatch.setenv("CAPTIONER_MODEL", str(model_dir))
    picture = "album/a b.png"
    assert main([picture]) == 0
    named = capsys.readouterr().out
    assert main(["--model", str(model_dir), picture]) == 0 and capsys.readouterr().out == named
    monkeypatch.delenv("CAPTIONER_MODEL")
    assert main([picture]) == 0
    installed = capsys.readouterr().out
    assert main(["--model", str(PRETRAINED), picture]) == 0
    assert capsys.readouterr().out == installed != named


def test_the_search_saved_with_the_model_is_used(pictures, model_dir, capsys):
    model = load(model_dir, device="cpu")
    model.strategy = Beam(2, n=2)
    model.save("two")
    command = ["--model", "two", "--device", "cpu", "album/a b.png"]
    assert main(command) == 0
    (first,) = capsys.readouterr().out.splitlines()
    assert main([*command, "--best", "2"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == first
    assert main([*command, "--best", "3"]) == 2  # of a beam of 2


def test_a_file_name_need_not_be_text(pictures, model_dir):
    """Bytes that are no UTF-8 are printed as such; the others are captioned."""
    os.rename(b"album/a b.png", b"album/\xff.png")
    command = [python(), "-m", "captioner", "--model", str(model_dir), "--json", "album"]
    env = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(command, capture_output=True, env=env, timeout=60)
    assert done.returncode == 0, done.stderr
    assert len([json.loads(line) for line in done.stdout.splitlines()]) == 3


@pytest.mark.slow
def test_wheel_captions_outside_the_checkout(model_dir, scenes_dir, tmp_path):
    """Built, installed (not editable) and run where the sources are not."""
    source = tmp_path / "source"
    shutil.copytree(
        ROOT, source, ignore=shutil.ignore_patterns(".*", "demo", "build", "runs", "*.egg-info")
    )
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(tmp_path)]
    subprocess.run([*build, str(source)], check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("captioner-*.whl")
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(site)]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True, timeout=120)
    picture = min((scenes_dir / "images").iterdir())
    env = os.environ | {"PYTHONPATH": str(site)}
    where = "import captioner; print(captioner.__file__)"
    run = dict(cwd=tmp_path, env=env, check=True, capture_output=True, text=True, timeout=120)
    assert str(site) in subprocess.run([sys.executable, "-c", where], **run).stdout
    for command in ([str(site / "bin" / "caption")], [sys.executable, "-m", "captioner"]):
        done = subprocess.run([*command, "--model", str(model_dir), str(picture)], **run)
        assert done.stdout.startswith(f"{picture}: ") and len(done.stdout.splitlines()) == 1


def test_results_stream_as_they_are_made(pictures, model_dir):
    """The first caption does not wait for the list on stdin to end; an empty line is none."""
    command = [python(), "-m", "captioner", "--model", str(model_dir), "--batch", "1", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        print("album/a b.png", file=run.stdin, flush=True)
        assert run.stdout.readline().startswith("album/a b.png: ")
        print("\nalbum/inner/c.png", file=run.stdin, flush=True)
        assert run.stdout.readline().startswith("album/inner/c.png: ")
        run.stdin.close()
    assert run.returncode == 0


def test_models_are_given_one_by_one(model_dir, pictures, capsys):
    model, other = ["--model", str(model_dir)], str(pictures / "other")
    shutil.copytree(model_dir, other)
    assert main([*model, "album"]) == 0
    alone = capsys.readouterr().out
    assert main([*model, "--model", other, "album"]) == 0
    assert capsys.readouterr().out == alone  # an ensemble of twins
    assert main([*model, "album/inner", "--batch", "2", "album/a b.png"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2  # options may stand among paths


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--batch=0", "album"], "batch_size=0: give"),
        (["--consensus=-1", "album"], "--consensus=-1: give"),
        (["--best=99", "album"], "--best=99: give"),
        (["--model", "othr", "album"], "othr: not a model directory"),
        (["other", "album"], "other: a model, not a picture: write --model before"),
        (["run", "album"], "run holds a run: give --model run/model"),
        ([], "required: PATH"),
    ],
)
def test_a_wrong_argument_is_named(model_dir, pictures, capsys, arguments, message):
    shutil.copytree(model_dir, "other")
    shutil.copytree(model_dir, "run/model")
    try:
        code = main(["--model=other", *arguments])
    except SystemExit as ended:
        code = ended.code
    assert code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(
    "saved, given, expected",
    [
        (Beam(3, 0.7), [], Beam(3, 0.7)),
        (Beam(3, 0.7), ["--best=3"], Beam(3, 0.7, n=3)),
        (Beam(3, 0.7), ["--beam=4", "--length-penalty=1"], Beam(4, 1.0)),
        (Beam(3, 0.7, groups=3), ["--consensus=9"], Consensus(3, 0.7, samples=9)),
        (Consensus(3, 0.7, seed=5), ["--best=2"], Consensus(3, 0.7, seed=5, n=2)),
        (Consensus(3, 0.7, seed=5), ["--consensus=0"], Beam(3, 0.7)),
        (Greedy(9), [], Greedy(9)),
        (Greedy(9), ["--beam=2"], Beam(2, max_length=9)),
        (Sample(0.5, seed=5), ["--best=2"], Sample(0.5, seed=5, n=2)),
    ],
)
def test_options_change_single_ones_of_the_saved_search(saved, given, expected):
    parser = ArgumentParser()
    caption.add_options(parser)
    assert caption.choose_strategy(saved, parser.parse_args([*given, "a.png"])) == expected
