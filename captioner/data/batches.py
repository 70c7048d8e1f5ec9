"""Records -> batches. Order and every draw are pure functions of (seed, epoch, index).

So nothing random needs to be saved: epoch e's batch b is the same in every run, for any number of
workers, and resuming in the middle of an epoch is skipping to a batch number.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from captioner import images
from captioner.data.cache import FeatureCache
from captioner.prefetch import prefetch
from captioner.tokenizers import frame
from captioner.types import Batch, Features, PerMember

T = TypeVar("T")


class Source(Protocol):
    """Where the pictures of a batch come from: (indices, draws) -> pixels or features.

    A draw is a random integer that chooses crop and colours, or one of the cached views; None asks
    for the picture as it is.
    """

    def __call__(
        self, index: Sequence[int], draw: Sequence[int] | None
    ) -> Tensor | Features | PerMember: ...


@dataclass
class PixelSource:
    """Opens the pictures: for an encoder that trains."""

    paths: Sequence[Path]
    preprocess: images.Preprocess
    augment: images.Augment | None = None

    def __call__(self, index: Sequence[int], draw: Sequence[int] | None) -> Tensor:
        augment = None if draw is None else self.augment
        pictures = (images.read_image(self.paths[i]) for i in index)
        seeds = draw or [0] * len(index)
        return images.stack(
            [images.view(p, self.preprocess, augment, seed) for p, seed in zip(pictures, seeds)]
        )


@dataclass
class FeatureSource:
    """Looks features up, for a frozen encoder. row_IV: what FeatureCache.compute returned."""

    cache: FeatureCache
    row_IV: np.ndarray

    def __call__(self, index: Sequence[int], draw: Sequence[int] | None) -> Features:
        rows_BV = self.row_IV[list(index)]
        view = 0 if draw is None else np.array(draw) % rows_BV.shape[1]
        return self.cache[rows_BV[np.arange(len(rows_BV)), view]]


@dataclass
class EnsembleSource:
    """For an ensemble: the same pictures as each of its members wants them."""

    members: Sequence[Source]

    def __call__(self, index: Sequence[int], draw: Sequence[int] | None) -> PerMember:
        return PerMember(member(index, draw) for member in self.members)


def evenly_spaced(count: int, most: int) -> list[int]:
    """Return up to `most` of the numbers 0 to count - 1."""
    return np.linspace(0, count - 1, min(count, most)).astype(int).tolist()


def image_vectors(source: Source, index: Sequence[int]) -> Tensor:
    """Return v_BD of these pictures, of a frozen encoder."""
    vectors = []
    for start in range(0, len(index), 64):
        features = source(index[start : start + 64], None)
        assert isinstance(features, Features)
        vectors.append(features.pooled_BD)
    return torch.cat(vectors)


def share(items: list[T], rank: int, world: int) -> list[T]:
    """Return every `world`-th item from number `rank` on.

    If they do not divide evenly, the first ones are added again: no process waits for another.
    """
    return (items + (items * world)[: -len(items) % world])[rank::world]


class Batches(Protocol):
    """A pure function of the number, so that going on in the middle is skipping to one."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Any: ...


@dataclass
class Loader:
    """An epoch's batches from number `start` on, read ahead; its length is the whole epoch's."""

    batches: Batches
    start: int = 0
    workers: int = 0

    def __iter__(self) -> Iterator[Any]:
        numbers = range(self.start, len(self.batches))
        return prefetch(self.batches.__getitem__, numbers, self.workers)

    def __len__(self) -> int:
        return len(self.batches)


