"""The laws of every decoder, for the tests of each of them.

A law takes `make(vocabulary) -> decoder` in float64, with random biases (`randomised`).
"""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from captioner.decoders.base import real_positions
from captioner.decoders.ensemble import Ensemble
from captioner.decoders.transformer import Transformer
from captioner.types import BOS, EOS, PAD, Features, PerMember

B, C, V, D, R, T = 3, 2, 11, 7, 4, 5
N = B * C
LENGTH_N = torch.tensor([3, 5, 0, 1, 5, 2])


class OnOne(Ensemble):
    """Every member sees the same features, so that the laws can be asked."""

    def start(self, features, rows):
        return super().start(PerMember([features] * len(self.members)), rows)


def randomised(decoder):
    """In float64; biases and the statistics of v random too: a forgotten one must show."""
    decoder = decoder.double()
    decoder.embed.weight.data *= 0.1  # so that nothing saturates
    for parameter in decoder.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    decoder.standard.fit(0.5 + torch.randn(9, D).double())
    return decoder


def standardised(decoder, v):
    """(v - mean) / std, in NumPy."""
    return (v.numpy() - decoder.standard.mean_D.numpy()) / decoder.standard.std.numpy()


def features(images=B):
    """Of the second image only some regions exist."""
    mask_BR = torch.ones(images, R, dtype=torch.bool)
    mask_BR[1:2, 1:3] = False
    return Features(torch.rand(images, D).double(), torch.rand(images, R, D).double(), mask_BR)


def tokens():
    token_NT = torch.randint(2, V, (N, T))
    token_NT[:, 0] = BOS
    token_NT[~real_positions(LENGTH_N, T)] = PAD
    return token_NT


def unrolled(decoder, inputs, token_NT):
    """`step` after `step`: logits_NTV, and the state after each of them and before."""
    memory, state = decoder.start(inputs, N)
    logits, states = [], [state]
    for t in range(token_NT.shape[1]):
        logits_NV, state = decoder.step(token_NT[:, t], memory, state)
        logits.append(logits_NV)
        states.append(state)
    return torch.stack(logits, dim=1), states


def step_is_the_equation(decoder, transcribed):
    """Three steps from START on equal those of a transcription in NumPy.

    transcribed(decoder, W, v, a) is a generator: it is sent words, and gives what the vocabulary
    reads, and entries of the state or traces by their names.
    """
    inputs = features()._replace(mask_BR=None)
    W = {name: p.detach().numpy() for name, p in decoder.named_parameters()}
    expected = transcribed(decoder, W, *(standardised(decoder, x) for x in inputs[:2]))
    memory, state = decoder.start(inputs, B)
    token_BT = torch.tensor([[BOS, 5, 7]] * B)
    keep = ("alpha",) if decoder.uses_grid else ()
    _, _, kept = decoder(token_BT, torch.full((B,), 3), memory, state, keep)
    for t, token_B in enumerate(token_BT.unbind(1)):
        next(expected)
        seen, traces = expected.send(W["embed.weight"][token_B])
        y = seen @ W["W_hy.weight"].T + W["W_hy.bias"]
        logits, state = decoder.step(token_B, memory, state)
        assert (logits[:, [PAD, BOS]] == -math.inf).all()
        np.testing.assert_allclose(logits[:, BOS + 1 :].detach(), y[:, BOS + 1 :], atol=1e-12)
        for name, trace in traces.items():
            actual = state[name] if name in state else kept[name][:, t]
            np.testing.assert_allclose(actual.detach(), trace, atol=1e-12)


def forward_is_the_unrolled_step(make):
    """Logits; and the state after each row's last token, by the words that it gives next."""
    decoder, inputs, token_NT = make(V), features(), tokens()
    logits_NTV, states = unrolled(decoder, inputs, token_NT)
    memory, state = decoder.start(inputs, N)
    logits_PV, after, _ = decoder(token_NT, LENGTH_N, memory, state)
    expected_PV = logits_NTV[real_positions(LENGTH_N, T)]
    torch.testing.assert_close(logits_PV, expected_PV, atol=1e-12, rtol=0)
    next_N = torch.randint(EOS + 1, V, (N,))
    logits_NV, _ = decoder.step(next_N, memory, after)
    for n, length in enumerate(LENGTH_N.tolist()):
        alone_NV, _ = decoder.step(next_N, memory, states[length])
        torch.testing.assert_close(logits_NV[n], alone_NV[n], atol=1e-12, rtol=0)


