"""Values that Lightning would refuse late, without a name or not at all are refused by name."""

import pytest

from captioner.errors import InputError
from captioner.experiment import trainer
from captioner.experiment.run_dir import RunDir
from tests.helpers.runs import composed


def make(option, tmp_path):
    config = composed(f"++trainer.{option}", "trainer.accelerator=cpu", "data.root=none")
    return trainer._make_trainer(config, RunDir(tmp_path), {"monitor": "val/nll", "mode": "min"})


@pytest.mark.parametrize(
    "option",
    [
        "precision=32", "precision=bf16-mixed", "devices=2", "strategy=ddp", "gradient_clip_val=5",
        "val_check_interval=0.5", "limit_train_batches=1", "check_val_every_n_epoch=null",
        "max_time={hours: 1}", "max_steps=-1", "deterministic=warn", "benchmark=null",
    ],
)  # fmt: skip
def test_what_lightning_takes(option, tmp_path):
    assert make(option, tmp_path)


@pytest.mark.parametrize(
    "option, message",
    [
        ("max_epochs=2.5", "max_epochs=2.5: give a whole number or null"),
        ("max_epochs=null", "trainer.max_epochs=None: give 1 or more"),
        ("accumulate_grad_batches=0", "trainer.accumulate_grad_batches=0: give 1 or more"),
        ("accumulate_grad_batches=null", "accumulate_grad_batches=None: give a whole number"),
        ("check_val_every_n_epoch=0", "trainer.check_val_every_n_epoch=0: give 1 or more"),
        ("val_check_interval=0", "trainer.val_check_interval=0: give more than 0"),
        ("val_check_interval=x", "Invalid time format for `val_check_interval`: 'x'"),
        ("limit_val_batches=0.0", "trainer.limit_val_batches=0.0: give more than 0"),
        ("gradient_clip_val=nan", "trainer.gradient_clip_val=nan: give 0 or more"),
        ("max_time=5", "max_time=5"),
        ("deterministic=maybe", "deterministic='maybe': give true or false or warn or null"),
        ("detect_anomaly=5", "detect_anomaly=5: give true or false"),
        ("precision=fp8", "precision='fp8': give 64 or 32"),
        ("barebones=true", "barebones=True"),
        ("fast=1", "trainer: no option 'fast'; it has accelerator, strategy"),
        ("callbacks=x", "trainer: no option 'callbacks'"),
    ],
)
def test_what_lightning_does_not_take(option, message, tmp_path):
    with pytest.raises(InputError) as caught:
        make(option, tmp_path)
    assert message in str(caught.value) and str(caught.value).startswith("trainer")
