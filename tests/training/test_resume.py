"""A run that is cut off and goes on ends exactly as one that was not."""

import os
import re
import shutil
import signal
import subprocess
import time
from functools import cache
from itertools import product

import pytest
import torch

from captioner.errors import InputError
from captioner.models import loading
from captioner.training import checkpoints
from captioner.training.caption_training import CaptionTraining
from captioner.training.data import CaptionData
from tests.helpers.forks import python
from tests.helpers.runs import (
    DDP,
    assert_equal_runs,
    finish_after,
    in_process,
    in_processes,
    scores_in,
)

# A trainable encoder that sees crops, a moving average, dropout, a learning rate that changes at
# every step.
OPTIONS = [
    "encoder=timm", "encoder.name=test_resnet", "encoder.pretrained=false", "encoder.image_size=32",
    "encoder.train=all", "encoder_lr=0.01", "ema=0.9", "+data.augment.min_area=0.5",
    "decoder.dropout=0.5", "decoder.embed_size=16", "decoder.hidden_size=16",
    "tokenizer.min_count=1", "search=greedy",
    "data.batch_size=4", "data.workers=2", "trainer.max_epochs=3", "trainer.log_every_n_steps=1",
    "trainer.accelerator=cpu",
]  # fmt: skip


@pytest.fixture(scope="module")
def options(scenes_dir, tmp_path_factory):
    return [f"data.root={scenes_dir}", f"data.cache={tmp_path_factory.mktemp('cache')}", *OPTIONS]


@pytest.fixture(scope="module")
def blind(options):
    """Options of a run without a CNN."""
    kept = [option for option in options if not option.startswith(("encoder", "+data"))]
    return [*kept, "encoder=blind", "data.workers=0"]


def train(folder, processes, *options, mishap=None):
    """train.py in so many processes, anew or with resume= -> its exit code."""
    if processes == 1:
        return in_process(*options, mishap=mishap)
    ddp = [] if options[0].startswith("resume=") else DDP
    return in_processes(folder, *options, *ddp, mishap=mishap)[0]


@pytest.fixture(scope="module")
def unbroken(options, tmp_path_factory):
    """Number of processes -> the directory of a run that was left alone."""

    @cache
    def make(processes):
        folder = tmp_path_factory.mktemp("unbroken")
        assert train(folder, processes, *options, f"run_dir={folder / 'run'}") == 0
        return folder / "run"

    return make


PLACES = {
    "first epoch": "SIGTERM:{}:0:1",
    "later epoch": "SIGINT:{}:1:1",
    "validation": "val-SIGTERM:{}:1:0",
    "last step": "SIGTERM:{}:2:{last}",
    "kill -9": "SIGKILL:{}:2:1",
}
CASES = [
    pytest.param(*case, marks=() if case == (1, "later epoch") else pytest.mark.slow)
    for case in product((1, 2), PLACES)
]


