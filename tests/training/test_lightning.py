"""The private parts of Lightning that we touch still exist, and do what we need."""

import os
import signal
import sys
import warnings
from datetime import timedelta
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher
from pytorch_lightning.trainer.connectors import checkpoint_connector, signal_connector

from captioner.training import lightning
from tests.helpers.forks import python

QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
QUIET |= {"enable_checkpointing": False, "accelerator": "cpu"}


@pytest.fixture(autouse=True)
def silence():
    """Warnings are errors; these are not meant for us."""
    lightning.silence()
    warnings.filterwarnings("ignore", ".*does not have many workers")


def trainer(**options):
    return pl.Trainer(**QUIET | options)


class Tiny(pl.LightningModule):
    """Counts what the functions say at each step of two epochs with three batches."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.places, self.between, self.caught, self.checkpoint = [], [], [], {}

    def training_step(self, batch, number):
        self.places.append(lightning.next_batch(self.trainer))
        return self.weight * batch.sum()

    def on_train_batch_end(self, *args):
        self.between.append(lightning.is_between_micro_batches(self.trainer))

    def on_train_start(self):
        os.kill(os.getpid(), signal.SIGTERM)

    def on_fit_start(self):
        lightning.replace_sigterm_handler(self.trainer, lambda *args: self.caught.append(args[0]))

    def on_save_checkpoint(self, checkpoint):
        self.checkpoint = checkpoint

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_where_a_run_stands_and_its_signals(tmp_path):
    model, loader = Tiny(), torch.utils.data.DataLoader(torch.ones(4))
    fit = trainer(max_epochs=2, accumulate_grad_batches=2, default_root_dir=tmp_path)
    fit.fit(model, loader)
    fit.save_checkpoint(tmp_path / "x.ckpt")
    assert model.places == 2 * [1, 2, 3, 4]  # the one under way is over when it is saved
    assert model.between == 2 * [True, False, True, False]
    assert model.caught == [signal.SIGTERM]
    saved = model.checkpoint | {"callbacks": {"Checkpoints": {"moment": "step"}}}
    assert lightning.position_of(saved) == (5, "step") and fit.global_step == 4
    assert "_sigterm_notifier_fn" in vars(signal_connector._SignalConnector)


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


def test_one_process_calls_the_function_alone():
    assert lightning.launch(trainer(), max, 2, 3) == 3


def test_the_csv_logger_goes_on_after_its_rows(tmp_path):
    rows = [{"step": "0", "loss": "2.5"}, {"step": "1", "loss": "2.25"}]
    logger = lightning.csv_logger(tmp_path, rows, write=True)
    logger.log_metrics({"loss": 2.0}, step=2)
    logger.save()
    lines = (tmp_path / "metrics.csv").read_text().split()
    assert lines == ["loss,step", "2.5,0", "2.25,1", "2.0,2"]


def test_slurms_checkpoint_has_the_name_that_lightning_gives_it(tmp_path):
    connector = checkpoint_connector._CheckpointConnector(trainer())
    assert lightning.is_slurm_checkpoint(Path(connector.hpc_save_path(str(tmp_path))))
    assert not lightning.is_slurm_checkpoint(tmp_path / "00001.ckpt")
