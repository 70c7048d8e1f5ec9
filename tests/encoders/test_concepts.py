"""v' = [v; t]: t from classes and probes, and from captions that have no picture."""

import numpy as np
import pytest
import torch
from timm.data import ImageNetInfo
from torch import nn

from captioner.encoders import Joined, Timm
from captioner.encoders.concepts import CLASSES, FORMS, Concepts, choose_concepts, class_words
from captioner.errors import InputError

WORDS = [["dog", "dogs", "puppy"], ["cat"], ["red"]]


def make_concepts(D=4):
    return Concepts(WORDS, D)


def test_the_table_names_imagenets_classes_in_their_order():
    info = ImageNetInfo()
    rows = [line.split("\t") for line in CLASSES.read_text().splitlines()]
    assert [row[0] for row in rows] == info.label_names()
    assert all(info.index_to_description(k).startswith(row[1]) for k, row in enumerate(rows))
    assert class_words()[207] == ["dog"] and set(class_words()[967]) == {"coffee", "cup"}
    first = [line.split()[0] for line in FORMS.read_text().splitlines()]
    assert len(set(first)) == len(first) and set(first) <= set().union(*class_words())


def test_a_class_counts_for_each_of_its_words():
    class_BK = torch.zeros(2, 1000)
    class_BK[0, [207, 208]] = torch.tensor([0.3, 0.4])  # golden and Labrador retriever
    class_BK[1, 281], class_BK[1, 207] = 0.8, 0.1  # tabby
    concepts = make_concepts()
    t_BX = concepts.probabilities(torch.zeros(2, 4), class_BK)
    expected = torch.tensor([[0.7, 0, 0], [0, 0.8, 0]])  # 0.1 is below the threshold
    torch.testing.assert_close(t_BX, expected)
    image_BD = concepts(torch.ones(2, 4), class_BK)
    torch.testing.assert_close(image_BD, torch.cat([torch.ones(2, 4), 15 * expected], dim=1))


def test_a_probe_finds_what_v_shows_and_rare_concepts_have_none():
    torch.manual_seed(0)
    v_BD = 3 + torch.randn(400, 4)
    red_B = v_BD[:, 1] > 3
    captions = [[["a", "red", "dog"] if red else ["a"]] * 2 for red in red_B]
    captions[0] = [["a", "cat"]]
    concepts = make_concepts()
    concepts.fit(v_BD, captions)
    t_BX = concepts.probabilities(v_BD, torch.zeros(400, 1000))
    sure_B = (v_BD[:, 1] - 3).abs() > 0.5
    assert torch.equal(t_BX[sure_B, 2] > 0.5, red_B[sure_B])
    torch.testing.assert_close(t_BX[:, 0], t_BX[:, 2])  # said of the same pictures
    assert (t_BX[:, 1] == 0).all()
    logit_B = nn.functional.linear((v_BD - concepts.mean_D) / concepts.std, *probe(concepts, 2))
    residual_B = logit_B.sigmoid()[:, 0] - red_B.float()  # the gradient of the objective is 0
    standard_BD = (v_BD - v_BD.mean(0)) / (v_BD - v_BD.mean(0)).square().mean().sqrt()
    gradient_D = residual_B @ standard_BD / 400 + Concepts.PENALTY * concepts.probe_XD[2]
    assert gradient_D.abs().max() < 1e-2 and residual_B.mean().abs() < 1e-2


def probe(concepts, x):
    return concepts.probe_XD[x : x + 1], concepts.bias_X[x : x + 1]


def test_captions_without_pictures_have_the_mean_v_and_what_they_say():
    concepts = make_concepts()
    concepts.fit(torch.randn(100, 4) + 5, [[["a"]]] * 100)
    assert concepts.spoken("a puppy and a red cat".split()) == {0, 1, 2}
    assert concepts.spoken(["bird"]) == frozenset()
    spoken = [concepts.spoken(["dogs"])] * 2000
    features = concepts.imagine(spoken, np.random.default_rng(0))
    v_BD, t_BX = features.pooled_BD.split([4, 3], dim=1)
    assert torch.equal(v_BD, concepts.mean_D.expand(2000, 4))
    t_BX = t_BX / Concepts.LENGTH / concepts.std
    assert (t_BX[t_BX > 0] >= Concepts.THRESHOLD - 1e-6).all() and t_BX.max() <= 1
    share_X = (t_BX > 0).float().mean(0)
    assert 0.55 < share_X[0] < 0.7 and 0.05 < share_X[1] < 0.15  # some are missed, some wrong
    again = concepts.imagine(spoken, np.random.default_rng(0))
    assert torch.equal(again.pooled_BD, features.pooled_BD)