@pytest.mark.parametrize("processes, where", CASES)
def test_a_run_that_goes_on_ends_as_if_it_had_not_stopped(
    options, unbroken, tmp_path, processes, where
):
    """torch.equal on weights, optimiser and schedule; the same metrics.csv, model, predictions."""
    other = tmp_path / "run"
    last = -(-20 // (4 * processes)) - 1
    mishap = PLACES[where].format(processes - 1, last=last)  # one process hears of it
    signum = signal.Signals[mishap.split(":")[0].removeprefix("val-")]
    extra = [*options, f"run_dir={other}"]
    if signum == signal.SIGKILL:
        ddp = DDP if processes == 2 else []
        assert in_processes(tmp_path, *extra, *ddp, mishap=mishap)[0] != 0
    else:
        assert train(tmp_path, processes, *extra, mishap=mishap) == 128 + signum
    assert not (other / "scores.json").exists()
    assert train(tmp_path, processes, f"resume={other}") == 0
    assert_equal_runs(unbroken(processes), other)


def test_interrupted_three_times_it_still_ends_the_same(options, unbroken, tmp_path):
    """Without workers too."""
    run = tmp_path / "run"
    mishaps = "SIGTERM:0:0:3", "val-SIGINT:0:0:0", "SIGTERM:0:1:0"
    finish_after(mishaps, run, *options, "data.workers=0")
    assert in_process(f"resume={run}") == 0  # a run that has ended only writes its scores again
    assert_equal_runs(unbroken(1), run)


@pytest.mark.parametrize(
    "interval, mishaps",
    [
        ("val_check_interval=0.6", ["SIGTERM:0:0:2", "SIGTERM:0:1:0", "val-SIGTERM:0:1:0"]),
        ("val_check_interval=0.4", ["SIGTERM:0:0:2", "SIGTERM:0:1:0", "val-SIGTERM:0:1:0"]),
        ("val_check_interval=0.4", ["val-SIGTERM:0:0:0", "SIGTERM:0:0:2", "SIGTERM:0:1:0"]),
        ("val_check_interval=1.0", ["val-SIGTERM:0:0:0", "val-SIGTERM:0:0:0", "SIGTERM:0:1:0"]),
        ("max_steps=5", ["SIGTERM:0:1:0"]),
    ],
    ids=["between micro-batches", "after a step", "inside one", "twice in one", "none at the end"],
)
def test_validation_may_come_at_another_place_than_the_epochs_end(
    blind, tmp_path, interval, mishaps
):
    extra = [*blind, "trainer.max_epochs=2", "trainer.accumulate_grad_batches=2"]
    extra += [f"+trainer.{interval}"]
    assert in_process(*extra, f"run_dir={tmp_path / 'unbroken'}") == 0
    finish_after(mishaps, tmp_path / "run", *extra)
    assert_equal_runs(tmp_path / "unbroken", tmp_path / "run")


def test_early_stopping_is_remembered(blind, tmp_path):
    """Cut off between the last epoch and the final scores, the run does not train on."""
    extra = [*blind, "patience=1", "trainer.max_epochs=9", "optimizer.lr=0"]
    assert in_process(*extra, f"run_dir={tmp_path}") == 0
    (tmp_path / "scores.json").unlink()
    before = (tmp_path / "metrics.csv").read_bytes()
    assert in_process(f"resume={tmp_path}") == 0
    assert (tmp_path / "metrics.csv").read_bytes() == before
    assert (tmp_path / "scores.json").exists()


@pytest.mark.slow
def test_a_signal_to_the_whole_group_stops_all_at_one_step(options, unbroken, tmp_path):
    """As Ctrl-C in a terminal, and SLURM, send it."""
    extra = [*options, *DDP, f"run_dir={tmp_path / 'run'}"]
    code, stderr = in_processes(tmp_path, *extra, mishap="group-SIGINT:0:0:1", new_group=True)
    assert code == 130 and stderr.count("SIGINT: saving") == 2
    assert in_processes(tmp_path, f"resume={tmp_path / 'run'}")[0] == 0
    assert_equal_runs(unbroken(2), tmp_path / "run")


@pytest.mark.parametrize("moment", ["val_dataloader", "on_train_end"])
def test_a_signal_before_the_first_step_or_after_the_last_counts(blind, tmp_path, moment):
    kind = CaptionTraining if moment == "on_train_end" else CaptionData
    hook = getattr(kind, moment)

    def signalled(self, *args):
        os.kill(os.getpid(), signal.SIGTERM)
        return hook(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, moment, signalled)
        assert in_process(*blind, "trainer.max_epochs=1", f"run_dir={tmp_path}") == 143
    assert checkpoints.newest(tmp_path / "checkpoints")
    assert not (tmp_path / "scores.json").exists()


def test_what_cannot_go_on_says_so(options, unbroken, tmp_path, capsys):
    def error(*options):
        assert in_process(*options) == 2
        return capsys.readouterr().err

    assert "there is no run to go on with" in error(f"resume={tmp_path}")
    other = tmp_path / "run"
    shutil.copytree(unbroken(1), other)
    config = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(config.replace("limit: null", "limit: 10"))
    assert "training captions, or texts, have changed" in error(f"resume={other}")
    (other / "config.yaml").write_text("a: [")
    assert "not the configuration of a run" in error(f"resume={other}")
    (other / "config.yaml").write_text(re.sub(r"data:\n(  .*\n)*", "data: null\n", config))
    assert "not the configuration of a run" in error(f"resume={other}")
    (other / "config.yaml").write_text(config)
    (other / "samples.txt").mkdir()
    assert f"{other / 'samples.txt'}: a folder, not a regular file" in error(f"resume={other}")
    (other / "samples.txt").rmdir()
    model = (other / "model").rename(tmp_path / "model")
    (other / "model").touch()
    assert f"{other / 'model'}: not a folder" in error(f"resume={other}")
    (other / "model").unlink()
    model.rename(other / "model")
    good = (other / "checkpoints").rename(tmp_path / "good")
    for wrong in ({"number": 3}, [1]):
        checkpoints.save(other / "checkpoints", wrong)
        assert "not the state of a run" in error(f"resume={other}")
    shutil.rmtree(other / "checkpoints")
    good.rename(other / "checkpoints")
    state = checkpoints.load(checkpoints.newest(other / "checkpoints"))
    state["CaptionData"]["processes"] = 2
    checkpoints.save(other / "checkpoints", state)
    assert "the run had 2 processes, now there are 1" in error(f"resume={other}")
    for path in (other / "checkpoints").glob("*.ckpt"):
        path.write_bytes(path.read_bytes()[:-9])
    assert "no checkpoint is whole" in error(f"resume={other}")


def test_resume_takes_no_other_options(unbroken, tmp_path):
    code, stderr = in_processes(tmp_path, f"resume={unbroken(1)}", "trainer.max_epochs=9")
    assert code == 2 and "leave out trainer.max_epochs=9" in stderr


# Checkpoint files


def test_the_newest_whole_checkpoint_is_found(tmp_path, capsys):
    assert checkpoints.newest(tmp_path) is None
    paths = [checkpoints.save(tmp_path, {"number": number}) for number in range(4)]
    assert sorted(tmp_path.glob("*.ckpt")) == paths[-checkpoints.KEEP :]
    assert checkpoints.load(checkpoints.newest(tmp_path)) == {"number": 3}
    data = paths[-1].read_bytes()
    paths[-1].write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert checkpoints.load(checkpoints.newest(tmp_path)) == {"number": 2}
    assert "checksum is wrong" in capsys.readouterr().err
    paths[-2].unlink()
    with pytest.raises(InputError, match="no checkpoint is whole"):
        checkpoints.newest(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "{",
        "[]",
        "{}",
        "null",
        "7" * 5000,
        "[" * 9999,
        b"\xff",
        "[null]",
        '[{"file": null}]',
    ],
)
def test_a_lost_manifest_is_made_anew_from_the_whole_checkpoints(tmp_path, content, capsys):
    paths = [checkpoints.save(tmp_path, {"number": number}) for number in range(3)][1:]
    manifest = tmp_path / "manifest.json"
    before = manifest.read_bytes()

    def spoil():
        manifest.unlink()
        if content is not None:
            manifest.write_bytes(content if isinstance(content, bytes) else content.encode())

    spoil()
    assert checkpoints.newest(tmp_path) == paths[-1] and manifest.read_bytes() == before
    assert "made anew from 2 checkpoints" in capsys.readouterr().err
    paths[-1].write_bytes(paths[-1].read_bytes()[:-9])
    spoil()
    assert checkpoints.newest(tmp_path) == paths[0]
    assert checkpoints.save(tmp_path, {}).name == paths[-1].name  # the broken one is no loss
    for path in tmp_path.glob("*.ckpt"):
        path.write_bytes(b"PK")
    spoil()
    with pytest.raises(InputError, match="manifest.json.*no checkpoint is whole"):
        checkpoints.newest(tmp_path)


