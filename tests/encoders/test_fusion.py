"""Networks with fused batch-norms say the same, faster; loading other weights ends the fusion."""

import copy
import pickle

import pytest
import timm
import torch
from torch import nn

from captioner.encoders import Encoders, Timm
from captioner.encoders.fusion import fuse_batch_norms


def fuse(network, pixels):
    with torch.no_grad():
        return fuse_batch_norms(network, lambda network, pixels: network(pixels), pixels)


def norms(network):
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def unsettle(network):
    """Statistics and scales that are not those of a fresh network."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight, 1)
            nn.init.normal_(module.bias)
    return network.eval()


def close(network, pixels, expected, **tolerance):
    with torch.no_grad():
        tolerance = {"atol": 1e-4, "rtol": 1e-3} | tolerance
        torch.testing.assert_close(network(pixels), expected(pixels), **tolerance)


@pytest.mark.parametrize(
    "name, left", [("resnet18", 0), ("mobilenetv3_small_050", 0), ("resnetv2_50", 17)]
)
def test_every_batch_norm_that_can_be_is_fused_and_nothing_changes(name, left):
    network = timm.create_model(name, num_classes=0).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
    pixels = torch.randn(2, 3, 64, 64)
    faster = fuse(network, pixels[:1])
    assert faster is not network and norms(faster) == left and norms(network) > left
    close(faster, pixels, network)


class Twice(nn.Sequential):
    """The convolution's output is used beside its norm as well."""

    def forward(self, x):
        conv, norm = self
        y = conv(x)
        return y + norm(y)


def test_what_cannot_be_fused_stays_as_it_is():
    network, pixels = (
        unsettle(Twice(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))),
        torch.randn(1, 3, 8, 8),
    )
    assert fuse(network, pixels) is network
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    close(fuse(plain, pixels), pixels, plain, atol=0, rtol=0)


class Again(nn.Module):
    """A convolution with its norm that runs twice, and a norm behind two convolutions."""

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


def test_what_runs_twice_is_left_alone():
    network, pixels = unsettle(Again()), torch.randn(2, 3, 16, 16)
    faster = fuse(network, pixels)
    assert faster is not network and norms(faster) == 3
    close(faster, pixels, network)


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


def same(encoder, pixels=PIXELS):
    assert encoder._fused and norms(encoder._fused[0]) == 0
    torch.testing.assert_close(pooled(encoder, pixels), slow(encoder, pixels), atol=1e-3, rtol=1e-3)


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
    assert pooled(encoder, PIXELS.double()).dtype == torch.float64
    close(lambda x: encoder(x).pooled_BD, PIXELS.double(), lambda x: slow(encoder, x), atol=1e-9)
    assert not both.members[1]._fused  # it trains