@dataclass
class TrainBatches:
    """The batches of one epoch, by number: `batch_size` pictures with C captions each.

    They are sorted by the length of captions within shuffled chunks of CHUNK batches. A picture
    with more than C captions draws anew each epoch; one with fewer leaves rows of length 0.
    """

    source: Source
    token_ids: Sequence[Sequence[Sequence[int]]]
    batch_size: int
    captions: int
    rank: int = 0
    world: int = 1
    seed: int = 0
    epoch: int = 0
    CHUNK = 20

    def __post_init__(self) -> None:
        rng = np.random.default_rng([self.seed, self.epoch])
        length = np.array([np.mean([len(ids) for ids in image]) for image in self.token_ids])
        order = rng.permutation(len(length))
        batches: list[np.ndarray] = []
        for start in range(0, len(order), self.batch_size * self.CHUNK):
            chunk = order[start : start + self.batch_size * self.CHUNK]
            chunk = chunk[np.argsort(length[chunk], kind="stable")]
            batches += np.split(chunk, range(self.batch_size, len(chunk), self.batch_size))
        shuffled = [batches[b] for b in rng.permutation(len(batches))]
        self.batches = share(shuffled, self.rank, self.world)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> Batch:
        draws, rows = [], []
        for i in self.batches[number].tolist():
            rng = np.random.default_rng([self.seed, self.epoch, i])
            draws.append(int(rng.integers(2**31)))
            ids = self.token_ids[i]
            if len(ids) > self.captions:
                ids = [ids[k] for k in np.sort(rng.permutation(len(ids))[: self.captions])]
            rows.append(ids)
        return make_batch(self.source, self.batches[number].tolist(), draws, rows, self.captions)


@dataclass
class CaptionText:
    """Captions without pictures, as targets, with the concepts that each names.

    imagine: makes features of such concepts (`Concepts.imagine`). share: of an epoch's batches that
    are these.
    """

    token_ids: Sequence[Sequence[int]]
    concepts: Sequence[Collection[int]]
    imagine: Callable[[Sequence[Collection[int]], np.random.Generator], Features]
    share: float


@dataclass
class MixedBatches:
    """The batches of an epoch of pictures, and among them, in random order, batches of `rows`
    captions without pictures, each of which is drawn at random."""

    pictures: TrainBatches
    texts: Sequence[CaptionText]
    rows: int

    def __post_init__(self) -> None:
        pictures = len(self.pictures)
        total = pictures / (1 - sum(text.share for text in self.texts))
        kinds = [-1] * pictures  # or the number of the text
        for k, text in enumerate(self.texts):
            kinds += [k] * round(total * text.share)
        rng = np.random.default_rng([self.pictures.seed, self.pictures.epoch])
        self.order = [(place, kinds[place]) for place in rng.permutation(len(kinds)).tolist()]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, number: int) -> Batch:
        (place, kind), pictures = self.order[number], self.pictures
        if kind < 0:
            return pictures[place]
        text = self.texts[kind]
        rng = np.random.default_rng([pictures.seed, pictures.epoch, place, pictures.rank])
        index = rng.integers(len(text.token_ids), size=self.rows).tolist()
        features = text.imagine([text.concepts[i] for i in index], rng)
        token_NT, length_N = frame([text.token_ids[i] for i in index])
        return Batch(features, token_NT, length_N, torch.empty(0, dtype=torch.long))


@dataclass
class EvalBatches:
    """All pictures in order, as they are, with their first C captions; a `share` per process.

    Pictures that are added again have no captions.
    """

    source: Source
    token_ids: Sequence[Sequence[Sequence[int]]]
    batch_size: int
    captions: int
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        self.indices = share(list(range(len(self.token_ids))), self.rank, self.world)
        self.count = len(range(self.rank, len(self.token_ids), self.world))

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def __getitem__(self, number: int) -> Batch:
        start = number * self.batch_size
        index = self.indices[start : start + self.batch_size]
        rows = [
            self.token_ids[i][: self.captions] if place < self.count else []
            for place, i in enumerate(index, start)
        ]
        return make_batch(self.source, index, None, rows, self.captions)


def make_batch(
    source: Source,
    index: Sequence[int],
    draw: Sequence[int] | None,
    ids_BC: Sequence[Sequence[Sequence[int]]],
    captions: int,
) -> Batch:
    """Return a Batch of pictures `index` with these targets (at most `captions` each)."""
    token_NT, length_N = frame(
        [row for ids in ids_BC for row in [*ids, *[()] * (captions - len(ids))]]
    )
    return Batch(source(index, draw), token_NT, length_N, torch.tensor(index))
