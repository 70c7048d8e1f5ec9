"""Threads that work ahead of the code that needs their results."""

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Empty, Queue
from threading import Semaphore, Thread
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")

PATIENCE = 0.1  # seconds that a batch waits for another item of an iterator


def prefetch(read: Callable[[A], B], items: Sequence[A], workers: int = 0) -> Iterator[B]:
    """Yield map(read, items), in order, with up to 2 * workers results ahead; 0 workers: none.

    Threads and not processes: the slow work of reading a picture releases the interpreter's lock,
    and a process forked beside the threads of a process group can hang (CPython before 3.12).
    `read` should not compute with torch: every thread would start torch's threads.
    """
    if workers == 0:
        yield from map(read, items)
        return
    for (result,) in prefetch_batches(read, items, 1, workers, ahead=2 * workers):
        yield result


def prefetch_batches(
    read: Callable[[A], B],
    items: Iterable[A],
    batch_size: int,
    workers: int,
    ahead: int | None = None,
) -> Generator[list[B], None, None]:
    """Yield map(read, items), in order, in lists of `batch_size`.

    ahead: number of items that are read before they are wanted; by default, two batches.
    A batch of a collection is only smaller if it is the last one. Other iterables may be slow, such
    as the lines of a terminal: a batch with at least one item does not wait longer than PATIENCE
    for the next one. They are iterated in a thread of their own.
    """
    patience = None if isinstance(items, Collection) else PATIENCE
    pool = ThreadPoolExecutor(workers, "reader")
    arrived: Queue[Future[B] | None] = Queue()
    slots, closed = Semaphore(ahead or 2 * batch_size), False

    def submit_all() -> None:
        try:
            for item in items:
                slots.acquire()
                if closed:
                    return
                arrived.put(pool.submit(read, item))
        except BaseException as error:  # raised in its place
            failure: Future[B] = Future()
            failure.set_exception(error)
            arrived.put(failure)
        arrived.put(None)

    # A daemon, since the next item may never come.
    Thread(target=submit_all, name="submitter", daemon=True).start()
    try:
        last = False
        while not last:
            batch = [arrived.get()]
            while batch[-1] is not None and len(batch) < batch_size:
                try:
                    batch.append(arrived.get(timeout=patience))
                except Empty:
                    break
            last = batch[-1] is None
            results = [future.result() for future in batch if future is not None]
            slots.release(len(batch))
            if results:
                yield results
    finally:  # also if the caller stops early
        closed = True
        slots.release()
        pool.shutdown(cancel_futures=True)
