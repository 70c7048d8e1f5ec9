"""What strategies have in common."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from captioner.search.engine import Captions, Progress, Step, count
from captioner.search.rules import Rule, check
from captioner.types import Memory, State

SCORES = ("power", "wu", "reward")


class Strategy(ABC):
    """What all have in common: `rows` an image, and how they are called."""

    rows: int
    can_include = False
    """Whether it sees to what captions must say."""

    def __call__(
        self,
        step: Step,
        memory: Memory,
        state: State,
        rules: Sequence[Rule] = (),
        numbers: Sequence[int] | None = None,
        progress: Progress | None = None,
    ) -> Captions:
        """The captions of B images, of B * rows rows that start equal, `rows` of each image.

        progress: what captions must say (rules.Include). Raises InputError where a strategy cannot
        see to that, and where the decoder gives NaN.
        """
        images = count(state) // self.rows
        numbers = list(range(images)) if numbers is None else [int(number) for number in numbers]
        check(len(numbers) == images, f"{len(numbers)} numbers for {images} images")
        check(all(number >= 0 for number in numbers), "numbers of images are 0 or more")
        check(
            progress is None or self.can_include,
            f"{type(self).__name__} cannot say what it must: search=beam can",
        )
        return self.find(step, memory, state, rules, numbers, progress)

    @abstractmethod
    def find(self, step, memory, state, rules, numbers, progress) -> Captions: ...


def grade(options: Any, log_prob: Tensor, length: int | Tensor) -> Tensor:
    """What `options.score` and `options.length_penalty` make of a log-probability (see `Beam`)."""
    a = options.length_penalty
    length = length.to(log_prob.dtype) if isinstance(length, Tensor) else length
    if options.score == "power":
        return log_prob / length**a
    if options.score == "wu":
        return log_prob / ((5 + length) / 6) ** a
    return log_prob + a * length


def check_draw(options: Any) -> None:
    heat, seed = options.temperature, options.seed
    check(1e-4 <= heat <= 1e4, f"search.temperature={heat}: give 0.0001 to 10000")
    check(
        isinstance(seed, int) and seed >= 0, f"search.seed={seed}: give a whole number, 0 or more"
    )


def check_score(options: Any) -> None:
    a, score = options.length_penalty, options.score
    check(0 <= a <= 100, f"search.length_penalty={a}: give 0 to 100")
    check(score in SCORES, f"search.score={score}: give one of {', '.join(SCORES)}")


def uniforms(rows: int, columns: int, *seeds: int) -> Tensor:
    """Numbers in (0, 1) that depend on the seeds alone."""
    uniform = torch.from_numpy(np.random.default_rng(seeds).random((rows, columns)))
    return uniform.clamp_(min=torch.finfo(torch.float64).tiny)


def check_count(options: object, name: str) -> None:
    value = getattr(options, name)
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    check(whole, f"search.{name}={value}: give a whole number, 1 or more")
