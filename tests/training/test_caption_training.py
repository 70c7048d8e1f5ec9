"""The step around the objective: schedule, clipping, and seeds that are functions of the place."""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch

from captioner.errors import InputError
from captioner.objectives.cross_entropy import CrossEntropy
from captioner.training import loop
from captioner.training.caption_training import CaptionTraining


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
        self.encoder.frozen = False


def training(**options):
    records = [SimpleNamespace(image=f"{i}.jpg") for i in range(9)]
    options |= {"objective": CrossEntropy(), "optimizer": lambda g: torch.optim.SGD(g, lr=0.1)}
    module = CaptionTraining(Model(), records, [], encoder_lr=0.01, **options)
    module.log = lambda name, value, **_: logged.__setitem__(name, float(value))
    return module


logged: dict[str, float] = {}


def fitted(module):
    module._trainer = SimpleNamespace(estimated_stepping_batches=100)
    return module.configure_optimizers()


def test_the_learning_rate_rises_and_falls_to_zero():
    configured = fitted(training(warmup=0.2))
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(100):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    decoder, _, encoder, _ = map(list, zip(*rates))
    rise = [0.1 * (k + 1) / 20 for k in range(20)]
    fall = [0.05 * (1 + math.cos(math.pi * k / 80)) for k in range(80)]
    assert decoder == pytest.approx(rise + fall, abs=1e-6)
    assert encoder == pytest.approx([rate / 10 for rate in decoder], abs=1e-6)


def test_a_frozen_encoder_has_no_parameter_group_and_biases_no_weight_decay():
    module = training()
    module.optimizer = lambda groups: torch.optim.AdamW(groups, lr=0.1, weight_decay=0.5)
    module.model.encoder.requires_grad_(False)
    matrices, others = fitted(module)["optimizer"].param_groups
    decoder = module.model.decoder
    assert matrices["params"] == [decoder.weight] and matrices["weight_decay"] == 0.5
    assert others["params"] == [decoder.bias] and others["weight_decay"] == 0


def test_what_is_kept_is_the_moving_average():
    module, expected = training(ema=0.5), 0.0
    model, average = module.model, module.eval_model
    assert average is not model and not any(p.requires_grad for p in average.parameters())
    for number in range(20):
        with torch.no_grad():
            model.decoder.weight.fill_(number)
            model.encoder.weight.fill_(-number)
        module.average.update_parameters(model)
        share = 1 - min(0.5, (1 + number) / (10 + number)) if number else 1.0
        expected += share * (number - expected)
        assert average.decoder.weight.unique().tolist() == pytest.approx([expected])
        assert average.encoder.weight.unique().tolist() == pytest.approx([-expected])
    assert (alone := training()).eval_model is alone.model
    model.encoder.frozen = True  # it is shared
    average = loop.moving_average(model, 0.9).module
    assert average.encoder is model.encoder and average.decoder is not model.decoder


def stepped(module, limit=None, loss=2.0, count=1.0, scaler=None):
    """What comes between backward and the optimiser, after a micro-batch of pictures 3 and 5."""
    module._trainer = SimpleNamespace(
        world_size=1,
        accumulate_grad_batches=1,
        global_step=7,
        current_epoch=2,
        precision_plugin=SimpleNamespace(scaler=scaler),
        optimizers=[SimpleNamespace(param_groups=[{"lr": 0.125}])],
    )
    sums = {"loss": loss, "nll": loss, "count": count}
    module.sums = [{name: torch.tensor(value) for name, value in sums.items()}]
    module.batch_ids = [torch.tensor([3, 5])]
    module.configure_gradient_clipping(None, limit)


@pytest.mark.parametrize("norm, limit", [(10.0, 5.0), (3.0, 5.0), (10.0, None)])
def test_gradients_are_scaled_where_their_norm_is_too_big(norm, limit):
    module = training()
    gradient, weight = torch.randn(2, 2), module.model.decoder.weight
    weight.grad = 4 * norm * gradient / gradient.norm()  # a sum over 4 words
    stepped(module, limit, count=4.0)
    after = weight.grad
    assert logged["train/grad_norm"] == pytest.approx(norm)
    assert logged["train/loss"] == 0.5
    assert after.norm().item() == pytest.approx(min(norm, limit or norm), rel=1e-4)
    torch.testing.assert_close(after / after.norm(), gradient / gradient.norm())


@pytest.mark.parametrize("gradient, loss", [(1.0, math.nan), (1.0, math.inf), (math.inf, 2.0)])
def test_a_step_that_is_not_finite_names_its_place_and_the_pictures(gradient, loss):
    """A gradient may overflow if the precision has a scale."""
    module = training()
    for parameter in module.model.parameters():
        parameter.grad = torch.full_like(parameter, gradient)
    if math.isfinite(loss):
        stepped(module, scaler=object())
    problem = f"loss {loss}" if gradient == 1 else "gradient norm (inf|nan)"
    place = r"step 7 \(epoch 2\), learning rate 0.125; .*3.jpg\n +5.jpg"
    with pytest.raises(InputError, match=rf"(?s){problem} at {place}"):
        stepped(module, loss=loss)


def test_randomness_is_a_function_of_seed_rank_epoch_and_batch():
    def draw(seed, rank, epoch, batch):
        module = training(seed=seed)
        module._trainer = SimpleNamespace(global_rank=rank, current_epoch=epoch)
        module.on_train_batch_start(None, batch)
        return torch.rand(1).item()

    places = list(itertools.product(range(2), range(2), range(3), range(3)))
    drawn = [draw(*place) for place in places]
    assert len(set(drawn)) == len(places)
    torch.manual_seed(99)
    assert drawn == [draw(*place) for place in places]
