"""What training minimises: `objective(model, batch, step, state) -> loss, logs, state`."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from captioner.data.records import Record
from captioner.models.base import Model
from captioner.types import Batch, State, TextBatch

Logs = dict[str, Tensor]


class Objective(ABC):
    """A loss and its logs, all sums over the batch; logs["count"] says over how many words (END
    included), or over how many images if captions are `rewarded` as a whole.

    The training loop divides once, by the count of all micro-batches and processes: a mean of means
    would give words in short captions more weight. An objective always logs the same names.

    state: what a language model's batch begins with, as returned for the batch before; None at
    first. A captioner has none: None is returned.
    """

    rewarded = False

    def prepare(self, train: Sequence[Record], metrics_tokenizer: str) -> None:  # noqa: B027
        """Called once before training, with the records that Batch.index_B counts."""

    def save_frequencies(self, path: Path) -> None:  # noqa: B027
        """Write the document frequencies of the rewards, if there are any, for evaluations."""

    @abstractmethod
    def __call__(
        self, model: Model, batch: Batch | TextBatch, step: int, state: State | None = None
    ) -> tuple[Tensor, Logs, State | None]: ...


def detached(model: Model, state: State) -> State | None:
    """The state for the next batch, cut off from the graph; None for a model that keeps none."""
    return {k: entry.detach() for k, entry in state.items()} if model.carries_state else None