def forward_goes_on_from_a_state(make):
    """A prompt of any length, then the rest, is the whole."""
    decoder, inputs, token_NT = make(V), features(), torch.randint(2, V, (N, T))
    full_N, cut_N = torch.full((N,), T), torch.tensor([2, 1, 3, 0, 2, 5])
    memory, state = decoder.start(inputs, N)
    full_PV, _, _ = decoder(token_NT, full_N, memory, state)
    first_PV, state, _ = decoder(token_NT, cut_N, memory, state)
    rest_NT = torch.stack([row.roll(-cut) for row, cut in zip(token_NT, cut_N.tolist())])
    rest_PV, _, _ = decoder(rest_NT, full_N - cut_N, memory, state)
    pairs = zip(first_PV.split(cut_N.tolist()), rest_PV.split((full_N - cut_N).tolist()))
    together_PV = torch.cat([part for pair in pairs for part in pair])
    torch.testing.assert_close(together_PV, full_PV, atol=1e-12, rtol=0)


def analytic_gradients_are_numeric_ones(make):
    """And those of `forward` are those of `step` after `step`."""
    decoder, inputs, token_NT = make(V), features(), tokens()
    names = [name for name, _ in decoder.named_parameters()]

    def forward(*seen):
        seen = inputs._replace(**dict(zip(("pooled_BD", "grid_BRD"), seen)))
        keep = decoder.kept_for_penalty
        logits_PV, _, kept = decoder(token_NT, LENGTH_N, *decoder.start(seen, N), keep)
        # Its target is a constant.
        term = decoder.penalty(inputs, kept, LENGTH_N)[None] if keep else torch.zeros(1)
        return logits_PV[:, BOS + 1 :].log_softmax(1), term

    def run(pooled_BD, grid_BRD, *weights):
        named = {f"decoder.{name}": w for name, w in zip(names, weights)}
        return torch.func.functional_call(loss, named, (pooled_BD, grid_BRD))

    loss = torch.nn.ModuleDict({"decoder": decoder})
    loss.forward = forward
    leaves = [inputs.pooled_BD, inputs.grid_BRD, *decoder.parameters()]
    leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    assert torch.autograd.gradcheck(run, leaves, fast_mode=True, check_undefined_grad=False)

    weights_NTV = torch.randn(N, T, V - 2).double()
    weights_NTV[~real_positions(LENGTH_N, T)] = 0
    (unrolled(decoder, inputs, token_NT)[0][..., 2:] * weights_NTV).sum().backward()
    plain = [None if p.grad is None else p.grad.clone() for p in decoder.parameters()]
    decoder.zero_grad()
    logits_PV, _, _ = decoder(token_NT, LENGTH_N, *decoder.start(inputs, N))
    (logits_PV[:, 2:] * weights_NTV[real_positions(LENGTH_N, T)]).sum().backward()
    for name, parameter, gradient in zip(names, decoder.parameters(), plain):
        assert (parameter.grad is None) == (gradient is None), name
        if gradient is not None:
            torch.testing.assert_close(parameter.grad, gradient, atol=1e-11, rtol=0)


def padding_changes_nothing_and_gets_exactly_no_gradient(make):
    decoder, inputs, token_NT = make(V), features(), tokens()
    other_NT = token_NT.clone()
    other_NT[~real_positions(LENGTH_N, T)] = 9  # a word in place of padding

    def run(tokens_NT):
        decoder.zero_grad()
        logits_PV, _, _ = decoder(tokens_NT, LENGTH_N, *decoder.start(inputs, N))
        logits_PV[:, BOS + 1 :].sum().backward()
        return logits_PV.detach(), decoder.embed.weight.grad

    logits, gradient = run(token_NT)
    other_logits, other_gradient = run(other_NT)
    assert torch.equal(logits, other_logits)
    assert torch.equal(gradient, other_gradient)
    assert (gradient[PAD] == 0).all()


def regions_that_do_not_exist_change_nothing_and_get_no_alpha(make, columns=R):
    decoder, inputs, token_NT = make(V), features(), tokens()
    other = inputs._replace(grid_BRD=inputs.grid_BRD + 9 * ~inputs.mask_BR[..., None])
    (logits_PV, _, kept), (other_PV, _, _) = (
        decoder(token_NT, LENGTH_N, *decoder.start(seen, N), ("alpha",)) for seen in (inputs, other)
    )
    torch.testing.assert_close(logits_PV, other_PV, atol=1e-12, rtol=0)
    alpha_NTX, real_NT = kept["alpha"], real_positions(LENGTH_N, T)
    assert alpha_NTX.shape == (N, T, columns)
    torch.testing.assert_close(alpha_NTX.sum(2), real_NT.double())
    assert (alpha_NTX[~real_NT] == 0).all() and (alpha_NTX[C : 2 * C, :, 1:3] == 0).all()


