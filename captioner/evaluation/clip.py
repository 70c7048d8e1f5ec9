"""Embeddings of pictures and captions for CLIPScore, from open_clip (`captioner[clip]`)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from captioner import images
from captioner.errors import InputError, Unavailable

PREFIX = "A photo depicts "  # before each caption, as in the paper


class OpenClip:
    """A model of open_clip, which embeds pictures and captions in one space, one row each.

    name: "ViT-B-32" and so on. weights: a tag that open_clip downloads ("openai", which is the
    paper's) or a file, loaded without executing anything in it; OpenAI's own weights as a file take
    a name such as "ViT-B-32-quickgelu". A caption longer than the model's context (77 tokens) is
    cut so that its last token is the end of text, where the model reads the embedding.
    """

    def __init__(self, name: str, weights: str, device: torch.device | str = "cpu"):
        try:
            import open_clip
        except ImportError as error:
            raise Unavailable("CLIPScore needs open_clip: pip install captioner[clip]") from error
        # OpenAI's were trained with another GELU than the models of the same name
        quick_gelu = (open_clip.get_pretrained_cfg(name, weights) or {}).get("quick_gelu", False)
        options = {"weights_only": True, "force_quick_gelu": bool(quick_gelu)}
        try:
            self.model, _, self.transform = open_clip.create_model_and_transforms(
                name, pretrained=weights, device=device, **options
            )
        except Exception as error:  # from many libraries: no such model, no network, a broken file
            raise InputError(f"clip.name={name} clip.weights={weights}: {error}") from error
        self.model.eval()
        self.tokenizer = open_clip.get_tokenizer(name)
        self.device = device

    def images(self, paths: Sequence[Path]) -> np.ndarray:
        """The vectors of pictures, (B, D). Raises InputError naming one that cannot be read."""
        pixels = torch.stack([self.transform(images.read_image(path)) for path in paths])
        with torch.inference_mode():
            return self.model.encode_image(pixels.to(self.device)).float().cpu().numpy()

    def texts(self, captions: Sequence[str]) -> np.ndarray:
        """The vectors of captions, (N, D)."""
        tokens = self.tokenizer([PREFIX + caption for caption in captions])
        with torch.inference_mode():
            return self.model.encode_text(tokens.to(self.device)).float().cpu().numpy()
