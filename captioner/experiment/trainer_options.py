"""Values for Lightning's Trainer, checked before anything is computed.

Lightning checks some of them itself, some late, and some fail inside it without a name.
"""

import inspect
import types
from collections.abc import Collection, Mapping
from typing import Any, Literal, Union, get_args, get_origin

from pytorch_lightning import Trainer

from captioner.errors import InputError

KINDS = {
    int: "a whole number", float: "a number", bool: "true or false", str: "text",
    list: "a list", dict: "a mapping", type(None): "null",
}  # fmt: skip
POSITIVE = ("val_check_interval", "limit_train_batches", "limit_val_batches")
LEAST = {"max_epochs": 1, "accumulate_grad_batches": 1, "check_val_every_n_epoch": 1}
LEAST |= {"min_epochs": 0, "min_steps": 0, "gradient_clip_val": 0}


def check_options(options: Mapping[str, Any], ours: Collection[str]) -> None:
    """Raise InputError for an option that Lightning does not know, one of `ours`, which it is given
    anyway, and a value of another type than it takes, or out of range."""
    known = inspect.signature(Trainer).parameters
    for name, value in options.items():
        given = f"trainer.{name}={value}"
        if name not in known:
            raise InputError(f"{given}: Lightning's Trainer has no such option")
        if name in ours:
            raise InputError(f"{given}: captioner sets this option itself: leave it out")
        kinds = _kinds(known[name].annotation)
        if not any(_is_a(value, kind) for kind in kinds):
            *first, last = dict.fromkeys(name for kind in kinds for name in _describe(kind))
            raise InputError(f"{given}: give {' or '.join(filter(None, [', '.join(first), last]))}")
        if value is None:
            continue
        if name in POSITIVE and type(value) in (int, float) and not value > 0:
            raise InputError(f"{given}: give more than 0")
        if name in LEAST and not value >= LEAST[name]:
            raise InputError(f"{given}: give {LEAST[name]} or more")
        if name == "max_steps" and value != -1 and value < 1:
            raise InputError(f"{given}: give 1 or more, or -1 for no limit")


def _kinds(annotation: Any) -> list[Any]:
    """The members of a union, with what a Literal lists in place of it."""
    if get_origin(annotation) in (Union, types.UnionType):
        return [kind for member in get_args(annotation) for kind in _kinds(member)]
    return [annotation]


def _is_a(value: Any, kind: Any) -> bool:
    """Whether a value as YAML gives it is of that kind."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    kind = get_origin(kind) or kind
    return type(value) is kind or (kind is float and type(value) is int)  # but true is no number


def _describe(kind: Any) -> list[str]:
    """The words for what YAML can give of that kind."""
    if get_origin(kind) is Literal:
        return [str(value) for value in get_args(kind)]
    name = KINDS.get(get_origin(kind) or kind)
    return [name] if name else []
