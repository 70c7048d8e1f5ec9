"""Every YAML in conf/ composes, and what it describes can be made."""

import pytest
import torch
from hydra.utils import instantiate as hydra_instantiate

from captioner.decoders import cells
from captioner.decoders.minds_eye import MindsEye
from captioner.decoders.mrnn import MRNN
from captioner.experiment.components import build_model, make_strategy, training_options
from captioner.experiment.schemas import plain
from captioner.models.caption_model import build_captioner
from captioner.models.language_model import build_language_model
from captioner.types import Features
from tests.helpers.forks import ROOT
from tests.helpers.runs import composed

CONF = ROOT / "conf"
TEXT = [("encoder", "none"), ("data", "text")]
TEXT += [("experiment", "charlm"), ("experiment", "min_char_rnn")]
CHOICES = [
    (group.relative_to(CONF).as_posix(), file.stem)
    for group in CONF.rglob("*")
    if group.is_dir() and "hydra" not in group.parts
    for file in sorted(group.glob("*.yaml"))
]
PICTURES = [choice for choice in CHOICES if choice not in TEXT]


def leaves(tree):
    return sum(map(leaves, tree.values())) if isinstance(tree, dict) else 1


def captions_of(config):
    """The model, of two words, and its captions of two pictures; without a download."""
    config.tokenizer.min_count = 1
    encoder = plain(config.encoder)
    encoder |= {"pretrained": False} if encoder.get("pretrained") else {}
    encoder |= {"concepts": [["a"]]} if encoder.get("concepts") else {}
    model = build_model(config, build_captioner, ["a dog"], encoder=encoder)[0].eval()
    training_options(config, "32-true")["optimizer"](model.decoder.parameters())
    features = Features(torch.rand(2, model.encoder.size), torch.rand(2, 4, model.encoder.size))
    return model, model.generate(features, make_strategy(config.search)).token_BKT


@pytest.mark.parametrize("group, choice", PICTURES, ids=lambda x: x)
def test_every_choice_composes_and_is_made(group, choice):
    if "torchvision" in group:
        group, choice = "encoder", f"torchvision/{choice}"
    name = ["encoder.name=resnet10t"] if (group, choice) == ("encoder", "timm") else []
    others = [] if group in ("encoder", "experiment") else ["encoder=blind"]  # sooner made
    others = ["encoder.concepts=[[a]]"] if choice == "guided" else others
    config = composed(f"{group}={choice}", "data.root=x", *name, *others)
    assert leaves(plain(config)) <= 75  # a composed run fits on a screen
    assert len(captions_of(config)[1]) == 2


@pytest.mark.parametrize("group, choice", TEXT, ids=lambda x: x)
def test_every_choice_for_text_composes_and_is_made(group, choice):
    config = composed(
        "data=text", "encoder=none", f"{group}={choice}", "data.path=x", "tokenizer.min_count=1"
    )
    assert leaves(plain(config)) <= 75
    model, _ = build_model(config, build_language_model, ["a dog"])
    training_options(config, "32-true")["optimizer"](model.decoder.parameters())
    strategy = make_strategy(config.search)
    assert len(model.continue_prompt("", strategy)) == getattr(strategy, "n", 1)


@pytest.mark.parametrize(
    "overrides",
    [
        ["objective=self_critical", "objective.reward={cider:1,bleu:0.5,rouge:0.5}"],
        ["objective=self_critical", "objective.reward.bleu=0.5", "objective.baseline=greedy"],
        ["objective=scheduled_sampling", "objective.decay=linear", "objective.k=1"]
        + ["objective.slope=1e-4"],
        ["objective=scheduled_sampling", "objective.decay=exponential", "objective.k=0.9999"],
    ],
)
def test_the_examples_of_the_page_on_objectives_are_made(overrides):
    config = composed(*overrides)
    objective = training_options(config, "32-true")["objective"]
    assert type(objective).__name__ == config.objective._target_.rpartition(".")[2]


PAPERS = {
    "mrnn": lambda decoder: isinstance(decoder, MRNN),
    "neuraltalk": lambda d: d.inject == "first" and [type(c) for c in d.cells] == [cells.ReLU],
    "nic": lambda d: d.inject == "pre" and [type(c) for c in d.cells] == [cells.LSTM],
    "lrcn": lambda d: (d.inject, d.image_layers, len(d.cells)) == ("par", [1], 2),
    "minds_eye": lambda d: isinstance(d, MindsEye) and d.kept_for_penalty == ("u",),
}


@pytest.mark.parametrize("name", PAPERS)
def test_the_papers_are_made_for_coco_too(name):
    config = composed(f"experiment={name}", "data=coco", "data.root=x", "encoder=resnet101")
    model, captions = captions_of(config)
    assert model.encoder.size == 2048 and PAPERS[name](model.decoder) and len(captions) == 2


@pytest.mark.parametrize("launcher, tasks", [("submitit_slurm", 1), ("slurm", 4)])
def test_a_sweep_on_slurm_composes(launcher, tasks):
    overrides = [f"hydra/launcher={launcher}", "trainer.devices=4", "hydra.job.num=0"]
    config = composed(*overrides, return_hydra_config=True)
    assert hydra_instantiate(config.hydra.launcher).params["tasks_per_node"] == tasks


def test_the_default_is_the_lectures_model_on_the_embedded_data():
    config = composed()
    assert leaves(plain(config)) <= 72
    assert config.data.root == "data/scenes" and config.data.scenes
    assert config.encoder.name == "tf_efficientnet_lite0" and config.encoder.train == "none"
    decoder = {"cell": "LSTM", "inject": "par", "layers": 1}
    assert {key: config.decoder[key] for key in decoder} == decoder
