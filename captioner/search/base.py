"""What strategies have in common: their call, what they return, how captions are scored."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from captioner.search.include import MustInclude
from captioner.search.rules import Rule, check
from captioner.types import BOS, EOS, PAD, Memory, State

SCORES = ("power", "wu", "reward")
Step = Callable[[Tensor, Memory, State], tuple[Tensor, State]]
"""Decoder.step."""


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 1


MAX_ROWS = 10_000
"""Hypotheses or samples of a picture: as many rows of the vocabulary's size are held at once."""
COUNT = (_is_count, "give a whole number, 1 or more")
ROWS = (lambda n: _is_count(n) and n <= MAX_ROWS, f"give a whole number, 1 to {MAX_ROWS:,}")
SHARE = (lambda p: p is None or 0 < p <= 1, "not in (0, 1]")
VALID: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("width", "n", "samples", "groups"), ROWS),
    "max_length": COUNT,
    "top_k": (lambda k: k is None or _is_count(k), COUNT[1]),
    "top_p": SHARE,
    "typical_p": SHARE,
    "temperature": (lambda t: 1e-4 <= t <= 1e4, "give 0.0001 to 10000"),
    "seed": (lambda seed: isinstance(seed, int) and seed >= 0, "give a whole number, 0 or more"),
    "length_penalty": (lambda a: 0 <= a <= 10, "give 0 to 10"),
    "score": (lambda score: score in SCORES, f"give one of {', '.join(SCORES)}"),
    "threshold": (lambda p: 0 <= p <= 1, "give 0 to 1"),
    "diversity": (lambda d: 0 <= d <= 1e6, "give 0 to 1e6"),
}
"""Option of the strategies -> whether a value is valid, and what to do if it is not."""


class Inputs(NamedTuple):
    """What a strategy searches: see `Strategy.__call__`. The images' rows start equal."""

    step: Step
    memory: Memory
    state: State
    rules: Sequence[Rule]
    image_numbers: Sequence[int]
    must_include: MustInclude | None
    guide: MustInclude | None = None

    @property
    def row_N(self) -> Tensor:
        """The numbers of the state's rows, on its device."""
        entry = next(iter(self.state.values()))
        return torch.arange(len(entry), device=entry.device)

    def of_images(self, image_b: Tensor) -> "Inputs":
        """The same for some of the images only."""
        row_bM = self.row_N.view(len(self.image_numbers), -1)[image_b]
        return self._replace(
            memory=select_rows(self.memory, image_b),
            state=select_rows(self.state, row_bM.flatten()),
            image_numbers=[self.image_numbers[b] for b in image_b.tolist()],
        )

    def first_rows(self, rows: int) -> "Inputs":
        """The same with only the first `rows` rows of each image."""
        row_BM = self.row_N.view(len(self.image_numbers), -1)
        return self._replace(state=select_rows(self.state, row_BM[:, :rows].flatten()))


class Captions(NamedTuple):
    """K captions of each of B images, best first.

    token_BKT: words, then eos if the caption ended, then pad; bos is not part of it.
    score_BK: what they are ranked by. log_prob_BK: the sum of log-probabilities, END included.
    If fewer than K are possible, the others have a score of -inf and no tokens.
    error_B: why an image has none at all, such as the rule that left no word; else None.
    forced_B: by `Guided`, whether an image's captions were made to follow the guide.
    """

    token_BKT: Tensor
    score_BK: Tensor
    log_prob_BK: Tensor
    error_B: list[str | None]
    forced_B: Sequence[bool] = ()

    @property
    def length_BK(self) -> Tensor:
        """Number of tokens, END included."""
        return (self.token_BKT != PAD).sum(2)

    @property
    def ended_BK(self) -> Tensor:
        """Whether the caption ended with END, rather than being cut off at the greatest length."""
        return (self.token_BKT == EOS).any(2)

    def framed(self) -> tuple[Tensor, Tensor]:
        """token_NT of N = B * K rows with bos before the tokens, and length_N, as training reads
        captions and `token_log_probs` scores them."""
        token_NT = F.pad(self.token_BKT.flatten(0, 1), (1, 0), value=BOS)
        return token_NT, self.length_BK.flatten()

    def best(self, n: int) -> "Captions":
        """The first n captions of each image."""
        tokens, scores, log_probs, errors, _ = self
        return Captions(tokens[:, :n], scores[:, :n], log_probs[:, :n], errors)

    def replaced(self, where_B: Tensor, others: "Captions") -> "Captions":
        """The same, but for the images where it is True the captions that `others` has of them."""
        T = max(self.token_BKT.shape[2], others.token_BKT.shape[2])
        tokens, new_tokens = (
            F.pad(x, (0, T - x.shape[2]), value=PAD) for x in (self[0], others[0])
        )
        tokens, scores, log_probs = (
            old.index_put((where_B,), new)
            for old, new in [(tokens, new_tokens), *zip(self[1:3], others[1:3])]
        )
        errors = list(self.error_B)
        for b, error in zip(where_B.nonzero()[:, 0].tolist(), others.error_B):
            errors[b] = error
        return Captions(tokens, scores, log_probs, errors)

    def ranked(self, score_BK: Tensor) -> "Captions":
        """The same captions, ranked by other scores; one with -inf is taken out."""
        score_BK = score_BK.masked_fill(self.log_prob_BK == -torch.inf, -torch.inf)
        score_BK, best_BK = score_BK.sort(dim=1, descending=True, stable=True)
        impossible_BK = score_BK == -torch.inf
        token_BKT = pick(self.token_BKT, best_BK).masked_fill(impossible_BK[..., None], PAD)
        log_prob_BK = self.log_prob_BK.gather(1, best_BK).masked_fill(impossible_BK, -torch.inf)
        return Captions(token_BKT, score_BK, log_prob_BK, self.error_B)


