"""Types and special ids that all other files use.

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
"""Tensors that change from step to step; the first dimension is the row."""

Memory = dict[str, Tensor]
"""Tensors that are constant per image; the first dimension is the image."""


class Features(NamedTuple):
    """An encoder's output for B pictures.

    pooled_BD: one vector per picture, the `v` of the lecture.
    grid_BRD: one vector per region, or None if no decoder asks for it.
    mask_BR: True where a region exists; None if all do.
    """

    pooled_BD: Tensor
    grid_BRD: Tensor | None = None
    mask_BR: Tensor | None = None

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "Features":
        """Return the same on another device, or in another floating point type."""
        pooled_BD, grid_BRD, mask_BR = self
        grid_BRD = None if grid_BRD is None else grid_BRD.to(device, dtype)
        mask_BR = None if mask_BR is None else mask_BR.to(device)
        return Features(pooled_BD.to(device, dtype), grid_BRD, mask_BR)


class PerMember(tuple):
    """An entry for each member of an ensemble: pixels, or Features."""

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "PerMember":
        """Return the same on another device, or in another floating point type."""
        return PerMember(entry.to(device, dtype) for entry in self)


class TextBatch(NamedTuple):
    """A chunk of each of N streams of text, for training.

    token_NT: T + 1 tokens, of which the first T are read and the last T predicted. length_N: number
    of tokens read; 0 after the end of a stream. fresh_N: True if a document begins here, so the
    state begins anew.
    """

    token_NT: Tensor
    length_N: Tensor
    fresh_N: Tensor


class Batch(NamedTuple):
    """B pictures with C captions each, for training; N = B * C rows.

    images: pixels (B, 3, S, S), or Features from a cache; for an ensemble, PerMember.
    token_NT: bos, words, eos, then pad. length_N: number of tokens read, which is the number of
    targets: words + 1 for eos (which a cut caption lacks); 0 if an image has too few captions.
    index_B: numbers of the records; empty if the captions have no pictures.
    """

    images: Tensor | Features | PerMember
    token_NT: Tensor
    length_N: Tensor
    index_B: Tensor
