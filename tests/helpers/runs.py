"""Run train.py and eval.py, in this process or as a user does, and compare what they leave."""

import csv
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

import train as train_command
from captioner.experiment import schemas
from captioner.training import checkpoints, lightning
from tests.helpers import mishaps
from tests.helpers.forks import ROOT, python

DDP = ["trainer.devices=2", "trainer.strategy=ddp"]
TORCHRUN = [python(), "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


def composed(*overrides, name="train", **options):
    """The configuration of train.py, or of another command."""
    schemas.register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose(name, [*overrides], **options)


def run(command, *overrides):
    """train.py's or eval.py's main, as Hydra calls it, with the warnings that train.py lets by."""
    lightning.silence()
    return command.main.__wrapped__(composed(*overrides, name=Path(command.__file__).stem))


def in_process(*options, mishap=None):
    """train.py in this process -> its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        if mishap:
            mishaps.install(mishap, patch.setattr)
        try:
            run(train_command, *options)
        except SystemExit as stop:
            return stop.code
    return 0


def in_processes(
    tmp_path, *options, mishap=None, start=(), script=ROOT / "train.py", new_group=False
):
    """train.py as a user starts it -> its exit code, and stderr."""
    done = subprocess.run(
        [*(start or [python()]), script, *options],
        env=mishaps.environment(tmp_path, mishap),
        capture_output=True,
        text=True,
        timeout=300,
        preexec_fn=os.setpgrp if new_group else None,
    )
    return done.returncode, done.stderr


def finish_after(mishaps, folder, *options):
    """train.py in this process, stopped by one mishap after the other, and resumed each time."""
    way = [*options, f"run_dir={folder}"]
    for mishap in mishaps:
        name = mishap.split(":")[0].removeprefix("val-")
        assert in_process(*way, mishap=mishap) == 128 + signal.Signals[name]
        assert not (folder / "scores.json").exists()
        way = [f"resume={folder}"]
    assert in_process(*way) == 0


def logged(folder, name):
    """A column of metrics.csv, without its empty cells."""
    with open(folder / "metrics.csv", newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]


def different(a, b, at=""):
    """Where two nested structures of tensors and numbers differ."""
    if isinstance(a, torch.Tensor):
        return [] if torch.equal(a, b) else [at]
    if isinstance(a, dict):
        keys = [] if a.keys() == b.keys() else [at]
        return keys + [x for k in a.keys() & b.keys() for x in different(a[k], b[k], f"{at}/{k}")]
    if isinstance(a, list | tuple):
        pairs = enumerate(zip(a, b, strict=True))
        return [x for i, pair in pairs for x in different(*pair, f"{at}/{i}")]
    return [] if a == b else [at]


def scores_in(folder):
    """scores.json, less when and how they were made."""
    return {**json.loads((folder / "scores.json").read_text()), "origin": None}


def assert_equal_runs(one, other):
    """The same state to the bit, and the same files; of captioners and of language models."""
    a, b = (checkpoints.load(checkpoints.newest(run / "checkpoints")) for run in (one, other))
    data = "CaptionData" if "CaptionData" in a else "streams"
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "callbacks", data):
        assert (places := different(a[part], b[part])) == [], places
    assert a["global_step"] == b["global_step"]
    texts = "predictions.json" if data == "CaptionData" else "samples.txt"
    for name in ("metrics.csv", texts, "model/model.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    assert scores_in(one) == scores_in(other)
