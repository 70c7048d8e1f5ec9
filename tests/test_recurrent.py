"""The laws of every decoder, for both cells, all five injections, one and two layers."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from captioner.decoders.base import real_positions
from captioner.decoders.recurrent import INJECT, Recurrent
from captioner.types import BOS, EOS, PAD, Features, InputError

B, C, V, D, E, H, T = 3, 2, 11, 7, 4, 6, 5
N = B * C
LENGTH_N = torch.tensor([3, 5, 0, 1, 5, 2])

every_form = pytest.mark.parametrize(
    "form",
    [
        dict(cell=cell, inject=inject, layers=layers)
        for cell in ("RNN", "LSTM")
        for inject in INJECT
        for layers in (1, 2)
    ],
    ids=lambda form: "-".join(map(str, form.values())),
)


def decoder_of(form, dtype=torch.float64, **options):
    options = dict(embed_size=E, hidden_size=H, dropout=0.0) | form | options
    decoder = Recurrent(V, D, **options).to(dtype)
    for parameter in decoder.parameters():  # biases too: a forgotten one must show
        parameter.data += 0.3 * torch.randn_like(parameter)
    return decoder


def batch(dtype=torch.float64):
    token_NT = torch.randint(2, V, (N, T))
    token_NT[:, 0] = BOS
    token_NT[~real_positions(LENGTH_N, T)] = PAD
    return Features(torch.rand(B, D, dtype=dtype)), token_NT


def unrolled(decoder, features, token_NT):
    """`step` after `step`: logits_NTV, and the state after each row's last token."""
    memory, state = decoder.start(features, N)
    logits, final = [], {name: s.clone() for name, s in state.items()}
    for t in range(T):
        logits_NV, state = decoder.step(token_NT[:, t], memory, state)
        logits.append(logits_NV)
        for name in state:
            final[name][LENGTH_N == t + 1] = state[name][LENGTH_N == t + 1]
    return torch.stack(logits, dim=1), final


@every_form
def test_forward_equals_the_unrolled_step(form):
    decoder = decoder_of(form)
    features, token_NT = batch()
    logits_NTV, final = unrolled(decoder, features, token_NT)
    memory, state = decoder.start(features, N)
    logits_PV, after, kept = decoder(token_NT, LENGTH_N, memory, state, keep=("h",))
    real_NT = real_positions(LENGTH_N, T)
    torch.testing.assert_close(logits_PV, logits_NTV[real_NT], atol=1e-12, rtol=0)
    assert after.keys() == final.keys()
    for name in final:
        torch.testing.assert_close(after[name], final[name], atol=1e-12, rtol=0)
    assert kept["h"].shape == (N, T, form["layers"], H)
    for n, length in enumerate(LENGTH_N.tolist()):
        assert (kept["h"][n, length:] == 0).all()
        for layer in range(form["layers"] if length else 0):
            torch.testing.assert_close(kept["h"][n, length - 1, layer], after[f"h{layer}"][n])


@every_form
def test_forward_goes_on_from_a_state(form):
    """A prompt, then the rest, is the whole: what truncated backpropagation rests on."""
    decoder = decoder_of(form)
    features, token_NT = batch()
    full_N, cut = torch.full((N,), T), 2
    memory, state = decoder.start(features, N)
    whole, _, _ = decoder(token_NT, full_N, memory, state)
    first, state, _ = decoder(token_NT[:, :cut], full_N.clamp(max=cut), memory, state)
    rest, _, _ = decoder(token_NT[:, cut:], full_N - cut, memory, state)
    parts = torch.cat([first.view(N, cut, V), rest.view(N, T - cut, V)], dim=1)
    torch.testing.assert_close(whole.view(N, T, V), parts, atol=1e-12, rtol=0)


def sigm(x):
    return 1 / (1 + np.exp(-x))


