"""How far long work has come: a bar in a terminal, a line every ten seconds in a file."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tqdm import tqdm

from captioner.console import note

T = TypeVar("T")
INTERVAL = 10.0  # seconds between two lines


@contextmanager
def progress(
    title: str, total: int, unit: str, show: bool = True
) -> Iterator[Callable[[int], None]]:
    """A context manager that gives `update(count)`, which shows on stderr how much is done.

    Where stderr is no terminal, short work says nothing; else, with the time that is left:
    features: 640 of 6000 images, 1:24 left
    """
    done, start = 0, time.monotonic()
    last, lines = start, show and not sys.stderr.isatty()

    def update(count: int) -> None:
        nonlocal done, last
        bar.update(min(count, total - done))
        done = min(done + count, total)
        if lines and last + INTERVAL <= time.monotonic():
            last = time.monotonic()
            left = time_left(last - start, done, total)
            note(f"{title}: {done} of {total} {unit}, {left} left")

    with tqdm(total=total, desc=title, unit=f" {unit}", disable=lines or not show) as bar:
        yield update


def with_progress(items: Iterable[T], title: str, total: int, unit: str, show: bool) -> Iterator[T]:
    """The same items; how many have been used is shown on stderr."""
    with progress(title, total, unit, show) as update:
        for item in items:
            yield item
            update(1)


def time_left(seconds: float, done: float, total: float) -> str:
    """The time that the rest will take, as minutes and seconds, if `done` took so many seconds."""
    if not done:
        return "?"
    minutes, rest = divmod(round(seconds * (total - done) / done), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
