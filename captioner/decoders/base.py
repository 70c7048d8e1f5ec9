"""What every decoder is: `start`, then `step` after `step`; `forward` is the unrolled `step`."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from captioner.types import Features, Memory, State


class Decoder(nn.Module, ABC):
    """Words out of an image vector. Search, objectives and ensembles use nothing but this.

    vocab_size: V. uses_grid: whether `start` needs Features.grid_BRD.
    Logits are -inf at pad and bos, so that training, search and sampling share one distribution.
    """

    vocab_size: int
    uses_grid: bool = False

    @abstractmethod
    def start(self, features: Features | None, rows: int) -> tuple[Memory, State]:
        """The state before the first word, for `rows` N = B * K rows, K of each image.

        Returns memory (constant, first dimension B, never copied K times) and state (first
        dimension N). Without features the decoder is a language model.
        """

    @abstractmethod
    def step(self, token_N: Tensor, memory: Memory, state: State) -> tuple[Tensor, State]:
        """Reads one token a row -> logits_NV of the next one, and the new state."""

    @abstractmethod
    def forward(
        self,
        token_NT: Tensor,
        length_N: Tensor,
        memory: Memory,
        state: State,
        keep: Sequence[str] = (),
    ) -> tuple[Tensor, State, dict[str, Tensor]]:
        """Teacher forcing: reads the first length_N tokens of each row, from `state` on.

        Returns logits_PV of the P real positions in row order (row 0's first), the state after
        each row's last token, and the tensors named in `keep` as (N, T, ..), inside the graph.
        A row of length 0 has no logits and keeps its state.
        """


def real_positions(length_N: Tensor, steps: int) -> Tensor:
    """mask_NT: True where a row has a token. Indexing with it gives `forward`'s row order."""
    time_T = length_N.new_ones(steps).cumsum(0) - 1
    return time_T < length_N[:, None]
