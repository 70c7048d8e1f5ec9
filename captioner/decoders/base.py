"""The interface of decoders: `start`, then `step` by `step`; `forward` is the unrolled `step`."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from captioner.errors import InputError
from captioner.types import BOS, PAD, Features, Memory, State

Names = Sequence[str]


class Decoder(nn.Module, ABC):
    """Generates words from an image. Search, objectives and ensembles use this interface only.

    vocab_size: V. uses_grid: whether `start` needs Features.grid_BRD.
    Logits are -inf at pad and bos, so that training, search and sampling share one distribution.
    """

    vocab_size: int
    uses_grid: bool = False
    kept_for_penalty: Names = ()  # what `forward` keeps for `penalty`; empty if there is none

    @abstractmethod
    def start(self, features: Features | None, rows: int) -> tuple[Memory, State]:
        """The state before the first word, for `rows` N = B * K rows, K of each image.

        Returns memory (constant, first dimension B, never copied K times) and state (first
        dimension N). Without features the decoder is a language model.
        """

    @abstractmethod
    def step(self, token_N: Tensor, memory: Memory, state: State) -> tuple[Tensor, State]:
        """Read one token per row -> logits_NV of the next one, and the new state."""

    @abstractmethod
    def forward(
        self, token_NT: Tensor, length_N: Tensor, memory: Memory, state: State, keep: Names = ()
    ) -> tuple[Tensor, State, dict[str, Tensor]]:
        """Teacher forcing: read the first length_N tokens of each row, from `state` on.

        Returns logits_PV of the P real positions in row order (row 0's first), the state after
        each row's last token, and the tensors named in `keep` as (N, T, ..), inside the graph, 0
        where there is no token. A row of length 0 has no logits and keeps its state.
        """

    def penalty(
        self, features: Features | None, kept: dict[str, Tensor], length_N: Tensor
    ) -> Tensor:
        """A term of the loss that belongs to this decoder, summed over what is real."""
        raise NotImplementedError

    def check_keep(self, keep: Names, known: Iterable[str]) -> None:
        """Raises ValueError if `forward` is asked to keep anything but `known`."""
        if unknown := set(keep) - set(known):
            raise ValueError(f"keep={sorted(unknown)}: this decoder keeps {', '.join(known)}")


class WordDecoder(Decoder):
    """The layers that nearly every decoder has: `standard`, for v and regions; `embed` (V, E), word
    vectors, N(0, 1) at first; `W_hy`, applied by `logits`. Dropout acts on the words and on h.
    Raises InputError if `dropout` is not in [0, 1)."""

    never_V: Tensor

    def __init__(
        self, vocab_size: int, feature_size: int, embed_size: int, output_size: int, dropout: float
    ):
        super().__init__()
        if not 0 <= dropout < 1:
            raise InputError(f"decoder.dropout={dropout}: give 0 <= dropout < 1")
        self.vocab_size = vocab_size
        self.dropout = nn.Dropout(dropout)
        self.embed = nn.Embedding(vocab_size, embed_size)
        self.standard = Standardization(feature_size)
        self.W_hy = linear(output_size, vocab_size)
        self.W_hy.weight.data *= 0.4  # so that the first loss is about log(V - 2)
        never_V = torch.zeros(vocab_size)
        never_V[[PAD, BOS]] = -torch.inf
        self.register_buffer("never_V", never_V, persistent=False)

    def words(self, token: Tensor) -> Tensor:
        """Token ids (..) -> (.., E)."""
        return self.drop(self.embed(token))

    def drop(self, x: Tensor) -> Tensor:
        """Dropout in training. Otherwise it is not called: an idle call slows search down."""
        return self.dropout(x) if self.training else x

    def logits(self, h: Tensor) -> Tensor:
        """(N, H) -> (N, V)."""
        operands = _as_autocast(self.drop(h), self.W_hy.weight, self.W_hy.bias + self.never_V)
        if not torch.is_grad_enabled():
            return _aligned_product(*operands)
        return _VocabularyProduct.apply(*operands)


class Standardization(nn.Module):
    """v -> (v - mean) / std: (.., D) -> (.., D). Before `fit` it is v itself.

    All pictures share much of a CNN's v, and CNNs differ in its size. These are constants, so W_ih
    v stays an affine function of the CNN's output: it is only better initialised (LOG.md).
    """

    mean_D: Tensor
    std: Tensor

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("mean_D", torch.zeros(size))
        self.register_buffer("std", torch.ones(()))

    def fit(self, v_BD: Tensor) -> None:
        """Set a mean for each component and one standard deviation for all: a component that is
        nearly constant in these vectors would blow up in pictures where it is not."""
        self.mean_D.copy_(v_BD.mean(0))
        std = (v_BD - v_BD.mean(0)).square().mean().sqrt()
        self.std.copy_(std if std > 0 else torch.ones_like(std))

    def forward(self, v: Tensor) -> Tensor:
        return (v - self.mean_D) / self.std


def _aligned_product(h_NH: Tensor, W_VH: Tensor, b_V: Tensor) -> Tensor:
    """F.linear(h, W, b), whose rows begin at multiples of 16 numbers in memory.

    Vocabularies have odd sizes, and libraries multiply faster into aligned rows: 10 % of a training
    step of the LSTM (benchmarks/training.py), on GPUs too.
    """
    N, V = h_NH.shape[0], W_VH.shape[0]
    y_NV = h_NH.new_empty(N, -(-V // 16) * 16)[:, :V]
    return torch.addmm(b_V, h_NH, W_VH.t(), out=y_NV)


class _VocabularyProduct(torch.autograd.Function):
    """`_aligned_product` with its gradient."""

    @staticmethod
    def forward(ctx, h_NH, W_VH, b_V):
        ctx.save_for_backward(h_NH, W_VH)
        return _aligned_product(h_NH, W_VH, b_V)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_NV):
        h_NH, W_VH = ctx.saved_tensors
        return d_NV @ W_VH, d_NV.t() @ h_NH, d_NV.sum(0)


def _as_autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in autocast's type: autocast does not reach into an autograd Function."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    return tuple(tensor.to(torch.get_autocast_dtype(device)) for tensor in tensors)


def check_sizes(**sizes: int) -> None:
    """Raises InputError, naming the option, if a size is not 1 or more, or absurd."""
    for name, size in sizes.items():
        if size < 1:
            raise InputError(f"decoder.{name}={size}: give 1 or more")
        if size > (most := 1000 if name == "layers" else 2**20):
            raise InputError(f"decoder.{name}={size}: give {most} at most")


def linear(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    """A linear layer with Xavier-uniform weights (Glorot 2010) and biases of 0."""
    layer = nn.Linear(inputs, outputs, bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def to_rows(x_B: Tensor, rows: int) -> Tensor:
    """Repeat each image's entry for each of its rows."""
    return x_B.repeat_interleave(rows // len(x_B), dim=0)


def add_image(x_NG: Tensor, image_BG: Tensor) -> Tensor:
    """Add each image's vector to its N / B rows, without copying it."""
    return (x_NG.view(len(image_BG), -1, x_NG.shape[1]) + image_BG[:, None]).view_as(x_NG)


def scaled_tanh(x: Tensor) -> Tensor:
    """g(x) = 1.7159 tanh(2x/3)  (LeCun 1998; Mao 2014)."""
    return 1.7159 * torch.tanh(x * (2 / 3))


class TokenLogProbs(NamedTuple):
    """The log-probabilities of given tokens: see `token_log_probs`."""

    log_prob_NT: Tensor  # 0 at padding
    logits_PV: Tensor
    kept: dict[str, Tensor]


def token_log_probs(
    decoder: Decoder,
    features: Features | None,
    token_NT: Tensor,
    length_N: Tensor,
    keep: Names = (),
) -> TokenLogProbs:
    """Score given tokens by teacher forcing, inside the graph: one `forward` over N rows.

    token_NT: bos, then the tokens that are scored; length_N: how many of these are real. The
    log-probabilities are float32 at least, one for each token after bos.
    """
    memory, state = decoder.start(features, len(token_NT))
    logits_PV, _, kept = decoder(token_NT[:, :-1], length_N, memory, state, keep)
    log_prob_PV = at_least_float32(logits_PV).log_softmax(1)
    target_NT = token_NT[:, 1:]
    real_NT = real_positions(length_N, target_NT.shape[1])
    log_prob_NT = log_prob_PV.new_zeros(real_NT.shape)
    log_prob_NT[real_NT] = log_prob_PV.gather(1, target_NT[real_NT][:, None])[:, 0]
    return TokenLogProbs(log_prob_NT, logits_PV, kept)


def at_least_float32(logits: Tensor) -> Tensor:
    """Half precision is too coarse for sums over a vocabulary, and would tie many words."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def real_positions(length_N: Tensor, steps: int) -> Tensor:
    """mask_NT: True at tokens, False at padding. Indexing with it gives `forward`'s row order."""
    time_T = length_N.new_ones(steps).cumsum(0) - 1
    return time_T < length_N[:, None]
