"""An epoch's batches by number, read ahead."""

from collections.abc import Iterator
from typing import Any, Protocol

from captioner.prefetch import prefetch


class Batches(Protocol):
    """A pure function of the number, so that going on in the middle is skipping to one."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Any: ...


class Loader:
    """An epoch's batches from number `start` on, read ahead; its length is the whole epoch's."""

    def __init__(self, batches: Batches, start: int = 0, workers: int = 0):
        self.batches, self.start, self.workers = batches, start, workers

    def __iter__(self) -> Iterator[Any]:
        numbers = range(self.start, len(self.batches))
        return prefetch(self.batches.__getitem__, numbers, self.workers)

    def __len__(self) -> int:
        return len(self.batches)
