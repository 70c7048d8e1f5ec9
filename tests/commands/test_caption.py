"""The `caption` command, as a user runs it."""

import io
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


@pytest.fixture
def lines(pictures, model_dir, capsys):
    """Captions with these arguments -> the lines that are printed."""

    def run(*arguments, model=model_dir):
        assert main([*(["--model", str(model)] if model else []), *arguments]) == 0
        return capsys.readouterr().out.splitlines()

    return run


def test_files_folders_globs_and_ensembles(lines, model_dir, capsys):
    album = lines("album")
    paths, captions = zip(*(line.split(": ") for line in album))
    assert paths == ("album/a b.png", "album/inner/c.png", "album/ü[1].PNG") and all(captions)
    assert sorted(lines("album/ü[1].PNG", "album/**/*.png")) == album
    assert lines("album/inner", "--batch", "2", "album/a b.png") == [album[1], album[0]]
    assert lines("--model", str(model_dir), "album") == album  # an ensemble of twins
    capsys.readouterr()
    assert main(["--model", str(model_dir), "album/*", "album/inner"]) == 0
    printed = capsys.readouterr()
    assert sorted(printed.out.splitlines()) == sorted([*album, album[1]])
    assert "1 file passed over: no pictures" in printed.err


def test_brackets_in_names_are_taken_as_written_first(lines):
    os.renames("album/inner", "album[1]/in")
    shutil.copytree("album[1]", "album1")
    for pattern, folder in (("album[1]/*/*.png", "album[1]"), ("albu[lm]1/**", "album1")):
        assert [line.split(":")[0] for line in lines(pattern)] == [f"{folder}/in/c.png"]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\n\n  \n", b"\0"])
@pytest.mark.parametrize("last", [True, False])
def test_a_list_is_read_as_it_was_meant(pictures, model_dir, monkeypatch, capsys, end, last):
    names = ["album/a b.png", "album/ü[1].PNG", "album/c.png ", "album/c\nd.png"][
        : 3 + (end == b"\0")
    ]
    for name in names[2:]:
        shutil.copy("album/inner/c.png", name)
    data = b"\xef\xbb\xbf" + end.join(map(str.encode, names)) + end * last
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), newline="\n"))
    assert main(["--model", str(model_dir), "-"]) == 0
    assert [line.rpartition(": ")[0] for line in capsys.readouterr().out.splitlines()] == [
        repr(name) if "\n" in name else name for name in names
    ]


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


def test_captions_that_agree_with_samples(lines):
    for line in lines("--json", "--consensus", "20", "--best", "5", "--tokens", "album/inner"):
        record = json.loads(line)
        assert list(record) == ["path", "caption", "score", "tokens", "best"]
        assert list(record["best"][0]) == ["caption", "score", "log_prob", "tokens"]
        scores = [caption["score"] for caption in record["best"]]
        assert 10 >= scores[0] > 0 and scores == sorted(scores, reverse=True)


def test_the_model_is_that_of_the_environment_or_of_the_installation(lines, model_dir, monkeypatch):
    installed = lines("album/a b.png", model=None)
    assert installed == lines("album/a b.png", model=PRETRAINED)
    monkeypatch.setenv("CAPTIONER_MODEL", str(model_dir))
    assert installed != lines("album/a b.png", model=None) == lines("album/a b.png")


def test_the_search_saved_with_the_model_is_used(lines, model_dir):
    model = load(model_dir, device="cpu")
    model.strategy = Beam(2, n=2)
    model.save("two")
    command = "--device", "cpu", "album/a b.png"
    (first,) = lines(*command, model="two")
    assert lines(*command, "--best", "2", model="two")[0] == first
    assert main(["--model", "two", *command, "--best", "3"]) == 2  # of a beam of 2


def test_a_file_name_need_not_be_text(pictures, model_dir):
    """Bytes that are no UTF-8 are printed as such; the others are captioned."""
    os.rename(b"album/a b.png", b"album/\xff.png")
    command = [python(), "-m", "captioner", "--model", str(model_dir), "--json", "album"]
    done = subprocess.run(command, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert len([json.loads(line) for line in done.stdout.splitlines()]) == 3


@pytest.mark.slow
def test_wheel_captions_outside_the_checkout(model_dir, scenes_dir, tmp_path):
    """Built, installed (not editable) and run where the sources are not."""
    source = tmp_path / "source"
    shutil.copytree(
        ROOT, source, ignore=shutil.ignore_patterns(".*", "demo", "build", "runs", "*.egg-info")
    )
    site, picture = tmp_path / "site", min((scenes_dir / "images").iterdir())
    env = os.environ | {"PYTHONPATH": str(site)}

    def output(*command):
        options = dict(cwd=tmp_path, env=env, check=True, capture_output=True, text=True)
        return subprocess.run(command, **options, timeout=120).stdout

    python = [sys.executable, "-m"]
    output(*python, "build", "--wheel", "--no-isolation", "-o", tmp_path, source)
    (wheel,) = tmp_path.glob("captioner-*.whl")
    output(*python, "pip", "install", "--no-deps", "--target", site, wheel)
    assert str(site) in output(sys.executable, "-c", "import captioner; print(captioner.__file__)")
    for command in ([site / "bin" / "caption"], [*python, "captioner"]):
        (line,) = output(*command, "--model", model_dir, picture).splitlines()
        assert line.startswith(f"{picture}: ")


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
