"""Work done ahead of who needs it, by threads."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def prefetch(read: Callable[[A], B], items: Sequence[A], workers: int = 0) -> Iterator[B]:
    """map(read, items), in order, with up to 2 * workers results ahead; without workers, none.

    Threads and not processes: what takes long in reading a picture (the disk, digests, decoding,
    resizing) is done outside the interpreter's lock; and a process that is forked beside the
    threads of a process group can hang before its first instruction (CPython before 3.12). `read`
    should not compute with torch, as captioner.images does not: every reader would start a team of
    torch's threads.
    """
    if workers == 0:
        yield from map(read, items)
        return
    pool = ThreadPoolExecutor(workers, "reader")
    try:
        waiting: deque[Future[B]] = deque()
        for item in items:
            waiting.append(pool.submit(read, item))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # also where the caller wants no more
        pool.shutdown(cancel_futures=True)
