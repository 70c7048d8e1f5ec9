"""Recurrent image captioning: `captioner.load().caption(paths)`."""

from captioner.errors import InputError as InputError
from captioner.models.caption_model import CaptionModel as CaptionModel
from captioner.models.loading import PRETRAINED as PRETRAINED
from captioner.models.loading import load as load
