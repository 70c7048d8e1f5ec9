"""Build an object from {"_target_": "captioner.x.Class", option: value}."""

import importlib
import inspect
from collections.abc import Sequence
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from captioner.errors import InputError

KINDS = {int: "a whole number", float: "a number", str: "a word", bool: "true or false"}
KINDS |= {type(None): "null"}


def instantiate(
    config: dict[str, Any], package: str, kind: type | Sequence[type], **given: Any
) -> Any:
    """Return the object that the config describes; `given` are further arguments.

    The class must be a `kind` and come from `package`. Raises InputError for any other target,
    before anything outside is imported, and for a wrong option.
    """
    options = {key: value for key, value in config.items() if key != "_target_"}
    target = config.get("_target_")
    module, _, name = str(target).rpartition(".")
    Class = None
    if module == package or module.startswith(package + "."):
        try:
            Class = getattr(importlib.import_module(module), name, None)
        except ModuleNotFoundError:
            pass
    kinds = tuple(kind) if isinstance(kind, Sequence) else (kind,)
    if not (isinstance(Class, type) and issubclass(Class, kinds)) or inspect.isabstract(Class):
        raise InputError(f"_target_={target}: not a class of {package}; only those are made")
    known = [n for n in inspect.signature(Class).parameters if n not in given]
    _check_options(Class, str(target), options, known)
    try:
        return Class(**options, **given)
    except (TypeError, RuntimeError) as error:
        raise InputError(f"{target}: {str(error).splitlines()[0]}") from error


def _check_options(Class: type, name: str, options: dict[str, Any], known: Sequence[str]) -> None:
    """Raise InputError for an unknown option, or one whose type is not the annotated one."""
    hints = get_type_hints(Class.__init__)  # type: ignore[misc]
    for option, value in options.items():
        if option not in known:
            raise InputError(f"{name}: no option {option!r}; it has {', '.join(known)}")
        hint = hints.get(option)
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        fits = type(value) in kinds or (float in kinds and type(value) is int)
        if not fits and all(kind in KINDS for kind in kinds):
            wanted = " or ".join(KINDS[kind] for kind in kinds)
            raise InputError(f"{name}: {option}={value!r}: give {wanted}")
