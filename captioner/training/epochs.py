"""An epoch's batches by number, read ahead, and where a run stands in them."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, Protocol

import pytorch_lightning as pl

from captioner.errors import InputError
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


class EpochData(pl.LightningDataModule):
    """Loaders of a training split, whose batches are those of `epoch`, and of a validation split.

    holds: what there is of it, by its name ("pictures"); it has to be the same in a run that goes
    on.
    """

    def __init__(self, holds: dict[str, int], workers: int):
        super().__init__()
        self.holds, self.workers = holds, workers
        self.place = (0, 0)  # epoch and batch at which the run goes on

    @abstractmethod
    def epoch(self, number: int) -> Batches:
        """The training batches of an epoch."""

    @abstractmethod
    def validation(self) -> Batches:
        """All of the validation split, in order."""

    @property
    def share(self) -> tuple[int, int]:
        """Which of the processes this is, of how many."""
        assert self.trainer is not None
        return self.trainer.global_rank, self.trainer.world_size

    def state_dict(self) -> dict[str, int]:
        """Where the run stands: all there is to save, since nothing random is."""
        assert self.trainer is not None
        return {
            "epoch": self.trainer.current_epoch,
            "batch": self.trainer.fit_loop.epoch_loop.batch_progress.current.ready,
            "processes": self.trainer.world_size,
            **self.holds,
        }

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Raises InputError where the run cannot go on as it was."""
        assert self.trainer is not None
        have = {"processes": self.trainer.world_size, **self.holds}
        for name, value in have.items():
            if state_dict[name] != value:
                raise InputError(
                    f"the run had {state_dict[name]} {name}, now there are {value}: it can go on "
                    "only as it was"
                )
        self.place = state_dict["epoch"], state_dict["batch"]

    def train_dataloader(self) -> Loader:
        """This epoch's batches; Lightning asks anew each epoch."""
        assert self.trainer is not None
        # Lightning asks once before it knows that the run goes on in a later epoch.
        epoch = max(self.trainer.current_epoch, self.place[0])
        start = self.place[1] if epoch == self.place[0] else 0
        return Loader(self.epoch(epoch), start, self.workers)

    def val_dataloader(self) -> Loader:
        return Loader(self.validation(), workers=self.workers)
