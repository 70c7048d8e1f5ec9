"""Training says every ten seconds where it is, if its output goes to a file."""

import sys
from types import SimpleNamespace

import pytest

from captioner.training import progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves on."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def trainer(**changes):
    values = dict(current_epoch=1, max_epochs=4, global_step=40, estimated_stepping_batches=100)
    values |= dict(num_val_batches=[9], progress_bar_metrics={"train/loss": 2.5})
    return SimpleNamespace(**values | changes)


def test_a_line_every_ten_seconds(clock, capsys):
    lines = progress.ProgressLines()
    lines.on_train_start(trainer(global_step=40), None)  # a run that goes on
    for step in range(41, 61):
        clock[0] += 1
        lines.on_train_batch_end(trainer(global_step=step), None, None, None, 0)
    for batch in range(9):
        clock[0] += 3
        lines.on_validation_batch_end(trainer(), None, None, None, batch)
    lines.disable()
    clock[0] += 99
    lines.on_train_batch_end(trainer(), None, None, None, 0)
    assert capsys.readouterr().out.splitlines() == [
        "epoch 2 of 4, step 50 of 100, loss 2.500, 0:50 left",
        "epoch 2 of 4, step 60 of 100, loss 2.500, 0:40 left",
        "epoch 2 of 4, validation: 4 of 9 batches",
        "epoch 2 of 4, validation: 8 of 9 batches",
    ]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_in_a_terminal_and_lines_in_a_file(monkeypatch, terminal):
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(isatty=lambda: terminal))
    kind = progress.ProgressBar if terminal else progress.ProgressLines
    assert type(progress.progress_callback()) is kind