class Strategy(ABC):
    """A way to search for captions; a dataclass of its options.

    Raises InputError, by its name, for an option that is out of range.
    """

    supports_must_include = False

    def __post_init__(self) -> None:
        options = vars(self)
        for name, (is_valid, advice) in VALID.items():
            if name in options:
                check(is_valid(options[name]), f"search.{name}={options[name]}: {advice}")

    @property
    @abstractmethod
    def rows(self) -> int:
        """How many rows of each image the decoder's `start` must be asked for."""

    def options(self) -> dict[str, Any]:
        """The options from which captioner.instantiate makes an equal strategy of this package."""
        return {"_target_": f"captioner.search.{type(self).__name__}", **vars(self)}

    def __call__(
        self,
        step: Step,
        memory: Memory,
        state: State,
        rules: Sequence[Rule] = (),
        image_numbers: Sequence[int] | None = None,
        must_include: MustInclude | None = None,
        guide: MustInclude | None = None,
    ) -> Captions:
        """Search for the captions of B images, of B * rows rows that start equal.

        guide: what `Guided` makes captions include if need be; others do without. Raises InputError
        if `must_include` is given to a strategy that does not support it, and if the decoder
        returns NaN.
        """
        images = len(next(iter(state.values()))) // self.rows
        numbers = list(range(images)) if image_numbers is None else [int(i) for i in image_numbers]
        check(len(numbers) == images, f"{len(numbers)} image numbers for {images} images")
        check(all(number >= 0 for number in numbers), "image numbers are 0 or more")
        check(
            must_include is None or self.supports_must_include,
            f"{type(self).__name__} cannot force words into captions: use search=beam",
        )
        return self.search(Inputs(step, memory, state, rules, numbers, must_include, guide))

    @abstractmethod
    def search(self, inputs: Inputs) -> Captions:
        """What `__call__` returns, for arguments that it has checked."""


def length_normalised(
    log_prob: Tensor, length: int | Tensor, score: str, length_penalty: float
) -> Tensor:
    """The score of hypotheses of these log-probabilities and lengths (see `Beam`)."""
    length = length.to(log_prob.dtype) if isinstance(length, Tensor) else length
    if score == "power":
        return log_prob / length ** float(length_penalty)
    if score == "wu":
        return log_prob / ((5 + length) / 6) ** length_penalty
    return log_prob + length_penalty * length


def uniforms(
    rows: int, columns: int, seed: int, image_numbers: Sequence[int], *step: int
) -> Tensor:
    """Numbers in (0, 1), `rows` rows of each image; float64, on the CPU. They depend on the seed,
    the image's number and the step alone."""
    seeds = [(seed, number, *step) for number in image_numbers]
    draws = [np.random.default_rng(key).random((rows, columns)) for key in seeds]
    return torch.from_numpy(np.concatenate(draws)).clamp_(min=torch.finfo(torch.float64).tiny)


def to_float64(x: Tensor) -> Tensor:
    """x in float64, on its `float64_device`."""
    return x.to(float64_device(x.device)).double()


def float64_device(device: torch.device) -> torch.device:
    """The device, or the CPU in place of one that has no float64 (MPS)."""
    return torch.device("cpu") if device.type == "mps" else device


def pick(x_AXT: Tensor, index_AK: Tensor) -> Tensor:
    """Entries of the last dimension but one; the dimensions before it are the same in both."""
    return x_AXT.gather(-2, index_AK[..., None].expand(*index_AK.shape, x_AXT.shape[-1]))


def top(x_NV: Tensor, count: int, block: int = 64) -> tuple[Tensor, Tensor]:
    """The greatest `count` numbers of each row, or all of them, and where they are.

    Each is in one of the `count` blocks whose greatest numbers are greatest, or in the rest of the
    row: less is read than by `topk` of whole rows.
    """
    N, V = x_NV.shape
    blocks = V // block
    if blocks <= 2 * count:
        return x_NV.topk(min(count, V), dim=1)  # type: ignore[return-value]
    most_Nb = x_NV[:, : blocks * block].view(N, blocks, block).amax(2)
    start_NC = most_Nb.topk(count, dim=1).indices * block
    offset_X = torch.arange(block, device=x_NV.device)
    index_NX = (start_NC[..., None] + offset_X).flatten(1)
    rest_X = torch.arange(blocks * block, V, device=x_NV.device)
    index_NX = torch.cat([index_NX, rest_X.expand(N, -1)], dim=1)
    best_NC, position_NC = x_NV.gather(1, index_NX).topk(count, dim=1)
    return best_NC, index_NX.gather(1, position_NC)


def select_rows(state: State, row_N: Tensor) -> State:
    """The state of these rows."""
    return {name: entry.index_select(0, row_N) for name, entry in state.items()}
