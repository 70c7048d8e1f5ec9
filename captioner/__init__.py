"""Recurrent image captioning: `captioner.load().caption("photo.jpg")`."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from captioner.errors import InputError as InputError
    from captioner.models.caption_model import CaptionModel as CaptionModel
    from captioner.models.loading import PRETRAINED as PRETRAINED
    from captioner.models.loading import load as load

_MODULES = {
    "InputError": "captioner.errors",
    "CaptionModel": "captioner.models.caption_model",
    "PRETRAINED": "captioner.models.loading",
    "load": "captioner.models.loading",
}


def __getattr__(name: str) -> object:
    """Import a name when it is first used: `captioner --help` does not wait for torch."""
    if name not in _MODULES:
        raise AttributeError(f"module 'captioner' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
