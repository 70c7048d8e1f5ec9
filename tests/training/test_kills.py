"""A kill -9 before or after anything that a run writes; resumed, its files are as without it."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.helpers.forks import ROOT, python
from tests.helpers.runs import DDP, assert_equal_runs

SMALL = [
    "decoder.embed_size=8", "decoder.hidden_size=8", "checkpoint_minutes=1e-6",
    "trainer.max_epochs=2", "trainer.log_every_n_steps=1", "trainer.accelerator=cpu",
]  # fmt: skip
CAPTIONS = [
    "search=greedy",
    "encoder=blind",
    "encoder.size=8",
    "tokenizer.min_count=1",
    "data.batch_size=10",
]
TEXTS = ["experiment=charlm", "data.batch_size=2", "data.bptt=100", "search.max_length=20"]


class Kills:
    """A run that is started and killed again and again, and one that was left alone."""

    def __init__(self, folder: Path, options: list[str], ranks: str):
        self.folder, self.options, self.ranks = folder, [*options, *SMALL], ranks
        self.log, self.run = folder / "places", folder / "run"
        self.log.touch()
        assert self.train(None, *self.options, f"run_dir={self.run}") == 0
        self.uninterrupted = self.run.rename(folder / "uninterrupted")
        self.places = self.log.read_text().splitlines()
        self.log.unlink()

    def train(self, place: int | None, *options: str) -> int:
        """The exit code of train.py, killed at this place."""
        (self.folder / "sitecustomize.py").write_text(
            "from captioner.training import language_training\n"
            "language_training.FIRST_SAMPLE = 2\n"
            "from tests.helpers import kills\n"
            f"if {place} or {self.log.exists()}:\n"
            f"    kills.install({str(self.run)!r}, {place}, {str(self.log)!r}, {self.ranks!r})\n"
        )
        environment = os.environ | {"PYTHONPATH": f"{self.folder}:{ROOT}"}
        command = [python(), ROOT / "train.py", *options]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
        self.stderr = done.stderr
        return done.returncode

    def check(self, place: int) -> None:
        """Kill at a place (1 is the first), go on, compare."""
        assert self.train(place, *self.options, f"run_dir={self.run}") != 0
        begun = (self.run / "config.yaml").exists()
        again = [f"resume={self.run}"] if begun else [*self.options, f"run_dir={self.run}"]
        assert self.train(None, *again) == 0, self.stderr
        assert_equal_runs(self.uninterrupted, self.run)
        one, other = (self._files(folder) for folder in (self.uninterrupted, self.run))
        assert one.keys() == other.keys()
        assert [name for name in one if one[name] != other[name]] == []
        self.run.rename(self.folder / f"done-{place}")

    def _files(self, folder: Path) -> dict[str, object]:
        """The contents of all files, less the times that they hold."""
        files: dict[str, object] = {}
        for path in folder.rglob("*"):
            name = str(path.relative_to(folder))
            if path.is_dir() or name.startswith("tensorboard"):
                continue
            files[name] = path.read_bytes()
            if name == "config.yaml":
                files[name] = yaml.safe_load(path.read_text()) | {"run_dir": None}
            elif name in ("scores.json", "run.json") or name.startswith("checkpoints"):
                files[name] = None  # the times differ; assert_equal_runs has looked at the others
            if name.endswith(".ckpt"):
                del files[name]  # their numbers differ
        return files


def kills_of(kind: str, folder: Path, scenes_dir: Path, processes: int) -> Kills:
    if kind == "captions":
        options = [*CAPTIONS, f"data.root={scenes_dir}", f"data.cache={folder / 'cache'}"]
    else:
        (folder / "text.txt").write_text("a red dog runs. a cat sits.\n" * 60)
        options = [*TEXTS, f"data.path={folder / 'text.txt'}", f"data.cache={folder / 'cache'}"]
    return Kills(folder, [*options, *(DDP if processes == 2 else [])], "0")


@pytest.mark.parametrize(
    "kind, processes, stride",
    [
        ("captions", 1, 340),
        pytest.param("captions", 1, 9, marks=pytest.mark.slow),
        pytest.param("texts", 1, 9, marks=pytest.mark.slow),
        pytest.param("captions", 2, 60, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_is_killed_anywhere_goes_on_to_the_same_files(
    scenes_dir, tmp_path, kind, processes, stride
):
    """At every so many places; a stride of 1 takes a quarter of an hour."""
    kills = kills_of(kind, tmp_path, scenes_dir, processes)
    assert len(kills.places) >= 60
    for place in range(stride // 2 + 1, len(kills.places) + 1, stride):
        kills.check(place)
