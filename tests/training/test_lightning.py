"""The private parts of Lightning that start and connect processes do what we need.

Those that tell where a run stands, and handle signals, are in test_resume.py.
"""

import os
import signal
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher
from pytorch_lightning.trainer.connectors import checkpoint_connector

from captioner.training import lightning
from tests.helpers.forks import python


def trainer(**options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    return pl.Trainer(accelerator="cpu", **quiet, **options)


def test_the_timeout_and_the_loss_scale():
    plain = trainer()
    lightning.set_timeout(plain, 7.0)  # alone there is nobody to wait for
    assert not hasattr(plain.strategy, "_timeout") and not lightning.has_loss_scale(plain)
    several = trainer(strategy=DDPStrategy(), devices=2)
    assert several.strategy._timeout > timedelta(seconds=7)
    lightning.set_timeout(several, 7.0)
    assert several.strategy._timeout == timedelta(seconds=7)
    plain.strategy.precision_plugin.scaler = object()
    assert lightning.has_loss_scale(plain)


@pytest.mark.parametrize(
    "options, scripts",
    [({}, False), ({"strategy": "ddp"}, True), ({"strategy": "ddp_spawn"}, False)],
)
def test_only_ddp_starts_scripts(monkeypatch, options, scripts):
    several = trainer(devices=2, **options) if options else trainer()
    assert lightning.starts_scripts(several) == scripts
    assert isinstance(several.strategy.launcher, _SubprocessScriptLauncher) == scripts
    monkeypatch.setenv("LOCAL_RANK", "0")  # as torchrun says it
    assert not lightning.starts_scripts(several)


CHILD = """
import os, sys
import torch
rank, world = int(os.environ["LOCAL_RANK"]), int(os.environ["WORLD_SIZE"])
torch.distributed.init_process_group("gloo", rank=rank, world_size=world)
total = torch.tensor([rank])
torch.distributed.all_reduce(total)
sys.exit(int(total) != 1)
"""


def test_processes_are_started_by_the_given_command_twice():
    """And the environment is afterwards what it was."""

    def everywhere(several):
        total = torch.tensor([0])
        torch.distributed.all_reduce(total)
        return int(total), several.strategy.launcher

    before = dict(os.environ)
    for _ in range(2):
        several = trainer(devices=2, strategy="ddp")
        launcher, command = several.strategy.launcher, [python(), "-c", CHILD]
        assert lightning.launch(several, everywhere, several, command=command) == (1, None)
        assert [process.wait(30) for process in launcher.procs] == [0]
        assert not torch.distributed.is_initialized()
    changed = {k for k in os.environ.keys() | before.keys() if os.environ.get(k) != before.get(k)}
    assert changed <= {"OMP_NUM_THREADS"}


def test_an_error_kills_the_processes_it_leaves_behind():
    several = trainer(devices=2, strategy="ddp")
    launcher, started = several.strategy.launcher, []
    several.strategy.setup_environment = lambda: started.extend(launcher.procs)
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    with pytest.raises(ZeroDivisionError):
        lightning.launch(several, lambda: 1 // 0, command=command)
    assert [process.wait(10) for process in started] == [-signal.SIGKILL]


def test_slurms_checkpoint_has_the_name_that_lightning_gives_it(tmp_path):
    connector = checkpoint_connector._CheckpointConnector(trainer())
    assert lightning.is_slurm_checkpoint(Path(connector.hpc_save_path(str(tmp_path))))
    assert not lightning.is_slurm_checkpoint(tmp_path / "00001.ckpt")
