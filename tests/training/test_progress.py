"""Training says every ten seconds where it is, if its output goes to a file."""

import sys
from types import SimpleNamespace

import pytest

from captioner.training import progress


def test_a_line_every_ten_seconds(monkeypatch, capsys):
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    trainer = SimpleNamespace(
        current_epoch=1, max_epochs=4, global_step=40, estimated_stepping_batches=100,
        num_val_batches=[9], progress_bar_metrics={"train/loss": 2.5},
    )  # fmt: skip
    lines = progress.ProgressLines()
    lines.on_train_start(trainer, None)  # a run that goes on
    for trainer.global_step in range(41, 61):
        now += 1
        lines.on_train_batch_end(trainer, None, None, None, 0)
    for batch in range(9):
        now += 3
        lines.on_validation_batch_end(trainer, None, None, None, batch)
    lines.disable()
    now += 99
    lines.on_train_batch_end(trainer, None, None, None, 0)
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
