"""Gradients vanish, last and explode where the lecture says so; the instruments measure that."""

import json
import shutil

import numpy as np
import pytest
import torch

from captioner.analysis import gradients
from captioner.commands.main import main
from captioner.decoders.attention import SoftAttention
from captioner.decoders.cells import LSTM
from captioner.decoders.recurrent import Recurrent
from captioner.decoders.transformer import Transformer
from captioner.types import Features
from tests.helpers.laws import LENGTH_N, D, N, V, features, tokens

H, STEPS = 64, 40


def lecture_rnn(W_hh):
    """A vanilla RNN with this W_hh, whose inputs are at most 0.1."""
    decoder = Recurrent(V, D, "RNN", 16, H, dropout=0.0).double()
    decoder.cells[0].W_hh.data = W_hh
    x = decoder.embed.weight.data @ decoder.cells[0].W_xh.data.T
    decoder.embed.weight.data *= 0.1 / x.abs().max()
    return decoder


def fall(decoder, name="h0"):
    """|dL/dh| 40 steps before the loss, as a share of that at the loss."""
    token_NT = torch.randint(3, V, (8, STEPS + 2))
    norms = gradients.flow(decoder, None, token_NT, torch.full((8,), STEPS + 1))[name]
    assert len(norms) == STEPS + 1
    return norms[STEPS] / norms[0]


def orthogonal():
    return torch.nn.init.orthogonal_(torch.empty(H, H).double())


@pytest.mark.parametrize("scale, low, high", [(0.5, 0, 1e-6), (1.0, 1e-2, 1), (1.5, 10, 1e9)])
def test_the_gradient_of_a_vanilla_rnn(scale, low, high):
    assert low < fall(lecture_rnn(scale * orthogonal())) < high


def test_a_norm_above_one_is_necessary_and_not_sufficient():
    """A Gaussian W_hh of norm 1.5 shrinks most directions: its gradient vanishes all the same."""
    W = torch.randn(H, H).double()
    W *= 1.5 / torch.linalg.matrix_norm(W, 2)
    assert fall(lecture_rnn(W)) < 1e-3
    assert fall(lecture_rnn(W * 0.6)) < 1e-6  # norm 0.9: it must
    assert gradients.weight_norms(lecture_rnn(W))["cells.0.h"] == pytest.approx(1.5)


def test_the_lstms_cell_is_an_uninterrupted_path():
    decoder = Recurrent(V, D, "LSTM", 16, H, dropout=0.0).double()
    decoder.cells[0].W_hh.data *= 0.01
    decoder.cells[0].b.data[H : 2 * H] = 20.0  # the forget gate is open
    kept = fall(decoder, "c0")
    decoder.cells[0].b.data[H : 2 * H] = -1.0
    assert 0.5 < kept < 2 and fall(decoder, "c0") < 1e-6


def test_flow_is_autograd_row_by_row():
    decoder = Recurrent(V, D, "GRU", 4, 6, layers=2, dropout=0.0).double()
    inputs, token_NT = features(), torch.randint(3, V, (N, 6))
    mean_norms = gradients.flow(decoder, inputs, token_NT, LENGTH_N)
    norms = {name: [[] for _ in range(5)] for name in ("h0", "h1")}
    for n, length in enumerate(LENGTH_N.tolist()):
        memory, state = decoder.start(Features(*(x[n // 2 : n // 2 + 1] for x in inputs)), 1)
        states = []
        for t in range(length):
            logits, state = decoder.step(token_NT[n : n + 1, t], memory, state)
            states.append(state)
        for name in norms if length else ():
            loss = -logits.log_softmax(1)[0, token_NT[n, length]]
            entries = [state[name] for state in reversed(states)]
            for d, g in enumerate(torch.autograd.grad(loss, entries, retain_graph=True)):
                norms[name][d].append(g.norm().item())
    assert mean_norms.keys() == norms.keys()
    for name, values in norms.items():
        assert mean_norms[name] == pytest.approx([*map(np.mean, values)], abs=1e-12)


def test_the_jacobian_of_a_step_is_known_for_the_vanilla_rnn():
    """dh_t/dh_{t-1} = diag(1 - h_t^2) W_hh."""
    decoder = lecture_rnn(1.5 * orthogonal())
    token_T = torch.randint(3, V, (6,))
    norms = gradients.jacobian_norms(decoder, None, token_T)
    memory, state = decoder.start(None, 1)
    expected = []
    for token in token_T:
        _, state = decoder.step(token[None], memory, state)
        J = (1 - state["h0"][0, :, None] ** 2) * decoder.cells[0].W_hh
        expected.append(torch.linalg.matrix_norm(J, 2).item())
    assert norms == pytest.approx(expected[1:], abs=1e-9)


@pytest.mark.parametrize("Kind, entries", [(SoftAttention, {"h", "c"}), (Transformer, set())])
def test_it_measures_any_decoder(Kind, entries):
    decoder = Kind(V, D, hidden_size=16, dropout=0.0).double()
    inputs, token_NT = features(), torch.cat([tokens(), tokens()[:, :1]], dim=1)
    norms = gradients.flow(decoder, inputs, token_NT, LENGTH_N)
    assert norms.keys() == entries
    jacobians = gradients.jacobian_norms(decoder, features(1), token_NT[0])
    assert len(jacobians) == (5 if entries else 0)


def test_saturation_counts_words_by_unit():
    gates = torch.tensor([[[0.05, 0.95]], [[0.5, 0.99]], [[0.0, 0.0]], [[1.0, 1.0]]])  # P, gate, H
    real_NT = torch.tensor([[True, True], [False, True]])
    z = gradients.saturation(gates.view(2, 2, 1, 2), real_NT, "z")["z"]
    assert z["shut"] == pytest.approx([1 / 3, 0]) and z["open"] == pytest.approx([1 / 3, 1])


def test_the_command_writes_json_and_a_figure(model_dir, scenes_dir, tmp_path, capsys):
    out = tmp_path / "new"
    assert main(["gradients", str(model_dir), str(scenes_dir), "--limit=3", f"--out={out}"]) == 0
    assert "|dL/dc0|" in capsys.readouterr().out
    measured = json.loads((out / "gradients.json").read_text())
    assert measured["gradient"].keys() == {"h0", "c0"}
    fresh = dict.fromkeys((f"cells.0.{gate}" for gate in "ifog"), 1.0)
    assert measured["W_hh"] == pytest.approx(fresh, abs=1e-5)
    assert list(measured["gates"]["gates0"]) == list(LSTM.gates)
    assert len(measured["gates"]["gates0"]["f"]["open"]) == 16
    assert (out / "gradients.png").read_bytes().startswith(b"\x89PNG")
    assert main(["gradients", str(tmp_path), str(scenes_dir)]) == 2
    assert "not a model directory" in capsys.readouterr().err
    shutil.copytree(scenes_dir, tmp_path / "data")
    path = tmp_path / "data" / "captions_val.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"annotations": []}))
    code = main(["gradients", str(model_dir), str(tmp_path / "data")])
    assert code == 2 and "caption" in capsys.readouterr().err