def test_a_checkpoint_executes_nothing(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'executed'}",)

    path = checkpoints.save(tmp_path, {"state": Trap()})
    with pytest.raises(Exception, match="(?i)weights.only"):
        checkpoints.load(path)
    assert not (tmp_path / "executed").exists()


SAVER = """
import sys, torch
from pathlib import Path
from captioner.training import checkpoints
number = 0
while True:
    number += 1
    checkpoints.save(Path(sys.argv[1]), {"number": number, "x": torch.full((200_000,), number)})
    print(number, flush=True)
"""


@pytest.mark.slow
def test_a_kill_at_any_moment_of_a_save_leaves_a_whole_checkpoint(tmp_path):
    """20 kills; what was reported as saved is never lost, and the next process goes on."""
    rng = torch.Generator().manual_seed(0)
    for _ in range(20):
        before = checkpoints.newest(tmp_path)
        command = [python(), "-c", SAVER, tmp_path]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as saver:
            reported = [saver.stdout.readline()]
            time.sleep(0.3 * torch.rand((), generator=rng).item())
            saver.kill()
            reported += saver.stdout.readlines()
        state = checkpoints.load(checkpoints.newest(tmp_path))
        assert (state["x"] == state["number"]).all()
        last = max(int(line) for line in reported if line.endswith("\n"))
        assert state["number"] in (last, last + 1)
        assert checkpoints.newest(tmp_path) != before


