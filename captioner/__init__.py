"""Recurrent image captioning: `captioner.load().caption(paths)`."""

from captioner.model import CaptionModel as CaptionModel
from captioner.saved import PRETRAINED as PRETRAINED
from captioner.saved import load as load
from captioner.types import InputError as InputError
