"""Folded networks say the same, faster; and the encoder notices when its weights change."""

import pickle

import timm
import torch
from torch import nn

from captioner.encoders import Timm
from captioner.encoders.fusion import folded


def run(network, pixels):
    return network(pixels)


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


def test_every_norm_that_can_be_is_folded_and_nothing_changes():
    for name, left in (("resnet18", 0), ("mobilenetv3_small_050", 0), ("resnetv2_50", 17)):
        network = timm.create_model(name, num_classes=0)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
        network.eval()
        pixels = torch.randn(2, 3, 64, 64)
        with torch.inference_mode():
            faster = folded(network, run, pixels[:1])
            assert faster is not network and norms(faster) == left and norms(network) > left
            torch.testing.assert_close(faster(pixels), network(pixels), atol=1e-4, rtol=1e-3)


class Twice(nn.Module):
    """The convolution's output is used beside its norm as well."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        y = self.conv(x)
        return y + self.norm(y)


def test_what_cannot_be_folded_stays_as_it_is():
    network = unsettle(Twice())
    with torch.inference_mode():
        assert folded(network, run, torch.randn(1, 3, 8, 8)) is network
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    with torch.inference_mode():
        pixels = torch.randn(1, 3, 8, 8)
        assert torch.equal(folded(plain, run, pixels)(pixels), plain(pixels))


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
    with torch.inference_mode():
        faster = folded(network, run, pixels)
        assert faster is not network and norms(faster) == 3
        torch.testing.assert_close(faster(pixels), network(pixels), atol=1e-4, rtol=1e-3)


def test_a_frozen_encoder_is_folded_where_nothing_learns():
    encoder = unsettle(Timm("resnet10t", image_size=64))
    names, pixels = set(encoder.state_dict()), torch.randn(3, 3, 64, 64)
    slow = encoder(pixels).pooled_BD
    assert encoder._folded[1] == []
    with torch.inference_mode():
        torch.testing.assert_close(encoder(pixels).pooled_BD, slow, atol=1e-4, rtol=1e-4)
        (first,) = encoder._folded[1]
        assert norms(first) == 0 and encoder(pixels) and encoder._folded[1] == [first]
    assert set(encoder.state_dict()) == names  # the model is saved as it was

    encoder.load_state_dict({name: 2 * t for name, t in encoder.state_dict().items()})
    with torch.no_grad():
        slow = encoder.feature_map(encoder.trunk, pixels).mean((2, 3))
        torch.testing.assert_close(encoder(pixels).pooled_BD, slow, atol=1e-4, rtol=1e-3)
    assert encoder._folded[1] != [first]
    (second,) = encoder._folded[1]
    for parameter in encoder.parameters():
        parameter.data = 0.5 * parameter.data
    with torch.inference_mode():
        slow = encoder.feature_map(encoder.trunk, pixels).mean((2, 3))
        torch.testing.assert_close(encoder(pixels).pooled_BD, slow, atol=1e-4, rtol=1e-3)
    assert encoder._folded[1] != [second]
    assert len(pickle.dumps(encoder)) < 1.5 * sum(4 * t.numel() for t in encoder.parameters())
    encoder.double()
    with torch.no_grad():
        assert encoder(pixels.double()).pooled_BD.dtype == torch.float64


def test_an_encoder_that_learns_is_not_folded():
    encoder = Timm("resnet10t", image_size=64, train=1).eval()
    with torch.no_grad():
        encoder(torch.randn(1, 3, 64, 64))
    assert encoder._folded[1] == []
