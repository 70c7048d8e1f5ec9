"""Language models: truncated backpropagation, Karpathy's program, the lecture's example."""

import json
import math

import numpy as np
import pytest
import torch

from captioner import tokenizers
from captioner.commands.main import main
from captioner.data import text
from captioner.decoders import fused
from captioner.decoders.cells import CELLS
from captioner.errors import InputError
from captioner.models import language_model, loading
from captioner.objectives.cross_entropy import CrossEntropy, ScheduledSampling
from captioner.search import Beam, Greedy, Sample
from captioner.training import checkpoints, language_training
from captioner.training.language_training import LanguageTraining, bits
from captioner.types import BOS, EOS, UNK, TextBatch
from tests.helpers.models import WORDS, tiny_language_model
from tests.helpers.runs import (
    DDP,
    ROOT,
    assert_equal_runs,
    finish_after,
    in_process,
    in_processes,
    logged,
    scores_in,
)


def corpus(model, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(WORDS * 3)
    return text.Corpus(text.documents(str(path)), model.tokenizer, tmp_path)


def learned(model, streams, objective=None):
    """The sum of the losses of all chunks, its gradients, and the state after them."""
    model.zero_grad()
    total, state = 0.0, None
    for number in range(len(streams)):
        loss, _, state = (objective or CrossEntropy())(model, streams[number], 0, state)
        assert not any(entry.requires_grad for entry in state.values())
        loss.backward()
        total += float(loss.detach())
    return total, [p.grad.clone() for p in model.decoder.parameters()], state


@pytest.mark.parametrize("cell", CELLS)
def test_the_carried_state_is_that_of_an_unbroken_pass(tmp_path, cell):
    model = tiny_language_model(cell)
    data = corpus(model, tmp_path)
    unbroken, chunked = (text.Streams(data, 1, bptt, None) for bptt in (10**6, 7))
    assert len(unbroken) == 1 and len(chunked) > 10
    total, full, expected = learned(model, unbroken)
    summed, cut, state = learned(model, chunked)
    assert summed == pytest.approx(total, abs=1e-9)
    torch.testing.assert_close(state, expected, atol=1e-9, rtol=0)
    assert any(not torch.allclose(one, other) for one, other in zip(full, cut))  # it is cut


def test_a_chunk_of_the_whole_document_has_its_gradient_and_its_bits(tmp_path):
    """Those of `step` after `step`."""
    model = tiny_language_model()
    data = corpus(model, tmp_path)
    ids = torch.tensor(data.ids.astype(np.int64))
    logits, (memory, state) = [], model.decoder.start(None, 1)
    for token in ids[:-1]:
        logits_NV, state = model.decoder.step(token[None], memory, state)
        logits.append(logits_NV)
    nll = torch.nn.functional.cross_entropy(torch.cat(logits), ids[1:], reduction="sum")
    full = torch.autograd.grad(nll, list(model.decoder.parameters()))
    _, gradients, _ = learned(model, text.Streams(data, 1, len(data), None))
    torch.testing.assert_close(gradients, list(full), atol=1e-9, rtol=0)
    expected = nll.item() / math.log(2) / len(WORDS * 3)
    assert bits(model, data, 1, 10) == pytest.approx(expected, abs=1e-9)


def test_the_state_begins_anew_with_a_document():
    model = tiny_language_model(layers=1)
    token_NT = torch.tensor([[BOS, 4, 5], [6, 4, 5]])
    length_N, fresh_N = torch.tensor([2, 2]), torch.tensor([True, False])
    before = {name: torch.ones(2, 7).double() for name in ("h0", "c0")}
    _, _, state = model.start(TextBatch(token_NT, length_N, fresh_N), before)
    for entry in state.values():
        assert entry.tolist() == [[0.0] * 7, [1.0] * 7]


def test_scheduled_sampling_with_true_words_only_is_cross_entropy(tmp_path):
    model = tiny_language_model()
    streams = text.Streams(corpus(model, tmp_path), 2, 9, None)
    true_words = ScheduledSampling("linear", k=1.0, least=1.0)
    results = (learned(model, streams, objective)[:2] for objective in (CrossEntropy(), true_words))
    torch.testing.assert_close(*results, atol=1e-9, rtol=0)
    nothing = TextBatch(torch.full((2, 2), 0), torch.zeros(2, dtype=torch.long), torch.ones(2) > 0)
    assert ScheduledSampling()(model, nothing, 0)[1]["count"] == 0  # streams that are over


@pytest.mark.parametrize("alphabet", [0, 1000])
@pytest.mark.parametrize("more", [{}, {"residual": True}, {"one_hot": True}])
@pytest.mark.parametrize("cell", CELLS)
def test_the_copy_that_writes_steps_as_the_decoder(monkeypatch, cell, more, alphabet):
    monkeypatch.setattr(language_model, "LOOKUP_VOCABULARY", alphabet)
    # MUT1 and MUT2 take x as it is.
    size = len(tiny_language_model().tokenizer) if "one_hot" in more else 7
    decoder = tiny_language_model(cell, size=size, **more).decoder.eval()
    before = {name: entry.clone() for name, entry in decoder.state_dict().items()}
    other = language_model._sampling_copy(decoder)
    memory, state = decoder.start(None, 3)
    other_state = state
    for token_N in torch.tensor([[1, 1, 1], [4, 5, 6], [7, 7, 3]]):
        logits_NV, state = decoder.step(token_N, memory, state)
        others_NV, other_state = other.step(token_N, memory, other_state)
        torch.testing.assert_close((others_NV, other_state), (logits_NV, state))
    torch.testing.assert_close(decoder.state_dict(), before, rtol=0, atol=0)


def test_it_goes_on_where_the_prompt_ends_and_saved_the_same(tmp_path):
    model = tiny_language_model().eval()
    memory, state = model.decoder.start(None, 1)
    written = []
    with torch.no_grad():
        for token in [BOS, *model.tokenizer.encode("the cat")]:
            logits_NV, state = model.decoder.step(torch.tensor([token]), memory, state)
        while len(written) < 12:
            logits_NV[:, UNK] = -torch.inf
            written.append(int(logits_NV.argmax(1)))
            if written[-1] == EOS:
                break
            logits_NV, state = model.decoder.step(torch.tensor(written[-1:]), memory, state)
    expected = ["the cat" + model.tokenizer.decode(written)]
    assert model.continue_prompt("the cat", Greedy(12)) == expected
    many = model.continue_prompt("the cat", Sample(n=4, max_length=12))
    assert len(many) == 4 and len(set(many)) > 1
    assert len(model.continue_prompt("", Beam(3, n=3, max_length=5))) == 3
    with pytest.raises(InputError, match="does not know 'Z'"):
        model.continue_prompt("Zoo", Greedy(3))
    model.save(tmp_path)
    again = loading.read_model(tmp_path)
    again.decoder.double()
    assert again.continue_prompt("the cat", Greedy(12)) == expected
    with pytest.raises(InputError, match="a language model, it sees no pictures"):
        loading.load(tmp_path)


def karpathy(ids, steps, weights, bptt=25, rate=0.1):
    """min-char-rnn.py's equations: the loss of each chunk, summed, before its update.

    h_t = tanh(Wxh x_t + Whh h_{t-1} + bh), y_t = Why h_t + by, p_t = softmax(y_t) over all that
    can be said; dL/dy = p - 1[target]; gradients are clipped to [-5, 5]; m += g^2,
    w -= rate g / sqrt(m + 1e-8).
    """
    weights = Wxh, Whh, bh, Why, by = [w.copy() for w in weights]
    memory, losses, at = [np.zeros_like(w) for w in weights], [], len(ids)
    while len(losses) < steps:
        if at >= len(ids) - 1:
            at, h = 0, np.zeros(len(bh))
        targets = ids[at + 1 : at + bptt + 1]
        inputs = ids[at : at + len(targets)]
        hs, ps, loss = [h], [], 0.0
        for x, target in zip(inputs, targets):
            hs.append(np.tanh(Wxh[:, x] + Whh @ hs[-1] + bh))
            y = Why @ hs[-1] + by
            y[[0, 1]] = -np.inf
            p = np.exp(y - y.max())
            ps.append(p / p.sum())
            loss -= np.log(ps[-1][target])
        losses.append(loss)
        dWxh, dWhh, dbh, dWhy, dby = gradients = [np.zeros_like(w) for w in weights]
        dnext = np.zeros(len(bh))
        for t in reversed(range(len(inputs))):
            dy = ps[t]
            dy[targets[t]] -= 1
            dWhy += np.outer(dy, hs[t + 1])
            dby += dy
            draw = (1 - hs[t + 1] ** 2) * (Why.T @ dy + dnext)
            dbh += draw
            dWxh[:, inputs[t]] += draw
            dWhh += np.outer(draw, hs[t])
            dnext = Whh.T @ draw
        for w, g, m in zip(weights, gradients, memory):
            g = np.clip(g, -5, 5)
            m += g * g
            w -= rate * g / np.sqrt(m + 1e-8)
        at, h = at + bptt, hs[-1]
    return losses


@pytest.mark.slow
def test_min_char_rnn_is_karpathys_program(tmp_path, monkeypatch):
    """Its first 100 losses, by Lightning and the experiment's own configuration.

    Of this text the equations forget rounding; of others with these huge first steps they do not.
    """
    path, run, weights = ROOT / "LICENSE", tmp_path / "run", []
    before = LanguageTraining.on_train_start

    def remember(self):
        first = self.model.decoder.state_dict()
        names = ("cells.0.W_xh", "cells.0.W_hh", "cells.0.b", "W_hy.weight", "W_hy.bias")
        weights.extend(first[name].numpy().copy() for name in names)
        before(self)

    monkeypatch.setattr(LanguageTraining, "on_train_start", remember)
    command = ["experiment=min_char_rnn", f"data.path={path}", f"run_dir={run}", "patience=9"]
    command += ["trainer.precision=64-true", "trainer.log_every_n_steps=1", "data.val_share=0.1"]
    assert in_process(*command, "trainer.max_epochs=2", f"data.cache={tmp_path / 'cache'}") == 0

    model = loading.read_model(run / "model")
    train, _ = text.split(text.documents(str(path)), 0.1)
    data = text.Corpus(train, model.tokenizer, tmp_path / "cache")
    streams = text.Streams(data, 1, 25)
    assert all(weight.dtype == np.float64 for weight in weights)
    assert 0.009 < weights[1].std() < 0.011 and not weights[2].any() and not weights[4].any()
    means = logged(run, "train/loss")
    losses = [mean * int(streams[k].length_N.sum()) for k, mean in enumerate(means[:100])]
    expected = karpathy(data.ids.tolist(), 100, weights)
    assert losses == pytest.approx(expected, abs=1e-9) and len(losses) == 100
    assert expected[0] == pytest.approx(25 * math.log(len(model.tokenizer) - 2), rel=1e-3)
    assert np.mean(expected[-10:]) < 0.8 * expected[0]  # it learns
    assert 0 < scores_in(run)["corpus"]["bits_per_character"] < 8
    samples = (run / "samples.txt").read_text()
    assert "== at first: epoch 0, step 100\n" in samples and "== train more: epoch 1" in samples


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    (folder / "input.txt").write_text("".join(f"{n} and {n} is {n + n}\n" for n in range(99)))
    small = ["decoder.embed_size=8", "decoder.hidden_size=8", "data.batch_size=4", "data.bptt=20"]
    small += ["trainer.max_epochs=3", "trainer.log_every_n_steps=1", "search.max_length=20"]
    place = [f"data.path={folder / 'input.txt'}", f"data.cache={folder}", "trainer.accelerator=cpu"]
    return ["experiment=charlm", "decoder.layers=2", *place, *small, "ema=0.9"]


@pytest.mark.parametrize(
    "mishaps, more, stage, samples",
    [
        (["SIGTERM:0:0:1", "SIGINT:0:1:3", "val-SIGTERM:0:1:0"], [], 100, 3),
        (["SIGTERM:0:1:3"], ["ema=0", "+trainer.val_check_interval=0.5"], 100, 6),
        (["SIGTERM:0:1:3"], ["trainer.accumulate_grad_batches=2"], 3, 3 + 4),  # after 3, 6, 12, 24
    ],
)
def test_a_run_that_goes_on_ends_the_same(
    options, tmp_path, monkeypatch, mishaps, more, stage, samples
):
    """The state of the streams too."""
    monkeypatch.setattr(language_training, "FIRST_SAMPLE", stage)
    assert in_process(*options, *more, f"run_dir={tmp_path / 'unbroken'}") == 0
    finish_after(mishaps, tmp_path / "cut", *options, *more)
    assert_equal_runs(tmp_path / "unbroken", tmp_path / "cut")
    assert (tmp_path / "unbroken/samples.txt").read_text().count("== ") == samples


def test_phases_of_text(options, tmp_path):
    phases = "phases=[{name: a}, {name: b, optimizer: {lr: 1e-4}}]"
    assert in_process(*options, "trainer.max_epochs=1", phases, f"run_dir={tmp_path}") == 0
    assert (tmp_path / "scores.json").exists() and loading.read_model(tmp_path / "model")


@pytest.mark.parametrize(
    "option, message",
    [
        ("data.prompt=Z", "does not know 'Z'"),
        ("decoder=transformer", "a language model takes a Recurrent decoder"),
        ("data.path=", "data.path"),
        ("data.pattern=", "data.pattern"),
        ("data.bptt=0", "data.bptt=0"),
        ("data.val_share=0", "data.val_share=0"),
        ("tokenizer.kind=word data.path=dots.txt", "nothing to validate on: there are no words"),
        ("schedule=linear", "schedule=linear"),
        ("loss=max", "loss=max"),
        ("checkpoint_minutes=0", "checkpoint_minutes=0.0: give more than 0"),
    ],
)
def test_a_wrong_option_is_named_before_training(
    options, tmp_path, monkeypatch, capsys, option, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dots.txt").write_text("a word\n" * 30 + "...\n" * 90)
    assert in_process(*options, *option.split(), "run_dir=run") == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_have_streams_of_their_own_and_go_on(options, tmp_path):
    two = [*DDP, "data.batch_size=2"]
    unbroken, cut = tmp_path / "unbroken", tmp_path / "cut"
    code, stderr = in_processes(tmp_path, *options, *two, f"run_dir={unbroken}")
    assert code == 0, stderr
    code, stderr = in_processes(tmp_path, *options, *two, f"run_dir={cut}", mishap="SIGTERM:1:1:2")
    assert code > 128, stderr
    assert in_processes(tmp_path, f"resume={cut}")[0] == 0
    assert_equal_runs(unbroken, cut)
    states = checkpoints.load(checkpoints.newest(unbroken / "checkpoints"))["streams"]
    assert states["h0"].shape == (2, 2, 8)
    alone = tmp_path / "alone"  # four streams in one process are the same four
    assert in_process(*options, f"run_dir={alone}") == 0
    scores = [scores_in(run)["corpus"]["bits_per_character"] for run in (unbroken, alone)]
    assert scores[0] == pytest.approx(scores[1], abs=0.02)


def test_it_writes_and_shows_its_gradients(tmp_path, capsys):
    """The commands on a model directory."""
    model = tiny_language_model(layers=1)
    model.decoder.float()
    model.save(tmp_path / "model")

    def sample(options):
        code = main(["sample", f"{tmp_path}/model", "--prompt=the cat", "--length=9", *options])
        return code, *capsys.readouterr()

    code, output, _ = sample(["--seed=3"])
    assert code == 0 and output.startswith("the cat") and sample(["--seed=3"])[1] == output
    for way in ("--greedy", "--beam=3", "--n=3 --top-k=4 --top-p=0.9"):
        assert sample(way.split())[0] == 0
    wrong = "--prompt=Z", "--length=0", "--greedy --beam=2", "--n=0"
    idle = "--greedy --n=2", "--greedy --seed=2", "--beam=2 --top-k=2"
    assert all(sample(options.split())[0] == 2 for options in wrong + idle)
    assert "sample: --temperature=0.0: give" in sample(["--temperature=0"])[2]
    assert "sample: --n=3: give 1 to --beam=2" in sample(["--beam=2", "--n=3"])[2]
    (tmp_path / "text.txt").write_text(WORDS * 9)
    order = [str(tmp_path / "model"), str(tmp_path / "text.txt"), "--limit=3"]
    assert main(["gradients", *order, f"--out={tmp_path / 'out'}"]) == 0
    results = json.loads((tmp_path / "out/gradients.json").read_text())
    assert set(results["gradient"]) == {"h0", "c0"}


def test_hello():
    """The lecture's first example: what the page says of "h", "e", "l", "l"."""
    units = ["h", "e", "l", "o"]
    tokenizer = tokenizers.Char(units, 10)
    decoder = {"_target_": "captioner.decoders.recurrent.Recurrent", "cell": "RNN", "dropout": 0.0}
    model = language_model.build_language_model(
        {"decoder": decoder | {"hidden_size": 3, "one_hot": True}}, tokenizer
    ).decoder.double()
    W_xh = np.array([[-1, 0, 1, 0], [1, 0, 0, 0], [2, -1, -1, 0]])
    W_hh = np.array([[0, 0, -1], [-2, 0, 0], [0, -1, 0]])
    W_hy = np.array([[0, -1, 0], [-2, 1, 2], [0, 3, -3], [2, -3, -2]])
    page = (ROOT / "docs/language.md").read_text()
    with torch.no_grad():
        model.cells[0].W_xh.zero_()[:, 4:] = torch.from_numpy(W_xh).double()
        model.cells[0].W_hh.copy_(torch.from_numpy(W_hh).double())
        model.W_hy.weight.zero_()[4:] = torch.from_numpy(W_hy).double()
        model.W_hy.bias.zero_()
        memory, state = model.start(None, 1)
        h = np.zeros(3)
        for letter, then in zip("hell", "ello"):
            x = np.array([float(unit == letter) for unit in units])
            h = np.tanh(W_xh @ x + W_hh @ h)
            logits_NV, state = model.step(torch.tensor(tokenizer.encode(letter)), memory, state)
            y = logits_NV[0, 4:]
            assert state["h0"][0].tolist() == pytest.approx(h.tolist(), abs=1e-12)
            assert y.tolist() == pytest.approx((W_hy @ h).tolist(), abs=1e-12)
            assert units[int(y.argmax())] == then
            shown = [", ".join(f"{x:.2f}" for x in row) for row in (h, y.tolist())]
            line = f"| {letter} | {shown[0]} | {shown[1]} | {then} | {y.softmax(0).max():.2f} |"
            assert line in page


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("cell", ["LSTM", "RNN", "ReLU"])
def test_torchs_operation_is_the_loop(cell, rows, monkeypatch):
    """Logits, states and gradients."""
    model = tiny_language_model(cell)
    token_NT = torch.randint(4, len(model.tokenizer), (rows, 11))
    length_N = torch.full((rows,), 11)
    state = {name: torch.randn(rows, 7).double() for name in model.decoder.entries}
    results = []
    for fits in (fused.fits, lambda cell, packed: False):
        monkeypatch.setattr(fused, "fits", fits)
        model.zero_grad()
        logits_PV, after, _ = model.decoder(token_NT, length_N, {}, state)
        (logits_PV[:, 2:].square().sum() + sum(x.sum() for x in after.values())).backward()
        gradients = (p.grad for p in model.decoder.parameters())
        results.append([logits_PV, *after.values(), *gradients])
    torch.testing.assert_close(*results, atol=1e-10, rtol=0)
