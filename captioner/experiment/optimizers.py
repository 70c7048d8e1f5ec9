"""The optimiser that `conf/train.yaml` describes."""

import re
from collections.abc import Callable
from functools import partial
from inspect import signature

import torch
from omegaconf import DictConfig

from captioner.errors import InputError
from captioner.experiment.schemas import plain
from captioner.training.adagrad import Adagrad

ADAGRAD = ("captioner.training.adagrad.Adagrad", "captioner.adagrad.Adagrad")
"""The second is its name in the configurations of runs that began before it moved."""


def make_optimizer(
    config: DictConfig, precision: str = "32-true"
) -> Callable[..., torch.optim.Optimizer]:
    """{_target_: torch.optim.NAME, lr: ..} -> a function from parameters to the optimiser.

    Hydra's `instantiate` would call anything, so the class is looked up in torch.optim. Fused if
    there is such a form and no other was asked for: three times as fast on CPUs. Not in 16-mixed,
    whose gradients would then stay scaled until after they are clipped.

    Raises InputError for anything but an optimiser of torch.optim (or captioner.training.adagrad),
    and for options that it refuses.
    """
    options = plain(config)
    target = str(options.pop("_target_", None))
    match = re.fullmatch(r"torch\.optim\.(\w+)", target)
    Class = Adagrad if target in ADAGRAD else match and getattr(torch.optim, match[1], None)
    if not (isinstance(Class, type) and issubclass(Class, torch.optim.Optimizer)):
        raise InputError(
            f"optimizer._target_={target}: give one of torch.optim's, as torch.optim.Adam"
        )
    if "fused" in signature(Class).parameters and not {"foreach", "differentiable"} & set(options):
        options.setdefault("fused", precision != "16-mixed")
    if options.get("fused") and precision == "16-mixed":
        raise InputError("optimizer.fused=true with trainer.precision=16-mixed: give false")
    try:
        Class([torch.zeros(1, requires_grad=True)], **options)
    except (TypeError, ValueError, RuntimeError) as error:
        given = " ".join(f"optimizer.{key}={value}" for key, value in options.items())
        raise InputError(f"{given}: {target} refuses this: {error}") from error
    return partial(Class, **options)