def test_a_style_is_that_of_its_captions_and_of_pictures_if_asked_for():
    concepts = Concepts([*WORDS, ["<coco>"]], 4, style="coco")
    v_BD, class_BK = torch.zeros(2, 4), torch.zeros(2, 1000)
    assert concepts(v_BD, class_BK)[:, 4:].tolist() == [[0, 0, 0, 15]] * 2
    assert (concepts.read(concepts(v_BD, class_BK)) == 0).all()
    concepts.style = None
    assert (concepts(v_BD, class_BK) == 0).all()
    features = concepts.imagine([{0, 3}, {0}] * 200, np.random.default_rng(0))
    assert features.pooled_BD[:, -1].tolist() == [15, 0] * 200
    with pytest.raises(InputError, match="style=vizwiz: .* give one of coco, or none"):
        concepts.style = "vizwiz"
    with pytest.raises(
        InputError, match="style=coco: this model has learned no such style: give none"
    ):
        Concepts(WORDS, 4, style="coco")


def test_the_chosen_concepts_are_those_of_classes_and_of_many_pictures():
    captions = [[["the", "dogs", "frisbee"], ["frisbee", "xylophone"]]] * 50
    captions += [[["xylophone", "skateboard"]]] * 49
    words = choose_concepts(captions)
    names = [forms[0] for forms in words]
    assert len(set(names)) == len(names) and {"dog", "coffee", "frisbee", "xylophone"} <= set(names)
    assert "skateboard" not in names and "the" not in names and "dogs" not in names


@pytest.mark.parametrize("names", [["resnet10t"], ["resnet10t", "resnet18"]])
def test_an_encoder_appends_its_concepts_once(names):
    def make(**options):
        if len(names) == 1:
            return Timm(names[0], image_size=64, **options).eval()
        return Joined(names, image_size=64, **options).eval()

    torch.manual_seed(0)
    plain = make()
    torch.manual_seed(0)
    encoder = make(concepts=WORDS)
    pixels = torch.randn(2, 3, 64, 64)
    features, seen = encoder(pixels), encoder.look(pixels)
    assert encoder.size == plain.size + 3 == features.pooled_BD.shape[1]
    assert torch.equal(seen.pooled_BD, plain(pixels).pooled_BD)
    assert torch.equal(encoder(seen).pooled_BD, features.pooled_BD)
    assert torch.equal(encoder(features).pooled_BD, features.pooled_BD)
    with pytest.raises(InputError, match="looks at the regions .* encoder.concepts=null"):
        encoder(pixels, grid=True)
    assert encoder.fingerprint() == plain.fingerprint()  # so one cache serves both
    assert encoder.weights() != plain.weights()
    class_BK = encoder.classifier(seen.pooled_BD).softmax(1)
    if len(names) == 1:  # the classes' probabilities are those of timm's model
        import timm

        torch.manual_seed(0)
        model = timm.create_model(names[0]).eval()
        torch.testing.assert_close(class_BK, model(pixels).softmax(1))
    digest = encoder.weights()
    encoder.concepts.bias_X.fill_(0)
    assert encoder.weights() == digest  # what training learns is not the CNN's


def test_what_cannot_have_concepts_says_so():
    for words in ([], [[]], [["dog"], ["dog", "puppy"]]):
        with pytest.raises(InputError, match="encoder.concepts: give lists of words"):
            Timm("resnet10t", concepts=words)
    for option in ({"train": "all"}, {"pool": [1, 2]}):
        with pytest.raises(InputError, match="encoder.concepts with .*: give train=none pool=mean"):
            Timm("resnet10t", concepts=WORDS, **option)
    for name in ("mobilenetv3_small_050", "convnext_atto"):
        with pytest.raises(InputError, match=f"classifier of {name} is not a linear function"):
            Timm(name, concepts=WORDS)
