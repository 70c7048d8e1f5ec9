"""The words that every other file uses.

Shape letters, as suffixes of names (`logits_NV` is a tensor of N rows and V columns):

    B  images                       V  vocabulary
    C  captions per image           E  embedding
    K  beams per image              H  hidden units
    N  rows: captions or beams      G  gates * H
    P  real (not padded) positions  D  image feature
    T  time steps                   R  regions (grid cells of the CNN, or detected boxes)
    A  keys and queries             M  rows per image, K or C
    X  anything else                n  some of N rows; b, some of B images

Row n belongs to image n // (N / B): the rows of one image stand together.
"""

from typing import NamedTuple

import torch
from torch import Tensor

PAD, BOS, EOS, UNK = 0, 1, 2, 3
"""Ids of the special tokens, the same in every vocabulary. pad and bos are never generated."""

State = dict[str, Tensor]
"""What changes from step to step: tensors whose first dimension is the row."""

Memory = dict[str, Tensor]
"""What stays the same for an image: tensors whose first dimension is the image."""


class Features(NamedTuple):
    """What an encoder makes of B pictures.

    pooled_BD: one vector per picture, the `v` of the lecture.
    grid_BRD: one vector per region, or None where no decoder asks for it.
    mask_BR: True where a region exists; None when all do.
    """

    pooled_BD: Tensor
    grid_BRD: Tensor | None = None
    mask_BR: Tensor | None = None

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "Features":
        """The same on another device, or in another floating point type."""
        pooled_BD, grid_BRD, mask_BR = self
        grid_BRD = None if grid_BRD is None else grid_BRD.to(device, dtype)
        mask_BR = None if mask_BR is None else mask_BR.to(device)
        return Features(pooled_BD.to(device, dtype), grid_BRD, mask_BR)


class PerMember(tuple):
    """An entry for each member of an ensemble: pixels, or Features."""

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "PerMember":
        """The same on another device, or in another floating point type."""
        return PerMember(entry.to(device, dtype) for entry in self)


class TextBatch(NamedTuple):
    """A chunk of each of N streams of text, for training.

    token_NT: T + 1 tokens, of which T are read, and all but the first said. length_N: how many are
    read; 0 where a stream is over. fresh_N: where a document begins, and the state anew.
    """

    token_NT: Tensor
    length_N: Tensor
    fresh_N: Tensor


class Batch(NamedTuple):
    """B pictures with C captions each, for training; N = B * C rows.

    images: pixels (B, 3, S, S), or Features where they come from a cache; for an ensemble, Many.
    token_NT: bos, words, eos, then pad. length_N: how many tokens are read, and so how many
    are learned: words + 1, the last target being eos (which a cut caption lacks); 0 for a row
    that stands in for a caption an image does not have.
    index_B: which records these are.
    """

    images: Tensor | Features | PerMember
    token_NT: Tensor
    length_N: Tensor
    index_B: Tensor
