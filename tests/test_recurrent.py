"""The laws of every decoder, for every cell, all five injections, one and two layers."""

import math

import numpy as np
import pytest
import torch
from test_cells import equation
from torch.nn import functional as F

from captioner.cells import CELLS
from captioner.decoders.base import real_positions
from captioner.decoders.recurrent import INJECT, Recurrent
from captioner.types import BOS, EOS, PAD, Features, InputError

B, C, V, D, H, T = 3, 2, 11, 7, 6, 5
E = {"MUT1": H, "MUT2": H}  # they take their input as it is; the others: 4
N = B * C
LENGTH_N = torch.tensor([3, 5, 0, 1, 5, 2])

every_form = pytest.mark.parametrize(
    "form",
    [
        dict(cell=cell, inject=inject, layers=layers)
        for cell in CELLS
        for inject in INJECT
        for layers in (1, 2)
    ],
    ids=lambda form: "-".join(map(str, form.values())),
)


def decoder_of(form, dtype=torch.float64, **options):
    cell = form["cell"] if isinstance(form["cell"], str) else form["cell"][0]
    options = dict(embed_size=E.get(cell, 4), hidden_size=H, dropout=0.0) | form | options
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
    names = [f"h{layer}" for layer in range(len(decoder.cells))]
    logits_PV, after, kept = decoder(token_NT, LENGTH_N, memory, state, keep=names)
    real_NT = real_positions(LENGTH_N, T)
    torch.testing.assert_close(logits_PV, logits_NTV[real_NT], atol=1e-12, rtol=0)
    assert after.keys() == final.keys()
    for name in final:
        torch.testing.assert_close(after[name], final[name], atol=1e-12, rtol=0)
    for name in names:
        assert kept[name].shape == (N, T, H)
        for n, length in enumerate(LENGTH_N.tolist()):
            assert (kept[name][n, length:] == 0).all()
            if length:
                torch.testing.assert_close(kept[name][n, length - 1], after[name][n])


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


@every_form
def test_step_is_the_equation(form):
    """A transcription in NumPy of layers and injection: three steps from START on."""
    check_equation(decoder_of(form))


@pytest.mark.parametrize("inject", ["par", "first"])
@pytest.mark.parametrize("image_layers", [[1], [0, 2]])
def test_the_image_enters_the_layers_that_are_named(inject, image_layers):
    """And layers may differ, and be residual."""
    form = dict(cell=["GRU", "LSTM", "MUT1"], inject=inject, image_layers=image_layers)
    check_equation(decoder_of(form, residual=True))


def check_equation(decoder):
    features, _ = batch()
    W = {name: p.detach().numpy() for name, p in decoder.named_parameters()}
    inject, layers = decoder.inject, range(len(decoder.cells))

    def stack(x, states, image):
        for n, cell in enumerate(decoder.cells):
            states[n] = equation(cell, x, states[n], image.get(n, np.zeros(1)))
            x = states[n][0] + (x if n and decoder.residual else 0)
        return x, states

    Wv = features.pooled_BD.numpy() @ W["W_ih.weight"].T
    states = [tuple(np.zeros((B, H)) for _ in cell.entries) for cell in decoder.cells]
    if inject == "pre":
        _, states = stack(Wv, states, {})
    if inject == "init":
        blocks = iter(np.split(np.tanh(Wv + W["W_ih.bias"]), len(decoder.entries), axis=1))
        states = [tuple(next(blocks) for _ in cell.entries) for cell in decoder.cells]
    ends = np.cumsum([len(decoder.cells[n].b) for n in decoder.image_layers])[:-1]
    images = dict(zip(decoder.image_layers, np.split(Wv, ends, axis=1)))

    memory, state = decoder.start(features, B)
    for t, token in enumerate([BOS, 5, 7]):
        now = images if inject == "par" or (inject == "first" and t == 0) else {}
        h, states = stack(W["embed.weight"][[token] * B], states, now)
        if inject == "merge":
            h = 1.7159 * np.tanh(2 / 3 * (h + Wv))
        y = h @ W["W_hy.weight"].T + W["W_hy.bias"]
        logits, state = decoder.step(torch.full((B,), token), memory, state)
        np.testing.assert_allclose(logits[:, BOS + 1 :].detach(), y[:, BOS + 1 :], atol=1e-12)
        assert (logits[:, [PAD, BOS]] == -math.inf).all()
        for n in layers:
            np.testing.assert_allclose(state[f"h{n}"].detach(), states[n][0], atol=1e-12)


MIXED = dict(cell=["RNN", "LSTM", "GRU"], image_layers=[1, 2], residual=True)


@pytest.mark.parametrize("inject", ["par", "first"])
def test_layers_that_differ_obey_the_laws(inject):
    form = MIXED | {"inject": inject, "layers": 3}
    test_forward_equals_the_unrolled_step(form)
    test_forward_goes_on_from_a_state(form)
    test_analytic_gradients_equal_numeric_ones(form)
    test_padding_changes_nothing_and_gets_exactly_no_gradient(form)
    test_first_loss_is_log_of_the_vocabulary(form)
    test_two_pictures_can_be_learned_by_heart(form)


