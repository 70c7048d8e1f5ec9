import math

import pytest
import torch

from captioner.data.batches import make_batch
from captioner.decoders.minds_eye import MindsEye
from captioner.errors import InputError
from captioner.objectives.cross_entropy import CrossEntropy, ScheduledSampling
from tests.helpers.models import D, Model, V, source

BATCH = make_batch(source, [1, 2], None, [[[4, 5, 6, 2], [7, 2]], [[8, 9, 2]]], captions=3)


def word_by_word(model, smoothing):
    """-log p of every word and END, each caption by itself through `step`."""
    losses = []
    for image, ids in ((1, [4, 5, 6]), (1, [7]), (2, [8, 9])):
        memory, state = model.decoder.start(source([image], None), 1)
        for read, target in zip([1, *ids], [*ids, 2]):
            logits, state = model.decoder.step(torch.tensor([read]), memory, state)
            q = torch.zeros(V).double()
            q[2:] = smoothing / (V - 2)
            q[target] += 1 - smoothing
            losses.append(-(q[2:] * logits.log_softmax(1)[0, 2:]).sum())
    return torch.stack(losses).sum()


def gradients(model, *losses):
    return [torch.autograd.grad(loss, list(model.decoder.parameters())) for loss in losses]


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_it_is_the_sum_over_real_words_and_end(smoothing):
    model = Model()
    loss, logs, state = CrossEntropy(smoothing)(model, BATCH, 0)
    torch.testing.assert_close(loss, word_by_word(model, smoothing), atol=1e-10, rtol=0)
    torch.testing.assert_close(logs["nll"], word_by_word(model, 0.0), atol=1e-10, rtol=0)
    assert logs["count"] == 4 + 2 + 3 and state is None  # one of captions keeps none
    actual, expected = gradients(model, 3 * loss, 3 * word_by_word(model, smoothing))
    torch.testing.assert_close(actual, expected, atol=1e-10, rtol=0)


def test_a_decoders_own_penalty_is_added_and_not_logged_as_nll():
    losses = {}
    for weight in (0.0, 0.5, 1.0):
        torch.manual_seed(0)
        model = Model(MindsEye(V, D, "RNN", 5, 6, 7, dropout=0.0, reconstruction=weight))
        loss, logs, _ = CrossEntropy()(model, BATCH, 0)
        losses[weight] = loss.item() - logs["nll"].item()
    assert losses[0.0] == 0 < losses[0.5]
    assert losses[1.0] == pytest.approx(2 * losses[0.5], abs=1e-9)


def test_unlikelihood_is_of_each_word_said_before_and_not_now():
    model = Model()
    batch = make_batch(source, [1], None, [[[4, 5, 4, 5, 6, 2]]], captions=1)
    plain, _, _ = CrossEntropy()(model, batch, 0)
    loss, logs, _ = CrossEntropy(unlikelihood=0.5)(model, batch, 0)
    memory, state = model.decoder.start(source([1], None), 1)
    expected, earlier = 0.0, set()
    for read, target in zip([1, 4, 5, 4, 5, 6], [4, 5, 4, 5, 6, 2]):
        logits, state = model.decoder.step(torch.tensor([read]), memory, state)
        for word in earlier - {target}:
            expected -= torch.log(1 - logits.softmax(1)[0, word])
        earlier.add(target)
    torch.testing.assert_close(loss - plain, 0.5 * expected)
    torch.testing.assert_close(logs["nll"], plain)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_reading_only_the_true_words_is_cross_entropy(smoothing):
    model = Model()
    loss, logs, _ = ScheduledSampling(least=1.0, smoothing=smoothing)(model, BATCH, 0)
    expected, plain, _ = CrossEntropy(smoothing)(model, BATCH, 0)
    torch.testing.assert_close((loss, logs["nll"]), (expected, plain["nll"]))
    assert logs["count"] == plain["count"] == logs["true_share"]
    torch.testing.assert_close(*gradients(model, loss, expected))


def test_reading_its_own_words_only_is_the_expected_loss_over_them():
    """Of a caption of two words: the second one's loss, averaged over what may be read first."""
    model = Model()
    batch = make_batch(source, [1] * 4000, None, [[[4, 5]]] * 4000, captions=1)
    objective = ScheduledSampling("linear", k=0.0, least=0.0)
    loss = objective(model, batch, 0)[0].detach() / 4000
    memory, state = model.decoder.start(source([1], None), 1)
    first, state = model.decoder.step(torch.tensor([1]), memory, state)
    expected = -first.log_softmax(1)[0, 4]
    for word in range(2, V):
        then, _ = model.decoder.step(torch.tensor([word]), memory, state)
        expected = expected - first.softmax(1)[0, word] * then.log_softmax(1)[0, 5]
    assert loss.item() == pytest.approx(expected.item(), rel=0.01)


@pytest.mark.parametrize(
    "options, step, share",
    [
        (("linear", 0.9, 0.01, 0.3), 20, 0.7),
        (("linear", 0.9, 0.01, 0.3), 100, 0.3),
        (("exponential", 0.99, 0.0, 0.0), 50, 0.99**50),
        (("inverse_sigmoid", 100.0, 0.0, 0.0), 300, 100 / (100 + math.exp(3))),
        (("inverse_sigmoid", 1.0, 0.0, 0.25), 10**6, 0.25),
    ],
)
def test_the_share_of_true_words_falls_as_in_the_paper(options, step, share):
    assert ScheduledSampling(*options).true_share(step) == pytest.approx(share)


@pytest.mark.parametrize(
    "objective, options, message",
    [
        (CrossEntropy, {"smoothing": -0.1}, "objective.smoothing=-0.1"),
        (CrossEntropy, {"smoothing": 1.0}, "objective.smoothing=1.0"),
        (CrossEntropy, {"unlikelihood": -1.0}, "objective.unlikelihood=-1"),
        (ScheduledSampling, {"decay": "cosine"}, "decay=cosine: give one of linear, exponential"),
        (ScheduledSampling, {"decay": "exponential", "k": 2.0}, "objective.k=2.0"),
        (ScheduledSampling, {"decay": "inverse_sigmoid", "k": 0.5}, "objective.k=0.5"),
        (ScheduledSampling, {"least": 1.5}, "objective.least=1.5"),
    ],
)
def test_wrong_options_are_named(objective, options, message):
    with pytest.raises(InputError, match=message):
        objective(**options)