def a_batch_without_words_has_no_logits_and_keeps_its_state(make):
    """As the last batch of one of several processes may be."""
    decoder, inputs = make(V), features()
    for steps in (0, T):
        memory, state = decoder.start(inputs, N)
        token_NT, none_N = torch.full((N, steps), PAD), torch.zeros_like(LENGTH_N)
        keep = decoder.kept_for_penalty
        logits_PV, after, kept = decoder(token_NT, none_N, memory, state, keep)
        assert logits_PV.shape == (0, V)
        token_N = torch.full((N,), BOS)
        before_NV, _ = decoder.step(token_N, memory, state)
        torch.testing.assert_close(decoder.step(token_N, memory, after)[0], before_NV)
        assert not keep or decoder.penalty(inputs, kept, none_N) == 0


def first_loss_is_log_of_the_vocabulary(make):
    vocabulary = 1000
    decoder = make(vocabulary)
    token_NT, full_N = torch.randint(2, vocabulary, (N, T)), torch.full((N,), T)
    logits_PV, _, _ = decoder(token_NT, full_N, *decoder.start(features(), N))
    assert (logits_PV[:, [PAD, BOS]] == -math.inf).all()
    loss = F.cross_entropy(logits_PV, torch.randint(2, vocabulary, (N * T,)))
    assert abs(loss.item() - math.log(vocabulary - 2)) < 0.1


def two_pictures_are_learned_by_heart(make, steps=60):
    decoder, inputs = make(V), features(2)
    rate = 0.003 if isinstance(decoder, Transformer) else 0.05
    token_NT = torch.tensor([[BOS, 4, 5, 6, EOS], [BOS, 7, 5, 8, EOS]])
    length_N = torch.tensor([4, 4])
    optimizer = torch.optim.Adam(decoder.parameters(), rate, fused=True)
    for _ in range(steps):
        logits_PV, _, _ = decoder(token_NT[:, :-1], length_N, *decoder.start(inputs, 2))
        loss = F.cross_entropy(logits_PV, token_NT[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 0.1:
            return
    raise AssertionError(f"loss {loss.item()} after {steps} steps")


def half_precision_gives_nearly_the_same_gradients(make, device="cpu", dtype=torch.bfloat16):
    """In three of five draws: where rounding takes a ReLU over its edge, they differ."""

    def gradients(decoder, inputs, token_NT, length_N, enabled):
        decoder.zero_grad()
        with torch.autocast(device, dtype, enabled=enabled):
            logits_PV, _, _ = decoder(token_NT, length_N, *decoder.start(inputs, N))
            loss = logits_PV[:, 2:].float().log_softmax(1)[:, 3].sum()
        loss.backward()
        return {n: p.grad.clone() for n, p in decoder.named_parameters() if p.grad is not None}

    def far():
        """Those parameters whose gradients are not nearly the same."""
        inputs, token_NT = features().to(device, torch.float32), tokens().to(device)
        given = make(V).to(device, torch.float32), inputs, token_NT, LENGTH_N.to(device)
        full, half = gradients(*given, False), gradients(*given, True)
        assert all(gradient.dtype == torch.float32 for gradient in half.values())
        largest = max(gradient.norm() for gradient in full.values())
        return {
            name
            for name in full
            if (half[name] - full[name]).norm() >= 0.05 * full[name].norm() + 2e-3 * largest
        }

    wrong = []
    for draw in range(5):
        wrong += [names] if (names := far()) else []
        if draw + 1 - len(wrong) == 3:
            return
    raise AssertionError(wrong)


LAWS = (
    forward_is_the_unrolled_step,
    forward_goes_on_from_a_state,
    padding_changes_nothing_and_gets_exactly_no_gradient,
    half_precision_gives_nearly_the_same_gradients,
    analytic_gradients_are_numeric_ones,
    a_batch_without_words_has_no_logits_and_keeps_its_state,
)
"""Those that hold for any weights; the others want the initial ones."""
FIRST = (first_loss_is_log_of_the_vocabulary, two_pictures_are_learned_by_heart)


def every_law(*laws):
    return pytest.mark.parametrize("law", laws, ids=lambda law: law.__name__)
