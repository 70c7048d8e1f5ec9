"""Build an object from {"_target_": "captioner.x.Class", option: value}."""

import importlib
import inspect
from collections.abc import Callable, Sequence
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from captioner.errors import InputError

KINDS = {int: "a whole number", float: "a number", str: "a word", bool: "true or false"}
KINDS |= {type(None): "null"}
LARGEST = 2**63
"""No number is: it would not fit into a tensor, and infinity and NaN are not below it."""
T = TypeVar("T")


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
    return construct(Class, options, str(target), **given)


def construct(Class: Callable[..., T], options: dict[str, Any], name: str, **given: Any) -> T:
    """Return Class(**options, **given). Raises InputError, naming the class by `name`, for an
    unknown option, one that is not of the annotated type, and whatever else the class refuses."""
    hints = get_type_hints(Class.__init__)  # type: ignore[misc]
    known = [n for n in inspect.signature(Class).parameters if n not in given]
    for option, value in options.items():
        if option not in known:
            raise InputError(f"{name}: no option {option!r}; it has {', '.join(known)}")
        if not _fits(value, hints.get(option)):
            wanted = _describe(hints[option])
            raise InputError(f"{name}: {option}={value!r:.80}: give {wanted}")
    try:
        return Class(**options, **given)
    except InputError:
        raise
    except Exception as error:  # of a library: no list of what they raise is complete
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        if options and not any(option in reason for option in options):
            reason += f" (given {', '.join(f'{k}={v!r:.40}' for k, v in options.items())})"
        raise InputError(f"{name}: {reason}") from error


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value of JSON or YAML is of the annotated type; any is, of a type not in KINDS."""
    origin, kinds = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, kind) for kind in kinds)
    if origin in (tuple, list, Sequence):
        if not isinstance(value, list | tuple) or (origin is tuple and len(value) != len(kinds)):
            return False
        return all(_fits(item, kinds[0]) for item in value)
    if hint in (int, float) and type(value) in (int, hint):
        return abs(value) < LARGEST
    if origin is Literal:
        return value in kinds
    return type(value) is hint or hint not in KINDS


def _describe(hint: Any) -> str:
    """What to give for an option of this type."""
    origin, kinds = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(map(_describe, kinds))
    if origin in (tuple, list, Sequence):
        count = f"{len(kinds)} of them" if origin is tuple else "a list"
        return f"{count}, each {_describe(kinds[0])}"
    if origin is Literal:
        return " or ".join(map(str, kinds))
    return KINDS.get(hint, "another value")
