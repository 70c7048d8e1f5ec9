"""Lightning's data modules: the loaders of each epoch, and how far into it a run has come."""

import warnings
from abc import abstractmethod
from collections.abc import Sequence

import pytorch_lightning as pl

from captioner.data.batches import (
    Batches,
    CaptionText,
    EvalBatches,
    Loader,
    MixedBatches,
    Source,
    TrainBatches,
)
from captioner.data.records import Record
from captioner.data.text import Corpus, Streams
from captioner.errors import InputError
from captioner.tokenizers import Tokenizer
from captioner.training import lightning
from captioner.types import EOS


class EpochData(pl.LightningDataModule):
    """Loaders of a training split, whose batches `epoch` gives, and of a validation split.

    sizes: the size of the training split, by its unit ("pictures"); a resumed run needs the same.
    """

    trainer: pl.Trainer  # type: ignore[assignment]  # None only before any method is called

    def __init__(self, sizes: dict[str, int], workers: int):
        super().__init__()
        self.sizes, self.workers = sizes, workers
        self.place = (0, 0)  # epoch and batch at which the run goes on

    @abstractmethod
    def epoch(self, number: int) -> Batches:
        """The training batches of an epoch."""

    @abstractmethod
    def validation(self) -> Batches:
        """All of the validation split, in order."""

    @property
    def share(self) -> tuple[int, int]:
        """The rank of this process, and the number of processes."""
        return self.trainer.global_rank, self.trainer.world_size

    def state_dict(self) -> dict[str, int]:
        """The position of the run; there is no state of random generators to save."""
        return {
            "epoch": self.trainer.current_epoch,
            "batch": lightning.next_batch(self.trainer),
            "processes": self.trainer.world_size,
            **self.sizes,
        }

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Read the position. Raises InputError if data or processes are not those of before."""
        for name, value in {"processes": self.trainer.world_size, **self.sizes}.items():
            if state_dict[name] != value:
                raise InputError(
                    f"the run had {state_dict[name]} {name}, now there are {value}: it can go on "
                    "only as it was"
                )
        self.place = state_dict["epoch"], state_dict["batch"]

    def train_dataloader(self) -> Loader:
        """This epoch's batches; Lightning asks anew each epoch."""
        # Lightning asks once before it knows that the run goes on in a later epoch.
        epoch = max(self.trainer.current_epoch, self.place[0])
        start = self.place[1] if epoch == self.place[0] else 0
        return Loader(self.epoch(epoch), start, self.workers)

    def val_dataloader(self) -> Loader:
        return Loader(self.validation(), workers=self.workers)


class CaptionData(EpochData):
    """Train and validation loaders over records that are already read.

    batch_size: pictures a step in each process. captions: C, rows per picture. texts: captions
    without pictures, for batches of as many rows. `words`: about how many a training batch of
    pictures holds, END included. Warns of training captions that are cut.
    """

    def __init__(
        self,
        train: Sequence[Record],
        val: Sequence[Record],
        train_source: Source,
        val_source: Source,
        tokenizer: Tokenizer,
        batch_size: int,
        captions: int,
        workers: int,
        seed: int,
        texts: Sequence[CaptionText] = (),
    ):
        super().__init__({"pictures": len(train)}, workers)
        self.texts = texts
        self.sources: dict[str, Source] = {"train": train_source, "val": val_source}
        self.token_ids = {
            split: [[tokenizer.targets(caption) for caption in r.captions] for r in records]
            for split, records in (("train", train), ("val", val))
        }
        rows = [ids for image in self.token_ids["train"] for ids in image]
        if cut := sum(ids[-1] != EOS for ids in rows):
            limit = f"tokenizer.max_length={tokenizer.max_length}"
            warnings.warn(f"{cut} of {len(rows)} captions are cut to {limit}", stacklevel=2)
        self.batch_size, self.captions, self.seed = batch_size, captions, seed
        length = sum(map(len, rows)) / len(rows)
        self.words = length * batch_size * min(captions, len(rows) / len(train))

    def epoch(self, number: int) -> Batches:
        batches = TrainBatches(*self._of("train"), *self.share, seed=self.seed, epoch=number)
        if not self.texts:
            return batches
        return MixedBatches(batches, self.texts, rows=self.batch_size * self.captions)

    def validation(self) -> EvalBatches:
        return EvalBatches(*self._of("val"), *self.share)

    def _of(self, split: str) -> tuple[Source, list[list[list[int]]], int, int]:
        """What the batches of this split are made of."""
        return self.sources[split], self.token_ids[split], self.batch_size, self.captions


class TextData(EpochData):
    """batch_size: streams in each process. bptt: tokens of a chunk. `words`: of a batch."""

    def __init__(self, train: Corpus, val: Corpus, batch_size: int, bptt: int, seed: int):
        super().__init__({"tokens": len(train)}, workers=0)
        self.train, self.val, self.seed = train, val, seed
        self.batch_size, self.bptt = batch_size, bptt
        self.words = batch_size * bptt

    def epoch(self, number: int) -> Streams:
        return Streams(self.train, self.batch_size, self.bptt, self.seed, number, *self.share)

    def validation(self) -> Streams:
        return Streams(self.val, self.batch_size, self.bptt, None, 0, *self.share)
