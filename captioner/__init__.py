"""Recurrent image captioning: `captioner.load(DIR).caption(paths)`."""

from captioner.model import CaptionModel as CaptionModel
from captioner.saved import load as load
from captioner.types import InputError as InputError