@pytest.mark.parametrize("cell", CELLS)
def test_gates_are_kept_on_request(cell):
    decoder = decoder_of(dict(cell=cell, layers=2))
    features, token_NT = batch()
    memory, state = decoder.start(features, N)
    if not CELLS[cell].gates:
        with pytest.raises(ValueError, match="gates1"):
            decoder(token_NT, LENGTH_N, memory, state, keep=["gates1"])
        return
    _, _, kept = decoder(token_NT, LENGTH_N, memory, state, keep=["h1", "gates1"])
    gates, real_NT = kept["gates1"], real_positions(LENGTH_N, T)
    assert gates.shape == (N, T, len(CELLS[cell].gates), H)
    assert ((gates[real_NT] > 0) & (gates[real_NT] < 1)).all() and (gates[~real_NT] == 0).all()
    if cell != "LSTM":  # an update gate says how much of the state is new
        z, h = gates[:, :, 0], kept["h1"]
        keeps = z if cell == "GRU" else 1 - z
        n = (h[:, 1] - keeps[:, 1] * h[:, 0]) / (1 - keeps[:, 1])
        assert (n.abs() <= 1)[LENGTH_N > 1].all()


@pytest.mark.parametrize("cell", CELLS)
def test_one_product_for_the_gradient_of_W_hh_changes_no_number(cell):
    """Against autograd through `step` after `step`."""
    decoder = decoder_of(dict(cell=cell, layers=2))
    features, token_NT = batch()
    weights = torch.randn(N, T, V - 2, dtype=torch.float64) * real_positions(LENGTH_N, T)[..., None]
    logits_NTV, _ = unrolled(decoder, features, token_NT)
    (logits_NTV[..., 2:] * weights).sum().backward()
    plain = {name: p.grad.clone() for name, p in decoder.named_parameters()}
    decoder.zero_grad()
    memory, state = decoder.start(features, N)
    logits_PV, _, _ = decoder(token_NT, LENGTH_N, memory, state)
    loss = (logits_PV[:, 2:] * weights[real_positions(LENGTH_N, T)]).sum()
    loss.backward(retain_graph=True)
    for _ in range(2):  # twice through the same graph, too
        for name, p in decoder.named_parameters():
            torch.testing.assert_close(p.grad, plain[name], atol=1e-12, rtol=0)
        torch.autograd.grad(loss, decoder.embed.weight, retain_graph=True)
        decoder.zero_grad()
        loss.backward(retain_graph=True)


@pytest.mark.parametrize("cell", CELLS)
def test_half_precision_gives_nearly_the_same_gradients(cell):
    decoder = decoder_of(dict(cell=cell, layers=2), torch.float32)
    features, token_NT = batch(torch.float32)

    def gradients(enabled):
        decoder.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            memory, state = decoder.start(features, N)
            logits_PV, _, _ = decoder(token_NT, LENGTH_N, memory, state)
            loss = logits_PV[:, 2:].float().log_softmax(1)[:, 3].sum()
        loss.backward()
        return {name: p.grad.clone() for name, p in decoder.named_parameters()}

    full, half = gradients(False), gradients(True)
    for name in full:
        assert half[name].dtype == torch.float32
        assert (half[name] - full[name]).norm() < 0.05 * full[name].norm() + 1e-6, name


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
    decoder = Recurrent(V, D, embed_size=32, hidden_size=32, dropout=0.0, **form)
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
    theirs = torch.nn.LSTM(4, H, 2, batch_first=True, dtype=torch.float64)
    rows = torch.arange(4 * H).view(4, H)[[0, 1, 3, 2]].flatten()  # torch's order is i, f, g, o
    for number, cell in enumerate(decoder.cells):
        getattr(theirs, f"weight_ih_l{number}").data = cell.W_xh.data[rows]
        getattr(theirs, f"weight_hh_l{number}").data = cell.W_hh.data[rows]
        getattr(theirs, f"bias_ih_l{number}").data = cell.b.data[rows]
        getattr(theirs, f"bias_hh_l{number}").data.zero_()
    token_NT = torch.randint(2, V, (N, T))
    memory, state = decoder.start(None, N)
    _, _, kept = decoder(token_NT, torch.full((N,), T), memory, state, keep=("h1",))
    h_NTH, _ = theirs(decoder.embed(token_NT))
    torch.testing.assert_close(kept["h1"], h_NTH, atol=1e-12, rtol=0)


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
        (dict(embed_size=0), "embed_size=0"),
        (dict(cell=[]), "give 1 or more"),
        (dict(cell=["RNN", "GRU"], layers=3), r"layers=3 with cell=\['RNN', 'GRU'\]"),
        (dict(cell="MUT1", embed_size=8), "give decoder.embed_size=512"),
        (dict(image_layers=[1]), r"image_layers=\[1\]: give some of \[0\]"),
        (dict(image_layers=[]), "image_layers"),
        (dict(layers=2, inject="pre", image_layers=[1]), "only par and first"),
        (dict(dropout=1.0), "decoder.dropout=1.0"),
    ],
)
def test_a_wrong_option_is_named(option, message):
    with pytest.raises(InputError, match=message):
        Recurrent(V, D, **option)
