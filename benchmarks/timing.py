"""Times and ratios, as all benchmarks take and print them."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

T = TypeVar("T")


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Seconds that the work takes, and its result."""
    begun = time.perf_counter()
    result = work()
    return time.perf_counter() - begun, result


def spread(values: Sequence[float]) -> str:
    """The median and the range."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> str:
    """The spread of their seconds by ours, turn by turn."""
    return spread([a / b for a, b in zip(theirs, ours)])


def peak() -> float:
    """Flops per second of a float32 product of 2048 x 2048 matrices."""
    A = torch.rand(2048, 2048)
    seconds, _ = timed(lambda: [A @ A for _ in range(3)])
    return 3 * 2 * 2048**3 / seconds
