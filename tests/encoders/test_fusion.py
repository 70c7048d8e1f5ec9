"""Networks with fused batch-norms say the same, faster; loading other weights ends the fusion."""

import copy
import pickle

import pytest
import timm
import torch
from torch import nn

from captioner.encoders import Encoders, Timm
from captioner.encoders.fusion import fuse_batch_norms


def norms(network):
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def unsettle(network):
    """Statistics and scales that are not those of a fresh network."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight, 1, 0.1)
            nn.init.normal_(module.bias)
    return network.eval()


class Twice(nn.Sequential):
    """The convolution's output is used beside its norm as well: no copy of it says the same."""

    def forward(self, x):
        conv, norm = self
        y = conv(x)
        return y + norm(y)


class Again(nn.Module):
    """A convolution with its norm that runs twice, a norm behind two convolutions, one without
    statistics; and one that can be fused."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)
        self.a, self.b, self.both = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)
        self.last, self.plain = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3, track_running_stats=False)
        self.end, self.folds = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x):
        x = self.norm(self.conv(self.norm(self.conv(x))))
        x = self.plain(self.last(self.both(self.a(x)) + self.both(self.b(x))))
        return self.folds(self.end(x))


def of_timm(name):
    return timm.create_model(name, num_classes=0)


@pytest.mark.parametrize(
    "make, left",
    [
        (lambda: of_timm("resnet18"), 0),
        (lambda: of_timm("mobilenetv3_small_050"), 0),
        (lambda: of_timm("resnetv2_50"), 17),
        (Again, 3),
        (lambda: Twice(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), 1),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), 0),
    ],
)
def test_every_batch_norm_that_can_be_is_fused_and_nothing_changes(make, left):
    network, pixels = unsettle(make()), torch.randn(2, 3, 64, 64)
    before = norms(network)
    with torch.no_grad():
        faster = fuse_batch_norms(network, lambda network, x: network(x), pixels[:1])
        torch.testing.assert_close(faster(pixels), network(pixels), atol=1e-4, rtol=1e-3)
    assert norms(faster) == left and norms(network) == before
    assert (faster is network) == isinstance(network, Twice)


PIXELS = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def encoder():
    encoder = unsettle(Timm("resnet10t", image_size=64))
    encoder.fuse()
    return encoder


def pooled(encoder, pixels=PIXELS):
    with torch.inference_mode():
        return encoder(pixels).pooled_BD


def slow(encoder, pixels=PIXELS):
    """With gradients, and so not fused."""
    return encoder(pixels).pooled_BD.detach()


def same(encoder, pixels=PIXELS, atol=1e-3):
    assert encoder._fused and norms(encoder._fused[0]) == 0
    torch.testing.assert_close(pooled(encoder, pixels), slow(encoder, pixels), atol=atol, rtol=1e-3)


def test_a_fused_encoder_keeps_its_features_digests_and_what_is_saved(encoder):
    plain = unsettle(Timm("resnet10t", image_size=64))
    plain.load_state_dict(encoder.state_dict())
    encoder.fuse()
    assert encoder.state_dict().keys() == plain.state_dict().keys() and norms(encoder) > 0
    assert encoder.fingerprint() == plain.fingerprint() and encoder.weights() == plain.weights()
    assert not torch.equal(pooled(encoder), slow(encoder))  # it is another network that is called
    same(encoder)


def test_a_change_of_sign_changes_the_features(encoder):
    """The norm of all weights, which a fusion once went by, stays the same."""
    before = pooled(encoder)
    state = {k: -t if k == "trunk.conv1.0.weight" else t for k, t in encoder.state_dict().items()}
    encoder.load_state_dict(state)
    assert not encoder._fused
    assert not torch.allclose(pooled(encoder), before, atol=1e-2)
    encoder.fuse()
    same(encoder)
    parent = nn.ModuleDict({"encoder": encoder})  # as a model loads its encoder
    parent.load_state_dict(parent.state_dict())
    assert not encoder._fused


def test_casts_and_copies_are_fused_too(encoder):
    before = pooled(encoder)
    for other in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        same(other)
        other.load_state_dict({name: 0.5 * t for name, t in other.state_dict().items()})
        assert torch.equal(pooled(encoder), before)
    both = Encoders([encoder, Timm("resnet10t", image_size=64, train=1)])
    both.fuse()
    both.double()
    same(encoder, PIXELS.double(), atol=1e-9)
    assert not both.members[1]._fused  # it trains
