"""Every YAML composes; what it describes can be made; nothing else can."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from hydra.utils import instantiate as hydra_instantiate
from omegaconf import OmegaConf

from captioner import instantiate, tokenizers
from captioner.decoders import cells
from captioner.decoders.minds_eye import MindsEye
from captioner.decoders.mrnn import MRNN
from captioner.errors import InputError
from captioner.experiment import schemas
from captioner.experiment.components import decoder_options, make_strategy
from captioner.experiment.optimizers import make_optimizer
from captioner.models import caption_model, language_model
from captioner.objectives.base import Objective
from captioner.types import Features

CONF = Path(__file__).parents[2] / "conf"
CHOICES = [
    (group.relative_to(CONF).as_posix(), file.stem)
    for group in CONF.rglob("*")
    if group.is_dir() and "hydra" not in group.parts
    for file in sorted(group.glob("*.yaml"))
]


TEXT = [("encoder", "none"), ("data", "text")]
TEXT += [("experiment", "charlm"), ("experiment", "min_char_rnn")]
CHOICES = [choice for choice in CHOICES if choice not in TEXT]


def composed(*overrides, name="train"):
    schemas.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, [*overrides, "run_dir=somewhere"])


def leaves(tree):
    return sum(map(leaves, tree.values())) if isinstance(tree, dict) else 1


@pytest.mark.parametrize("group, choice", CHOICES, ids=lambda x: x)
def test_every_choice_composes_and_is_made(group, choice, monkeypatch, tmp_path):
    if "torchvision" in group:
        group, choice = "encoder", f"torchvision/{choice}"
    overrides = [f"{group}={choice}", "data.root=x"]
    if (group, choice) == ("encoder", "timm"):
        overrides.append("encoder.name=resnet10t")
    cfg = composed(*overrides)
    plain = schemas.plain(cfg)
    assert leaves(plain) <= 75, "a composed run should fit on a screen"
    if plain["encoder"].get("pretrained"):
        plain["encoder"]["pretrained"] = False  # no downloads here
    tokenizer = tokenizers.train_tokenizer(["a dog"], **plain["tokenizer"] | {"min_count": 1})
    decoder = decoder_options(cfg.decoder)
    made = caption_model.build_captioner(
        {"encoder": plain["encoder"], "decoder": decoder}, tokenizer
    )
    strategy = make_strategy(cfg.search)
    objective = instantiate.instantiate(plain["objective"], "captioner.objectives", Objective)
    optimizer = make_optimizer(cfg.optimizer)(made.decoder.parameters())
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert isinstance(objective, Objective)
    some = Features(torch.rand(2, made.encoder.size), torch.rand(2, 4, made.encoder.size))
    assert len(made.eval().generate(some, strategy).token_BKT) == 2


@pytest.mark.parametrize("group, choice", TEXT, ids=lambda x: x)
def test_every_choice_for_text_composes_and_is_made(group, choice):
    cfg = composed("data=text", "encoder=none", f"{group}={choice}", "data.path=x")
    plain = schemas.plain(cfg)
    assert leaves(plain) <= 75, "a composed run should fit on a screen"
    tokenizer = tokenizers.train_tokenizer(["a dog"], **plain["tokenizer"] | {"min_count": 1})
    decoder = decoder_options(cfg.decoder)
    made = language_model.build_language_model({"decoder": decoder}, tokenizer)
    strategy = make_strategy(cfg.search)
    assert make_optimizer(cfg.optimizer)(made.decoder.parameters())
    assert len(made.eval().go_on("", strategy)) == getattr(strategy, "n", 1)


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
def test_what_the_page_on_objectives_says_is_made(overrides):
    instantiate.instantiate(
        schemas.plain(composed(*overrides).objective), "captioner.objectives", Objective
    )


PAPERS = {
    "mrnn": lambda decoder: isinstance(decoder, MRNN),
    "neuraltalk": lambda d: d.inject == "first" and [type(c) for c in d.cells] == [cells.ReLU],
    "nic": lambda d: d.inject == "pre" and [type(c) for c in d.cells] == [cells.LSTM],
    "lrcn": lambda d: (d.inject, d.image_layers, len(d.cells)) == ("par", [1], 2),
    "minds_eye": lambda decoder: (
        isinstance(decoder, MindsEye) and decoder.kept_for_penalty == ("u",)
    ),
}


@pytest.mark.parametrize("name", PAPERS)
def test_the_papers_are_made_for_coco_too(name):
    cfg = composed(f"experiment={name}", "data=coco", "data.root=x", "encoder=resnet101")
    plain = schemas.plain(cfg)
    plain["encoder"]["pretrained"] = False
    tokenizer = tokenizers.train_tokenizer(["a dog"] * 3)
    decoder = decoder_options(cfg.decoder)
    made = caption_model.build_captioner(
        {"encoder": plain["encoder"], "decoder": decoder}, tokenizer
    )
    assert made.encoder.size == 2048
    assert PAPERS[name](made.decoder)
    found = made.eval().generate(Features(torch.rand(2, 2048)), make_strategy(cfg.search))
    assert len(found.token_BKT) == 2


@pytest.mark.parametrize("launcher, tasks", [("submitit_slurm", 1), ("slurm", 4)])
def test_a_sweep_on_slurm_composes(launcher, tasks):
    schemas.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        overrides = [f"hydra/launcher={launcher}", "trainer.devices=4", "hydra.job.num=0"]
        cfg = compose("train", overrides, return_hydra_config=True)
    assert hydra_instantiate(cfg.hydra.launcher).params["tasks_per_node"] == tasks


def test_the_default_is_the_lectures_model_on_the_embedded_data():
    cfg = composed()
    assert cfg.data.root == "data/scenes" and cfg.data.scenes
    assert cfg.encoder.name == "tf_efficientnet_lite0" and cfg.encoder.train == "none"
    decoder = {"cell": "LSTM", "inject": "par", "layers": 1}
    assert {key: cfg.decoder[key] for key in decoder} == decoder


@pytest.mark.parametrize("name", ["train", "eval"])
@pytest.mark.parametrize(
    "override", ["data.rot=x", "sead=1", "data=flicker8k", "data.batch_size=many", "search.widht=3"]
)
def test_a_typo_is_an_error(name, override):
    with pytest.raises(ConfigCompositionException):
        composed(override, name=name)


@pytest.mark.parametrize(
    "target",
    [
        "os.system", "torch.load", "torch.hub.load", "builtins.eval", "torch.optim.x", "torch.opti",
        "torch.optim.lr_scheduler", "torch.optim.sgd.torch.load", "torch.optim.SGD.step", "SGD",
        "xtorch.optim.SGD", "torch.optim.Optimizer.__init__", "torch.optim.SGD\n", None,
    ],
)  # fmt: skip
def test_nothing_but_optimisers_is_made(target):
    node = OmegaConf.create({"_target_": target, "lr": 1})
    with pytest.raises(InputError, match="optimizer._target_="):
        make_optimizer(node)
    with pytest.raises(InputError, match="not a class of captioner.search"):
        make_strategy(node)


@pytest.mark.parametrize("name", ["AdamW", "SGD", "RMSprop"])
def test_optimisers_are_fused_where_they_can_be(name):
    def fused(precision="32-true", **options):
        node = OmegaConf.create({"_target_": f"torch.optim.{name}", "lr": 0.1, **options})
        made = make_optimizer(node, precision)([torch.zeros(1, requires_grad=True)])
        return bool(made.defaults.get("fused"))

    assert fused() == (name != "RMSprop")
    assert not fused("16-mixed") and not fused(foreach=True) and not fused(differentiable=True)
    if name != "RMSprop":
        assert not fused(fused=False)
        with pytest.raises(InputError, match="fused=true with trainer.precision=16-mixed"):
            fused("16-mixed", fused=True)
        with pytest.raises(InputError, match="refuses this"):
            fused(fused=True, foreach=True)


def test_a_wrong_option_of_ours_is_named():
    with pytest.raises(InputError, match=r"search\.Beam.*'wide'"):
        make_strategy(OmegaConf.create({"_target_": "captioner.search.Beam", "wide": 3}))
    with pytest.raises(InputError, match="search.width=0"):
        make_strategy(OmegaConf.create({"_target_": "captioner.search.Beam", "width": 0}))
    with pytest.raises(InputError, match="not a class of captioner.search"):
        make_strategy(OmegaConf.create({"_target_": "captioner.search.Captions"}))
