"""REINFORCE against exact expectations over every caption, and rewards that are the metrics'."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from captioner.data.batches import make_batch
from captioner.data.records import Record
from captioner.decoders.attention import SoftAttention
from captioner.decoders.recurrent import Recurrent
from captioner.decoders.transformer import Transformer
from captioner.errors import InputError
from captioner.metrics.cider import Cider, DocumentFrequencies
from captioner.metrics.ngrams import References
from captioner.metrics.rewards import Rewards
from captioner.metrics.score import score
from captioner.metrics.tokenize import token_strings
from captioner.objectives.cross_entropy import CrossEntropy
from captioner.objectives.self_critical import SelfCritical
from captioner.tokenizers import Word
from captioner.types import EOS, Features
from tests.helpers.models import D, Model, source

WORDS = Word(["a", "dog", "cat", "runs"], 10)
V = len(WORDS)
TEXTS = [("a dog runs", "the dog"), ("a cat",), ("a dog", "a cat runs", "dog runs")]
STRINGS = [token_strings(texts) for texts in TEXTS]
TRAIN = [Record(i, Path("x"), texts, "train") for i, texts in enumerate(TEXTS)]
BATCH = make_batch(source, [1, 2], None, [[[4, 6, 2]], [[4, 5, 2], [4, 6, 7, 2]]], captions=2)


class Captioner(Model):
    tokenizer = WORDS

    def __init__(self, decoder=None):
        super().__init__(decoder or Recurrent(V, D, embed_size=3, hidden_size=4, dropout=0.0))


def begun(**options) -> SelfCritical:
    objective = SelfCritical(**options)
    objective.prepare(TRAIN)
    return objective


def gradient(loss, model):
    gradients = torch.autograd.grad(loss, list(model.decoder.parameters()))
    return torch.nn.utils.parameters_to_vector(gradients)


def log_prob(model, image: int, ids) -> torch.Tensor:
    """Of a caption, one `step` after the other."""
    memory, state = model.decoder.start(source([image], None), 1)
    total = torch.zeros(()).double()
    for read, target in zip([1, *ids], ids):
        logits, state = model.decoder.step(torch.tensor([read]), memory, state)
        total = total + logits.log_softmax(1)[0, target]
    return total


def letters(captions, image_N):
    """A reward that is easily computed: dogs are good, and more so for image 2."""
    return np.array([c.count("dog") * (1 + i) for c, i in zip(captions, image_N)], float)


def expected(model, limit, reward, image):
    """The exact gradient of the expected reward: every caption, by its probability."""
    total = 0
    for length in range(1, limit + 1):
        for ids in itertools.product(range(2, V), repeat=length):
            ends = ids[-1] == EOS
            if EOS not in ids[:-1] and (ends or length == limit):
                value = reward([WORDS.token_string(ids)], [ends], np.array([image]))[0]
                total = total + log_prob(model, image, ids).exp() * value
    return total


@pytest.mark.parametrize("baseline", ["none", "greedy", "leave_one_out"])
@pytest.mark.parametrize("reward", [letters, {"cider": 1.0, "bleu": 0.5, "rouge": 0.25}])
def test_the_gradient_is_that_of_the_expected_reward(baseline, reward):
    """With every baseline, as the mean of many samples comes to show."""
    model = Captioner()
    objective = begun(samples=6000, baseline=baseline, reward=reward, max_length=2)
    loss, logs, _ = objective(model, BATCH, 0)
    rewards = Rewards(STRINGS, reward)
    exact = sum(expected(model, 2, rewards, image) for image in (1, 2))
    estimate, wanted = -gradient(loss, model), gradient(exact, model)
    assert (estimate - wanted).norm() < 0.1 * wanted.norm()
    assert (logs["reward"] - exact).abs() < 0.05 * exact


def spied(monkeypatch, **options):
    """An objective, and a list to which it will add captions and their rewards."""
    objective, calls = begun(**options), []
    reward = objective._reward

    def wrapped(model, captions, batch):
        calls.append((captions, reward(model, captions, batch)))
        return calls[-1][1]

    monkeypatch.setattr(objective, "_reward", wrapped)
    return objective, calls


@pytest.mark.parametrize("baseline", ["none", "greedy", "leave_one_out"])
def test_the_loss_is_the_formula_on_the_captions_drawn(baseline, monkeypatch):
    model = Captioner()
    objective, drawn = spied(monkeypatch, samples=3, baseline=baseline, max_length=5)
    loss, logs, _ = objective(model, BATCH, 0)
    (captions, reward_BK), *rest = drawn
    terms = []
    for b, image in enumerate((1, 2)):
        for k in range(3):
            ids = [i for i in captions.token_BKT[b, k].tolist() if i]
            base = {
                "none": 0.0,
                "greedy": rest[0][1][b, 0] if rest else 0.0,
                "leave_one_out": (reward_BK[b].sum() - reward_BK[b, k]) / 2,
            }[baseline]
            terms.append(-(reward_BK[b, k] - base) * log_prob(model, image, ids) / 3)
    torch.testing.assert_close(loss, sum(terms))
    torch.testing.assert_close(gradient(loss, model), gradient(sum(terms), model))
    assert logs["count"] == 2 and objective.rewarded
    assert bool(rest) == (baseline == "greedy")


@pytest.mark.parametrize(
    "decoder",
    [
        lambda: SoftAttention(V, D, embed_size=3, hidden_size=4, attention_size=5, dropout=0.5),
        lambda: Transformer(V, D, hidden_size=8, heads=2, layers=1, dropout=0.5),
        lambda: Recurrent(V, D, cell="GRU", embed_size=3, hidden_size=4, layers=2, dropout=0.5),
    ],
)
def test_any_decoder_without_dropout_in_samples_and_in_forward(decoder, monkeypatch):
    """What is drawn has the log-probability that the gradient is of, though dropout is 0.5."""
    model = Captioner(decoder())
    grid = torch.randn(3, 4, D).double()
    monkeypatch.setattr(model, "encode", lambda images: Features(grid.mean(1)[:2], grid[:2]))
    objective, drawn = spied(monkeypatch, samples=4, max_length=6)
    model.decoder.train()
    loss, _, _ = objective(model, BATCH, 0)
    assert model.decoder.training and loss.requires_grad
    ((captions, reward_BK),) = drawn
    advantage_BK = reward_BK - (reward_BK.sum(1, keepdim=True) - reward_BK) / 3
    torch.testing.assert_close(loss, -(advantage_BK * captions.log_prob_BK).mean(1).sum())


def test_samples_are_functions_of_the_seed_and_cross_entropy_has_its_weight():
    model = Captioner()

    def loss(seed, weight):
        torch.manual_seed(seed)
        return begun(samples=2, cross_entropy=weight)(model, BATCH, 0)[0]

    assert loss(1, 0.0) == loss(1, 0.0) != loss(2, 0.0)
    nll = CrossEntropy()(model, BATCH, 0)[0] / 1.5  # three captions of two images
    for weight in (1.0, 3.0):
        torch.testing.assert_close(loss(0, weight) - loss(0, 0.0), weight * nll)


def test_rewards_are_the_metrics_own():
    """With END as a word of both, where there is such an end."""
    captions, image_N = ["a dog runs", "a dog", "cat runs a"], np.array([2, 2, 0])
    weights = {"cider": 1.0, "bleu": 0.5, "rouge": 2.0}
    for end, tail in ((False, ""), (True, " <eos>")):
        reward_N = Rewards(STRINGS, weights, end)(captions, [True, False, True], image_N)
        ended = [captions[0] + tail, captions[1], captions[2] + tail]
        texts = {i: [text + tail for text in row] for i, row in enumerate(STRINGS)}
        for n, image in enumerate(image_N):
            values = score(texts, {i: "x" for i in texts} | {image: ended[n]})["per_image"][image]
            wanted = values["CIDEr"] + 0.5 * values["Bleu_4"] + 2 * values["ROUGE_L"]
            assert reward_N[n] == pytest.approx(wanted)


def test_the_document_frequencies_are_kept(tmp_path):
    """As a table that scores captions as the rewards did."""
    objective = begun()
    objective.save_frequencies(tmp_path / "frequencies.npz")
    table = DocumentFrequencies.load(tmp_path / "frequencies.npz")
    assert table.images == len(TRAIN)
    ended = [[f"{text} <eos>" for text in texts] for texts in STRINGS]
    references = References(ended, table.numbers)
    image_N, captions = np.array([0, 1, 2]), ["a dog", "a cat", "dog runs a"]
    scored = Cider(references, table)(references.match([f"{c} <eos>" for c in captions], image_N))
    np.testing.assert_allclose(scored, objective.rewards(captions, [True] * 3, image_N))
    assert scored.min() > 0


@pytest.mark.parametrize(
    "options, message",
    [
        ({"baseline": "mean"}, "objective.baseline=mean: give one of greedy, leave_one_out, none"),
        ({"samples": 1}, "objective.samples=1: leave_one_out takes 2 or more"),
        ({"samples": 0, "baseline": "greedy"}, "objective.samples=0: greedy takes 1 or more"),
        ({"cross_entropy": -1.0}, "objective.cross_entropy=-1.0"),
        ({"reward": {"meteor": 1.0}}, "meteor is none of cider, bleu, rouge"),
        ({"reward": {"cider": 0.0}}, "every weight is 0"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(InputError, match=message):
        begun(**options)
