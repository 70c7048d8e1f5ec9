"""How far long work has come: a bar in a terminal, a line every ten seconds in a file."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
INTERVAL = 10.0
"""Seconds between two lines."""


class Lines:
    """Says every ten seconds how much is done, with the time that is left; short work says nothing.

    features: 640 of 6000 images, 1:24 left
    """

    def __init__(self, title: str, total: int, unit: str):
        self.title, self.total, self.unit, self.n = title, total, unit, 0
        self.start = self.last = time.monotonic()

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing to close."""

    def update(self, count: int = 1) -> None:
        """Say that so many more are done."""
        self.n += count
        if self.last + INTERVAL <= time.monotonic():
            self.last = time.monotonic()
            left = time_left(self.last - self.start, self.n, self.total)
            line = f"{self.title}: {self.n} of {self.total} {self.unit}, {left} left"
            print(line, file=sys.stderr, flush=True)


def progress(title: str, total: int, unit: str, show: bool = True) -> "tqdm | Lines":
    """A context manager whose `update` shows on stderr how much is done."""
    if not show or sys.stderr.isatty():
        return tqdm(total=total, desc=title, unit=f" {unit}", disable=not show)
    return Lines(title, total, unit)


def with_progress(items: Iterable[T], title: str, total: int, unit: str, show: bool) -> Iterator[T]:
    """The same items; how many have been used is shown on stderr."""
    with progress(title, total, unit, show) as bar:
        for item in items:
            yield item
            bar.update()


def time_left(seconds: float, done: float, total: float) -> str:
    """The time that the rest will take, as minutes and seconds, if `done` took so many seconds."""
    if not done:
        return "?"
    minutes, rest = divmod(round(seconds * (total - done) / done), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
