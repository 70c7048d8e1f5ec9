"""Several processes do what one would: the same gradients, captions and files; and end together."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
import yaml

import eval as eval_command
from captioner.data import records
from captioner.training import checkpoints
from tests.helpers import forks, mishaps
from tests.helpers.forks import ROOT, python
from tests.helpers.runs import (
    DDP,
    TORCHRUN,
    assert_equal_runs,
    in_process,
    in_processes,
    logged,
    run,
    scores_in,
)

SMALL = [
    "encoder=blind", "decoder.embed_size=16", "decoder.hidden_size=16", "tokenizer.min_count=1",
    "search=greedy", "data.batch_size=4", "trainer.max_epochs=2", "trainer.log_every_n_steps=1",
    "trainer.accelerator=cpu",
]  # fmt: skip


@pytest.fixture(scope="module")
def options(scenes_dir, tmp_path_factory):
    return [f"data.root={scenes_dir}", f"data.cache={tmp_path_factory.mktemp('cache')}", *SMALL]


# Gradients

JOINT = [
    "data.limit=8", "trainer.max_epochs=1", "trainer.precision=64-true", "decoder.dropout=0",
    "optimizer._target_=torch.optim.SGD", "optimizer.lr=1", "optimizer.weight_decay=0",
    "decoder.hidden_size=16",
]  # fmt: skip
KINDS = ["minds_eye 0", "soft_attention 0", "up_down 0", "transformer 0", "lstm 0.01"]


def stepped(tmp_path, name, *options):
    """The state after one step of gradient descent on 8 pictures, and the step's loss."""
    options = *options, f"run_dir={tmp_path / name}"
    if DDP[-1] in options:
        code, stderr = in_processes(tmp_path, *options)
        assert code == 0, stderr
    else:
        assert in_process(*options) == 0
    state = checkpoints.load(checkpoints.newest(tmp_path / name / "checkpoints"))
    assert state["global_step"] == 1
    return {**state["state_dict"], "loss": torch.tensor(logged(tmp_path / name, "train/loss")[0])}


@pytest.mark.parametrize(
    "kind", ["lstm 0", *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS)]
)
def test_gradients_are_those_of_the_joint_batch(options, tmp_path, kind):
    """At once; in 3 micro-batches; by 2 processes in 2 each. Their numbers of words differ, and a
    decoder's own penalty belongs to the words or captions of one process."""
    decoder, clip = kind.split()
    extra = [option for option in options if not option.startswith("decoder.")]
    extra += [*JOINT, f"decoder={decoder}", f"trainer.gradient_clip_val={clip}"]
    extra += [] if decoder == "transformer" else ["decoder.embed_size=16"]
    expected = stepped(tmp_path, "at once", *extra, "data.batch_size=8")
    for size, batches, more in ((3, 3, []), (3, 7, []), (2, 2, DDP)):  # uneven, cut short
        way = [f"data.batch_size={size}", f"trainer.accumulate_grad_batches={batches}", *more]
        state = stepped(tmp_path, f"{size}-{batches}", *extra, *way)
        torch.testing.assert_close(state, expected, atol=1e-10, rtol=0)


# One run directory, one set of features and captions


@pytest.fixture
def current(tmp_path, monkeypatch):
    """An empty folder, where the commands run."""
    folder = tmp_path / "current"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_torchrun_has_one_run_directory_and_one_cache(options, scenes_dir, current, tmp_path):
    """Without run_dir, which holds the time: each process would have its own."""
    mine = [*options, *DDP, "trainer.max_epochs=1"]
    code, stderr = in_processes(tmp_path, *mine, "data.cache=cache", start=[*TORCHRUN, "2"])
    assert code == 0, stderr
    (run_dir,) = Path("runs").iterdir()
    predictions = json.loads((run_dir / "predictions.json").read_text())
    ids = [record.id for record in records.read_records(scenes_dir, "val")]
    assert [prediction["image_id"] for prediction in predictions] == ids
    assert sorted(p.name for p in current.iterdir()) == ["cache", "runs"]
    (rows,) = Path("cache").glob("*/rows.txt")
    pictures = rows.read_text().splitlines()
    assert len(pictures) == len(set(pictures)) == 28  # each computed once
    alone = tmp_path / "alone"
    assert in_processes(tmp_path, *mine, f"run_dir={alone}")[0] == 0
    assert_equal_runs(alone, run_dir)


