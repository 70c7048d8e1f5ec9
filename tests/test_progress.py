"""What long work says in a file: nothing if it is short, else a line every ten seconds."""

import pytest

from captioner import progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves on."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(
    "seconds, expected",
    [
        (1, []),
        (4, ["features: 30 of 50 images, 0:08 left"]),
        (600, [f"features: {n}0 of 50 images, {left} left" for n, left in
               [(1, "40:00"), (2, "30:00"), (3, "20:00"), (4, "10:00"), (5, "0:00")]]),
    ],
)  # fmt: skip
def test_a_line_every_ten_seconds(clock, capsys, seconds, expected):
    with progress.progress("features", 50, "images") as update:
        for _ in range(5):
            clock[0] += seconds
            update(10)
    assert capsys.readouterr().err.splitlines() == expected


def test_items_are_handed_on_and_a_process_that_shall_be_silent_is(clock, capsys):
    def slow():
        for number in range(3):
            clock[0] += 11
            yield number

    shown = [
        list(progress.with_progress(slow(), "captions", 3, "batches", show)) for show in (0, 1)
    ]
    assert shown == [[0, 1, 2]] * 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and lines[-1] == "captions: 3 of 3 batches, 0:00 left"


@pytest.mark.parametrize("done, expected", [(0, "?"), (1, "1:39:00"), (50, "1:00")])
def test_the_time_left(done, expected):
    assert progress.time_left(60, done, 100) == expected