@every_form
def test_step_is_the_equation(form):
    """A transcription in NumPy of cell, layers and injection: three steps from START on."""
    decoder = decoder_of(form)
    features, _ = batch()
    W = {name: p.detach().numpy() for name, p in decoder.named_parameters()}
    v = features.pooled_BD.numpy()
    inject, layers = form["inject"], form["layers"]
    lstm = form["cell"] == "LSTM"

    def layer(number, x, h, c, image):
        cell = {k: W[f"cells.{number}.{k}"] for k in ("W_xh", "W_hh", "b")}
        a = x @ cell["W_xh"].T + h @ cell["W_hh"].T + cell["b"] + image
        if not lstm:
            return np.tanh(a), c
        i, f, o, g = np.split(a, 4, axis=1)
        c = sigm(f) * c + sigm(i) * np.tanh(g)
        return sigm(o) * np.tanh(c), c

    def stack(x, states, image):
        for number in range(layers):
            states[number] = layer(number, x, *states[number], image if number == 0 else 0)
            x = states[number][0]
        return x, states

    Wv = v @ W["W_ih.weight"].T
    states = [(np.zeros((B, H)), np.zeros((B, H))) for _ in range(layers)]
    if inject == "pre":
        _, states = stack(Wv, states, 0)
    if inject == "init":
        blocks = np.split(np.tanh(Wv + W["W_ih.bias"]), layers * (2 if lstm else 1), axis=1)
        states = [
            (blocks[2 * n], blocks[2 * n + 1]) if lstm else (blocks[n], np.zeros((B, H)))
            for n in range(layers)
        ]

    memory, state = decoder.start(features, B)
    for t, token in enumerate([BOS, 5, 7]):
        image = Wv if inject == "par" or (inject == "first" and t == 0) else 0
        h, states = stack(W["embed.weight"][[token] * B], states, image)
        if inject == "merge":
            h = 1.7159 * np.tanh(2 / 3 * (h + Wv))
        y = h @ W["W_hy.weight"].T + W["W_hy.bias"]
        logits, state = decoder.step(torch.full((B,), token), memory, state)
        np.testing.assert_allclose(logits[:, BOS + 1 :].detach(), y[:, BOS + 1 :], atol=1e-12)
        assert (logits[:, [PAD, BOS]] == -math.inf).all()


