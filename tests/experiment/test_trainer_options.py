"""Values that Lightning would refuse late, without a name or not at all are refused by name."""

import pytest

from captioner.errors import InputError
from captioner.experiment.trainer_options import check_options


@pytest.mark.parametrize(
    "options",
    [
        {"max_epochs": 3, "precision": "16-mixed", "devices": [0, 1], "strategy": "ddp"},
        {"val_check_interval": 0.5, "limit_train_batches": 1, "gradient_clip_val": 5},
        {"val_check_interval": 100, "check_val_every_n_epoch": None, "precision": 32},
        {"max_time": {"hours": 1}, "max_steps": -1, "deterministic": "warn", "benchmark": None},
    ],
)
def test_what_lightning_takes(options):
    check_options(options, ours=["callbacks"])


@pytest.mark.parametrize(
    "name, value, advice",
    [
        ("max_epochs", 2.5, "a whole number or null"),
        ("accumulate_grad_batches", 0, "1 or more"),
        ("accumulate_grad_batches", None, "a whole number"),
        ("check_val_every_n_epoch", 0, "1 or more"),
        ("val_check_interval", 0, "more than 0"),
        ("val_check_interval", True, "a whole number, a number, text, a mapping or null"),
        ("limit_val_batches", 0.0, "more than 0"),
        ("max_steps", 0, "1 or more, or -1 for no limit"),
        ("gradient_clip_val", float("nan"), "0 or more"),
        ("max_time", 5, "text, a mapping or null"),
        ("deterministic", "maybe", "true or false, warn or null"),
        ("detect_anomaly", 5, "true or false"),
        ("devices", 1.5, "a list, text or a whole number"),
        ("precision", "fp8", "64, 32, 16, transformer-engine"),
    ],
)
def test_what_lightning_does_not_take(name, value, advice):
    with pytest.raises(InputError) as caught:
        check_options({"max_epochs": 1, name: value}, ours=["callbacks"])
    assert str(caught.value).startswith(f"trainer.{name}={value}: give {advice}")


@pytest.mark.parametrize("name, message", [("fast", "no such option"), ("callbacks", "itself")])
def test_what_is_no_option_of_the_user(name, message):
    with pytest.raises(InputError, match=f"trainer.{name}=1: .*{message}"):
        check_options({name: 1}, ours=["callbacks"])
