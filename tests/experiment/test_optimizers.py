"""Optimisers of torch.optim and nothing else, fused where they can be."""

import pytest
import torch
from omegaconf import OmegaConf

from captioner.errors import InputError
from captioner.experiment.optimizers import ADAGRAD, make_optimizer
from captioner.training.adagrad import Adagrad


def made(target, precision="32-true", **options):
    node = OmegaConf.create({"_target_": target, "lr": 0.1, **options})
    return make_optimizer(node, precision)([torch.zeros(1, requires_grad=True)])


@pytest.mark.parametrize(
    "target",
    [
        "os.system", "torch.load", "torch.hub.load", "builtins.eval", "torch.optim.x", "torch.opti",
        "torch.optim.lr_scheduler", "torch.optim.sgd.torch.load", "torch.optim.SGD.step", "SGD",
        "xtorch.optim.SGD", "torch.optim.Optimizer.__init__", "torch.optim.SGD\n", None,
    ],
)  # fmt: skip
def test_nothing_but_optimisers_is_made(target):
    with pytest.raises(InputError, match="optimizer._target_="):
        made(target)


def test_adagrad_by_its_name_and_by_that_of_old_runs():
    assert {type(made(target)) for target in ADAGRAD} == {Adagrad}


@pytest.mark.parametrize("name", ["AdamW", "SGD", "RMSprop"])
def test_optimisers_are_fused_where_they_can_be(name):
    def fused(*precision, **options):
        return bool(made(f"torch.optim.{name}", *precision, **options).defaults.get("fused"))

    assert fused() == (name != "RMSprop")
    assert not fused("16-mixed") and not fused(foreach=True) and not fused(differentiable=True)
    if name != "RMSprop":
        assert not fused(fused=False)
        with pytest.raises(InputError, match="fused=true with trainer.precision=16-mixed"):
            fused("16-mixed", fused=True)
        with pytest.raises(InputError, match="refuses this"):
            fused(fused=True, foreach=True)
