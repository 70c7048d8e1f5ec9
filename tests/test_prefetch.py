"""Reading ahead changes when things are read, and nothing else."""

import threading
import time

import pytest

from captioner import prefetch as module
from captioner.prefetch import prefetch, prefetch_batches


def wait_until(condition):
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_it_is_map_and_an_error_comes_in_its_place(workers):
    def read(n):
        time.sleep(0.01 * (n % 3 == 0))  # later ones are done before
        return 10 / (n - 15)

    assert list(prefetch(read, range(15), workers)) == [10 / (n - 15) for n in range(15)]
    assert list(prefetch(read, [], workers)) == []
    results = prefetch(read, range(20), workers)
    assert [next(results) for _ in range(15)] == [10 / (n - 15) for n in range(15)]
    with pytest.raises(ZeroDivisionError):
        next(results)


@pytest.mark.parametrize(
    "make, batch_size, ahead",
    [
        (lambda read: prefetch(read, range(100), workers=2), 1, 4),
        (lambda read: prefetch_batches(read, iter(range(100)), batch_size=3, workers=2), 3, 6),
    ],
)
def test_it_reads_so_far_ahead_and_no_further(make, batch_size, ahead):
    read = []
    results = make(read.append)
    for taken in range(batch_size, 4 * batch_size, batch_size):
        next(results)
        wait_until(lambda: len(read) >= taken + ahead)  # noqa: B023
        time.sleep(0.05)
        assert sorted(read) == list(range(taken + ahead))
    results.close()


def test_the_readers_work_side_by_side():
    """Each waits for the other; alone, one would wait for ever."""
    both = threading.Barrier(2, timeout=20)
    assert sorted(prefetch(lambda _: both.wait(), range(2), workers=2)) == [0, 1]


@pytest.mark.parametrize("make", [prefetch, lambda *args: prefetch_batches(*args[:2], 2, 3)])
def test_nothing_goes_on_when_no_more_is_wanted(make):
    before = threading.active_count()
    results = make(lambda n: n, range(100), 3)
    assert next(results) in (0, [0, 1]) and threading.active_count() > before
    results.close()
    assert wait_until(lambda: threading.active_count() == before)


def test_batches_of_a_collection_are_full_however_slow_the_machine(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0)
    for count in (0, 7, 8):
        batches = list(prefetch_batches(lambda n: n * n, range(count), 4, 2))
        assert [n for batch in batches for n in batch] == [n * n for n in range(count)]
        assert all(len(batch) == 4 for batch in batches[:-1])


def test_a_slow_iterator_is_answered_as_it_comes():
    """Each item comes when the one before was answered; to wait for a batch would be for ever."""
    answered = threading.Semaphore(0)

    def slow():
        for n in range(4):
            yield n
            assert answered.acquire(timeout=20)

    answers = []
    for batch in prefetch_batches(str, slow(), batch_size=16, workers=2):
        answers.append(batch)
        answered.release()
    assert answers == [["0"], ["1"], ["2"], ["3"]]


def test_an_iterators_own_error_comes_after_what_it_gave():
    def broken():
        yield 1
        raise LookupError("no more")

    batches = prefetch_batches(lambda n: n, broken(), 1, 2)
    assert next(batches) == [1]
    with pytest.raises(LookupError, match="no more"):
        next(batches)
