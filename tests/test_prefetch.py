"""Reading ahead changes when things are read, and nothing else."""

import threading
import time

import pytest

from captioner.prefetch import prefetch


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_it_is_map(workers):
    def read(n):
        time.sleep(0.01 * (n % 3 == 0))  # later ones are done before
        return n * n

    assert list(prefetch(read, range(20), workers)) == [n * n for n in range(20)]
    assert list(prefetch(read, [], workers)) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_comes_in_its_place(workers):
    def read(n):
        return 10 / (n - 5)

    got = []
    with pytest.raises(ZeroDivisionError):
        got.extend(prefetch(read, range(10), workers))
    results = prefetch(read, range(10), workers)
    assert [next(results) for _ in range(5)] == [10 / (n - 5) for n in range(5)]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_it_reads_so_far_ahead_and_no_further():
    read, workers = [], 2
    results = prefetch(read.append, range(100), workers)
    for taken in range(1, 4):
        next(results)
        deadline = time.monotonic() + 10
        while len(read) < taken + 2 * workers and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert sorted(read) == list(range(taken + 2 * workers))


def test_the_readers_work_side_by_side():
    """Each waits for the other; alone, one would wait for ever."""
    both = threading.Barrier(2, timeout=20)
    assert sorted(prefetch(lambda _: both.wait(), range(2), workers=2)) == [0, 1]


def test_nothing_goes_on_when_no_more_is_wanted():
    before = threading.active_count()
    results = prefetch(lambda n: n, range(100), workers=3)
    assert next(results) == 0 and threading.active_count() > before
    results.close()
    assert threading.active_count() == before