@pytest.mark.parametrize(
    "run_dir, pairs",
    [
        ("runs/same", 1),
        pytest.param("runs/same", 15, marks=pytest.mark.slow),
        pytest.param("runs/${run_name:}", 15, marks=pytest.mark.slow),
    ],
)
def test_two_runs_that_begin_at_once_are_two_runs_or_one(options, current, run_dir, pairs):
    """Each directory holds the configuration and results of one; a refused run wrote nothing."""
    options, whole = [*options, "trainer.max_epochs=1", "data.limit=8"], {}
    for seed in (1, 2):
        assert in_process(*options, f"seed={seed}", f"run_dir=alone{seed}") == 0
        whole[seed] = Path(f"alone{seed}")
    for _ in range(pairs):
        commands = [
            [python(), ROOT / "train.py", *options, f"seed={seed}", f"run_dir={run_dir}"]
            for seed in whole
        ]
        pipes = {"stderr": subprocess.PIPE, "text": True}
        runs = [subprocess.Popen(command, **pipes) for command in commands]
        errors = [run.communicate(timeout=120)[1] for run in runs]
        codes = [run.returncode for run in runs]
        folders = list(Path("runs").iterdir())
        if run_dir.endswith("same"):
            assert sorted(codes) == [0, 2]
            refusal = r"error: runs/same(: in use by process \d+ on .*| holds a run already: .*)\n"
            assert re.fullmatch(refusal, errors[codes.index(2)])
        else:
            assert codes == [0, 0]
        assert len(folders) == codes.count(0)
        for folder in folders:
            seed = yaml.safe_load((folder / "config.yaml").read_text())["seed"]
            assert codes[seed - 1] == 0
            assert_equal_runs(whole[seed], folder)
            assert not (folder / "lock").exists()
            shutil.rmtree(folder)


EVALUATE = """
import json, sys
import torch
from captioner import distributed, search
from captioner.data import records
from captioner.data.batches import PixelSource
from captioner.evaluation import predictions, scoring
from captioner.models import loading
distributed.join()
captioner = loading.load(sys.argv[1]).to(getattr(torch, sys.argv[3]))
train, val = (records.read_records(sys.argv[2], split) for split in ("train", "val"))
chosen, batch_size = train + val[:3], int(sys.argv[5])
source = PixelSource([record.image for record in chosen], captioner.encoder.preprocess)
captions = predictions.predict(captioner, chosen, source, search.Beam(3), batch_size=batch_size)
case = scoring.Case(chosen, captions, model=captioner, source=source)
scores = scoring.evaluate(case, ["bleu", "cider", "perplexity", "retrieval"])["corpus"]
scores = {name: round(value, 9) for name, value in scores.items()}
if distributed.rank() == 0:
    open(sys.argv[4], "w").write(json.dumps([captions, scores]))
"""


@pytest.mark.slow
def test_predictions_and_scores_are_the_same_for_any_number_of_processes(
    model_dir, scenes_dir, tmp_path
):
    """In float64 every word; in float32 a near-tie may flip with the batch's shape."""
    (tmp_path / "evaluate.py").write_text(EVALUATE)

    def evaluated(dtype, world, batch_size):
        out = tmp_path / f"{dtype}-{world}-{batch_size}.json"
        arguments = [model_dir, scenes_dir, dtype, out, str(batch_size)]
        start = {"start": [*TORCHRUN, str(world)], "script": tmp_path / "evaluate.py"}
        assert in_processes(tmp_path, *arguments, **start)[0] == 0
        return json.loads(out.read_text())

    alone = evaluated("float64", 1, 7)
    assert len(alone[0]) == 23
    for world, batch_size in [(2, 7), (3, 4), (3, 64)]:
        assert evaluated("float64", world, batch_size) == alone
    (alone, _), (shared, _) = (evaluated("float32", world, 7) for world in (1, 2))
    assert sum(a["caption"] != b["caption"] for a, b in zip(alone, shared)) <= 2


