"""What training minimises: `objective(model, batch, step) -> loss, logs`."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from captioner.data.records import Record
from captioner.models.caption_model import CaptionModel
from captioner.types import Batch

Logs = dict[str, Tensor]


class Objective(ABC):
    """Loss and logs are sums, and logs["count"] says over how many: words with END, or images where
    captions are `rewarded` as a whole.

    Whoever trains divides once, by the count of all micro-batches and processes: the mean of their
    means would give words in short captions more weight. The logs of an objective are always the
    same ones.
    """

    rewarded = False

    def begin(self, train: Sequence[Record]) -> None:  # noqa: B027
        """Called once, with the records that the batches' index_B count."""

    def keep(self, run_dir: Path) -> None:  # noqa: B027
        """Writes what `begin` made and others may want, after it was called."""

    @abstractmethod
    def __call__(self, model: CaptionModel, batch: Batch, step: int) -> tuple[Tensor, Logs]: ...