@every_form
def test_analytic_gradients_equal_numeric_ones(form):
    decoder = decoder_of(form)
    features, token_NT = batch()
    names = [name for name, _ in decoder.named_parameters()]

    class Loss(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.decoder = decoder

        def forward(self, pooled_BD):
            memory, state = decoder.start(Features(pooled_BD), N)
            logits_PV, _, _ = decoder(token_NT, LENGTH_N, memory, state)
            return logits_PV[:, BOS + 1 :].log_softmax(1)

    loss = Loss()

    def run(pooled_BD, *weights):
        named = {f"decoder.{name}": w for name, w in zip(names, weights)}
        return torch.func.functional_call(loss, named, (pooled_BD,))

    leaves = [features.pooled_BD, *decoder.parameters()]
    leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    assert torch.autograd.gradcheck(run, leaves, fast_mode=True)


@every_form
def test_padding_changes_nothing_and_gets_exactly_no_gradient(form):
    decoder = decoder_of(form)
    features, token_NT = batch()
    other_NT = token_NT.clone()
    other_NT[~real_positions(LENGTH_N, T)] = 9  # a word in place of padding

    def run(tokens):
        decoder.zero_grad()
        memory, state = decoder.start(features, N)
        logits_PV, _, _ = decoder(tokens, LENGTH_N, memory, state)
        logits_PV[:, BOS + 1 :].sum().backward()
        return logits_PV.detach(), decoder.embed.weight.grad

    logits, gradient = run(token_NT)
    other_logits, other_gradient = run(other_NT)
    assert torch.equal(logits, other_logits)
    assert torch.equal(gradient, other_gradient)
    assert (gradient[PAD] == 0).all()


@every_form
def test_first_loss_is_log_of_the_vocabulary(form):
    vocabulary = 1000
    options = dict(embed_size=32, hidden_size=32, dropout=0.0) | form
    decoder = Recurrent(vocabulary, D, **options)
    memory, state = decoder.start(Features(torch.rand(B, D)), N)
    token_NT = torch.randint(2, vocabulary, (N, T))
    logits_PV, _, _ = decoder(token_NT, torch.full((N,), T), memory, state)
    loss = F.cross_entropy(logits_PV, torch.randint(2, vocabulary, (N * T,)))
    assert abs(loss.item() - math.log(vocabulary - 2)) < 0.1


@every_form
def test_two_pictures_can_be_learned_by_heart(form):
    decoder = Recurrent(V, D, embed_size=16, hidden_size=32, dropout=0.0, **form)
    features = Features(torch.rand(2, D))
    token_NT = torch.tensor([[BOS, 4, 5, 6, EOS], [BOS, 7, 5, 8, EOS]])
    length_N = torch.tensor([4, 4])
    optimizer = torch.optim.Adam(decoder.parameters(), 0.03)
    for _ in range(60):
        memory, state = decoder.start(features, 2)
        logits_PV, _, _ = decoder(token_NT[:, :-1], length_N, memory, state)
        loss = F.cross_entropy(logits_PV, token_NT[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1


def test_lstm_layers_equal_torch():
    decoder = decoder_of(dict(cell="LSTM", inject="par", layers=2))
    theirs = torch.nn.LSTM(E, H, 2, batch_first=True, dtype=torch.float64)
    rows = torch.arange(4 * H).view(4, H)[[0, 1, 3, 2]].flatten()  # torch's order is i, f, g, o
    for number, cell in enumerate(decoder.cells):
        getattr(theirs, f"weight_ih_l{number}").data = cell.W_xh.data[rows]
        getattr(theirs, f"weight_hh_l{number}").data = cell.W_hh.data[rows]
        getattr(theirs, f"bias_ih_l{number}").data = cell.b.data[rows]
        getattr(theirs, f"bias_hh_l{number}").data.zero_()
    token_NT = torch.randint(2, V, (N, T))
    memory, state = decoder.start(None, N)
    _, _, kept = decoder(token_NT, torch.full((N,), T), memory, state, keep=("h",))
    h_NTH, _ = theirs(decoder.embed(token_NT))
    torch.testing.assert_close(kept["h"][:, :, 1], h_NTH, atol=1e-12, rtol=0)


@pytest.mark.parametrize("inject", INJECT)
def test_the_image_is_projected_once_per_image(inject):
    decoder = decoder_of(dict(cell="LSTM", inject=inject, layers=1))
    calls = []
    decoder.W_ih.register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
    features, token_NT = batch()
    memory, state = decoder.start(features, N)
    decoder(token_NT, LENGTH_N, memory, state)
    assert calls == [B]


def test_dropout_acts_in_training_only():
    decoder = decoder_of(dict(cell="LSTM", inject="par", layers=2), dropout=0.5)
    features, token_NT = batch()

    def run():
        memory, state = decoder.start(features, N)
        return decoder(token_NT, LENGTH_N, memory, state)[0]

    assert not torch.equal(run(), run())
    decoder.eval()
    assert torch.equal(run(), run())


@pytest.mark.parametrize(
    "option, message",
    [
        (dict(cell="GRUU"), "decoder.cell=GRUU"),
        (dict(inject="here"), "decoder.inject=here"),
        (dict(layers=0), "layers=0"),
        (dict(hidden_size=-1), "hidden_size=-1"),
        (dict(dropout=1.0), "decoder.dropout=1.0"),
    ],
)
def test_a_wrong_option_is_named(option, message):
    with pytest.raises(InputError, match=message):
        Recurrent(V, D, **option)