# Phases: runs of one curriculum

PHASES = [
    "phases=[{name:words,trainer:{max_epochs:2}},{name:rewards,trainer:{max_epochs:3},"
    "optimizer:{lr:0.001},data:{batch_size:10},objective:{_target_:"
    "captioner.objectives.self_critical.SelfCritical,samples:2,max_length:12}}]"
]


@pytest.fixture(scope="module")
def curriculum(options, tmp_path_factory):
    """A run of two phases."""
    folder = tmp_path_factory.mktemp("phases") / "run"
    assert in_process(*options, *PHASES, f"run_dir={folder}") == 0
    return folder


def test_each_phase_is_a_run_of_its_own_and_the_last_ones_results_the_wholes(curriculum):
    first, last = curriculum / "1_words", curriculum / "2_rewards"
    for phase in (first, last):
        assert ("train/reward" in (phase / "metrics.csv").read_text()) == (phase == last)
        assert (phase / "frequencies.npz").exists() == (phase == last)
    for name in ("scores.json", "predictions.json", "model/model.safetensors"):
        assert (curriculum / name).read_bytes() == (last / name).read_bytes()


@pytest.mark.parametrize(
    "processes, mishap",
    [(1, "SIGTERM:0:2:1"), pytest.param(2, "SIGTERM:1:1:1", marks=pytest.mark.slow)],
    ids=["second phase", "first phase, two processes"],
)
def test_a_curriculum_goes_on_with_the_unfinished_phase(
    curriculum, options, tmp_path, processes, mishap
):
    """The first phase has no third epoch."""
    other, unbroken = tmp_path / "run", curriculum
    if processes == 2:
        unbroken = tmp_path / "unbroken"
        assert train(tmp_path, 2, *options, *PHASES, f"run_dir={unbroken}") == 0
    code = train(tmp_path, processes, *options, *PHASES, f"run_dir={other}", mishap=mishap)
    assert code == 143
    first = other / "1_words" / "scores.json"
    assert first.exists() == (":2:" in mishap) and not (other / "scores.json").exists()
    time_of_first = first.stat().st_mtime_ns if first.exists() else None
    assert train(tmp_path, processes, f"resume={other}") == 0
    for name in ("1_words", "2_rewards"):
        assert_equal_runs(unbroken / name, other / name)
    assert scores_in(other) == scores_in(unbroken)
    assert time_of_first in (None, first.stat().st_mtime_ns)


def test_the_cnn_learns_from_a_phase_on(options, tmp_path):
    """Frozen in the first one, from which the second goes on; and frozen again in the third."""
    kept = [option for option in options if "data.augment" not in option]
    cnn = "encoder:{train:all},encoder_lr:0.01,data:{augment:{min_area:0.5}}"
    phases = f"phases=[{{name:a}},{{name:b,{cnn}}},{{name:c}}]"
    extra = ["encoder.train=none", "trainer.max_epochs=1", "data.limit=8", phases]
    extra += [f"run_dir={tmp_path}/run"]
    assert in_process(*kept, *extra) == 0
    a, b, c = (loading.load(folder / "model") for folder in sorted((tmp_path / "run").glob("?_*")))
    assert a.encoder.weights() != b.encoder.weights() == c.encoder.weights()
    assert not torch.equal(b.decoder.embed.weight, c.decoder.embed.weight)