@pytest.mark.slow
def test_eval_py_shares_the_pictures(model_dir, scenes_dir, current, tmp_path):
    data = [f"data.root={scenes_dir}", "data.cache=cache", f"model={model_dir}", "search=greedy"]
    start = {"start": [*TORCHRUN, "2"], "script": ROOT / "eval.py"}
    code, stderr = in_processes(tmp_path, *data, **start)
    assert code == 0, stderr
    (run_dir,) = Path("runs").iterdir()
    alone = tmp_path / "alone"
    run(eval_command, *data, f"run_dir={alone}")
    name = "predictions.json"
    assert (run_dir / name).read_text() == (alone / name).read_text()
    assert scores_in(run_dir) == scores_in(alone)


# The end of one is the end of all


def test_a_loss_that_is_not_a_number_stops_all_and_saves_nothing(options, scenes_dir, tmp_path):
    """On one process, in the second epoch: the checkpoint and the model of the first stay."""
    run_dir = tmp_path / "run"
    extra = [*options, *DDP, f"run_dir={run_dir}"]
    code, stderr = in_processes(tmp_path, *extra, mishap="nan:1:1:1")
    assert code == 2
    assert "loss nan at step 4 (epoch 1), learning rate" in stderr
    named = stderr[stderr.index("loss nan") :].splitlines()[1:5]
    assert all(Path(name.strip()).parent == scenes_dir / "images" for name in named)
    state = checkpoints.load(checkpoints.newest(run_dir / "checkpoints"))
    assert state["global_step"] == 3
    assert all(tensor.isfinite().all() for tensor in state["state_dict"].values())
    assert in_processes(tmp_path, f"resume={run_dir}")[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("launch", ["train.py", "torchrun"])
def test_a_process_that_fails_or_hangs_ends_the_others(options, tmp_path, launch):
    """Within 10 s more than `timeout` (torchrun gives its processes 30 s to end)."""
    start = [python()] if launch == "train.py" else [*TORCHRUN, "2"]
    runs = []
    for mishap in ("raise:0:0:1", "raise:1:0:1", "hang:1:0:1", "hang:0:0:1"):
        folder = tmp_path / mishap.replace(":", "-")
        folder.mkdir()
        command = [*start, ROOT / "train.py", *options, *DDP, "timeout=10", f"run_dir={folder}/run"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        runs.append(subprocess.Popen(command, env=mishaps.environment(folder, mishap), **quiet))
    codes = [run.wait(timeout=90) for run in runs]
    assert 0 not in codes
    time.sleep(0.5)
    left = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True)
    assert left.stdout == ""


@pytest.mark.slow
def test_slurm_stops_requeues_and_goes_on(options, tmp_path):
    """Two tasks as srun starts them; SIGUSR1 to one of them; then the job comes again."""
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/requeued\n')
    scontrol.chmod(0o755)
    slurm = {
        "SLURM_JOB_ID": "1234", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "2", "SLURM_NODEID": "0", "SLURM_NODELIST": "localhost",
        "MASTER_ADDR": "127.0.0.1", "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
    }  # fmt: skip

    def job(mishap=None, restarts="0"):
        env = mishaps.environment(tmp_path, mishap) | slurm | {"SLURM_RESTART_COUNT": restarts}
        command = [python(), ROOT / "train.py", *options, *DDP]
        pipes = {"cwd": tmp_path, "stderr": subprocess.PIPE, "text": True}
        ranks = [{"SLURM_PROCID": rank, "SLURM_LOCALID": rank} for rank in ("0", "1")]
        tasks = [subprocess.Popen(command, env=env | rank, **pipes) for rank in ranks]
        errors = [task.communicate(timeout=120)[1] for task in tasks]
        return [task.returncode for task in tasks], errors

    codes, errors = job("SIGUSR1:1:1:0")
    assert codes == [128 + signal.SIGUSR1, 0], errors
    assert (tmp_path / "requeued").read_text() == "requeue 1234\n"
    codes, errors = job(restarts="1")  # the same command
    assert codes == [0, 0], errors
    (run_dir,) = (tmp_path / "runs").iterdir()
    assert run_dir.name == "slurm_1234"
    assert in_processes(tmp_path, *options, *DDP, f"run_dir={tmp_path / 'alone'}")[0] == 0
    assert_equal_runs(tmp_path / "alone", run_dir)


# Sweeps


def test_a_sweep_of_subprocesses_is_refused(options, tmp_path):
    code, stderr = in_processes(tmp_path, "-m", *options, *DDP, f"run_dir={tmp_path}/sweep")
    assert code == 2
    assert all(way in stderr for way in ("ddp_spawn", "joblib", "submitit"))
    assert not list((tmp_path / "sweep").glob("*/config.yaml"))


def test_a_sweep_ends_in_a_table_and_goes_on_where_it_stopped(options, tmp_path):
    """A job that fails does not stop the others; the same command again runs only what lacks."""
    sweep = ["-m", *options, "trainer.max_epochs=1", "data.limit=8", f"run_dir={tmp_path}/sweep"]
    sweep += ["decoder.cell=RNN,XXX,LSTM"]
    code, stderr = in_processes(tmp_path, *sweep)
    assert code == 1 and "error: decoder.cell=XXX: give one of" in stderr
    header, _, rnn, lstm = (tmp_path / "sweep" / "runs.md").read_text().splitlines()
    assert header.split(" | ")[:2] == ["| run", "decoder.cell"]
    assert {"CIDEr", "Bleu_4", "perplexity", "parameters"} < set(header.split(" | "))
    assert rnn.startswith("| 0 | RNN | ") and lstm.startswith("| 2 | LSTM | ")
    assert "decoder.cell,Bleu_1" in (tmp_path / "sweep" / "runs.csv").read_text()

    shutil.rmtree(tmp_path / "sweep" / "2")
    ended = [*filter(Path.is_file, (tmp_path / "sweep" / "0").rglob("*"))]
    before = {path: path.stat().st_mtime_ns for path in ended}
    assert in_processes(tmp_path, *sweep)[0] == 1
    assert {path: path.stat().st_mtime_ns for path in ended} == before
    assert (tmp_path / "sweep" / "2" / "scores.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "way, jobs, expected",
    [
        (["trainer.devices=2", "trainer.strategy=ddp_spawn"], "seed=0,1", 0),
        # An error ends its job, and no other.
        (["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], "data.limit=20,0", 1),
    ],
)
def test_the_ways_out_work(options, tmp_path, monkeypatch, way, jobs, expected):
    monkeypatch.delenv(forks.FOLDER, raising=False)  # joblib's workers inherit open files
    sweep = f"run_dir={tmp_path}/sweep"
    code, stderr = in_processes(tmp_path, "-m", *options, *way, jobs, sweep)
    assert code == expected, stderr
    assert (tmp_path / "sweep" / "0" / "scores.json").exists()
    assert (tmp_path / "sweep" / "1" / "scores.json").exists() == (expected == 0)
    assert expected == 0 or "data.limit=0: give 1 or more" in stderr


# Precisions


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Precision bf16-mixed is not supported by the model summary")
def test_bfloat16_learns_as_float32_does(options, tmp_path):
    """Mean loss over 200 steps, and over the last 50, within 2 %."""
    losses = {}
    for precision in ("32-true", "bf16-mixed"):
        extra = ["trainer.max_epochs=40", f"trainer.precision={precision}", "patience=99"]
        extra += ["trainer.check_val_every_n_epoch=40", "decoder.hidden_size=64"]
        extra += ["optimizer.lr=0.01", "decoder.dropout=0"]
        assert in_process(*options, *extra, f"run_dir={tmp_path / precision}") == 0
        losses[precision] = torch.tensor(logged(tmp_path / precision, "train/loss"))
        assert len(losses[precision]) == 200
    for part in (slice(None), slice(-50, None)):
        full, half = (losses[p][part].mean() for p in ("32-true", "bf16-mixed"))
        assert abs(half / full - 1) < 0.02
    assert losses["32-true"][-50:].mean() < 0.8 * losses["32-true"][:5].mean()  # it learns
