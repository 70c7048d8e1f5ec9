"""Activations are those of the model, read step by step from the beginning."""

import numpy as np
import pytest
import torch

from captioner.analysis import activations, properties
from tests.helpers.models import tiny_language_model


def state_after(model, content):
    memory, state = model.decoder.start(None, 1)
    with torch.no_grad():
        for token in [1, *model.tokenizer.encode(content)]:
            _, state = model.decoder.step(torch.tensor([token]), memory, state)
    return torch.cat([state[name][0] for name in model.decoder.entries]).numpy()


def test_pieces_are_read_with_what_stands_before_them(tmp_path, monkeypatch):
    """Units, values and states of each piece are those of the whole text."""
    monkeypatch.setattr(activations, "LENGTH", 60)
    monkeypatch.setattr(activations, "WARM_UP", 25)
    model = tiny_language_model(layers=2)
    model.decoder.float()
    content = "".join(f"the cat {'on' * (n % 4)} Zé\n# the mat" + "\n" * (n % 3) for n in range(12))
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.py").write_bytes(
        b"\xef\xbb\xbf" + content.replace("\n", "\r\n").encode()
    )
    model.save(tmp_path / "model")
    readings, labels = activations.read_activations(
        tmp_path / "model", str(tmp_path / "text"), 99, val_share=0
    )
    assert labels[7 * 3 + 2] == "c1[2]"
    assert [u for reading in readings for u in reading.units] == model.tokenizer.split(content)
    assert len({reading.document for reading in readings}) == len(readings) > 3  # few documents
    expected = properties.of_text(content, code=True)
    for begin, reading in zip(range(0, len(content), 60), readings):
        for name, value in reading.values.items():
            np.testing.assert_array_equal(value, expected[name][begin : begin + 60])
        for t in (0, 1, len(reading.units) - 1):
            state_U = state_after(model, content[max(0, begin - 25) : begin + t + 1])
            assert reading.state_TU[t] == pytest.approx(state_U, abs=1e-5)
