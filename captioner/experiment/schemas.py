"""The typed top level of conf/: the options of train.py and eval.py, with their defaults.

The options of a data set, a model part or a search are those of the class that its `_target_`
names; what is wrong with them is said when it is made.
"""

import os
import time
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from captioner.errors import InputError
from captioner.evaluation.scoring import RESAMPLES
from captioner.metrics.score import USUAL
from captioner.search.constraints import Constraints


@dataclass
class DataConfig:
    """scenes: root holds the embedded data, whose captions can be checked for truth.
    annotations, images: where records.read shall look, if not where it looks by itself.

    limit: only the first n pictures of a split. batch_size: pictures a step; captions: of each.
    workers: threads that read pictures ahead, in each process.
    cache: where features are kept (default: captioner/features in the user's cache folder).
    skip_bad: go on without pictures that cannot be read; they are listed in RUN_DIR/skipped.txt.
    views > 1 with augment: versions of each picture that a frozen encoder's cache holds.
    """

    root: str = MISSING
    scenes: bool = False
    annotations: str | None = None
    images: str | None = None
    train_split: str = "train"
    val_split: str = "val"
    limit: int | None = None
    batch_size: int = 32
    captions: int = 5
    workers: int = 1
    views: int = 1
    augment: Any = None
    cache: str | None = None
    skip_bad: bool = False


@dataclass
class TextConfig:
    """path: a UTF-8 file, a folder (pattern: of its files), or `python`, Python's own modules.

    val_share: how much of it is held out. batch_size: streams, in each process. bptt: tokens after
    which the gradient is cut. prompt: what samples in validation go on from. cache: where encoded
    text is kept (default: captioner/text in the user's cache folder).
    """

    path: str = MISSING
    pattern: str = "*"
    val_share: float = 0.1
    batch_size: int = 32
    bptt: int = 100
    prompt: str = ""
    cache: str | None = None


@dataclass
class ModelConfig:
    """init_from: a model directory whose weights training starts from; its words keep theirs. A
    captioner can start from a language model, which fills its decoder."""

    init_from: str | None = None


@dataclass
class TrainConfig:
    """encoder_lr: of an encoder that trains. ema: of a moving average of the weights, how much each
    step leaves in place (0.999, say); the average is then what is validated and kept. 0: none.
    warmup: share of the steps in which the learning rate rises. schedule: from there on it falls
    along a "cosine", or is "constant". loss: the "mean" over a step's words, or their "sum".
    patience: validations without a better one (of CIDEr, or bits) after which training stops.

    phases: runs one after the other, each in its own folder of the run's: what differs of their
    configurations, and a name. Each starts from the model of the one before; an entry with a
    `_target_` takes the place of the whole.

    checkpoint_minutes: how often the state of the run is saved, besides before each validation and
    after each epoch. timeout: seconds after which a process that hears nothing from the others
    ends. resume: the directory of a run that goes on, with its own configuration.
    """

    data: Any = MISSING
    model: ModelConfig = field(default_factory=ModelConfig)
    encoder: dict[str, Any] = MISSING
    decoder: dict[str, Any] = MISSING
    objective: dict[str, Any] = MISSING
    search: dict[str, Any] = MISSING
    trainer: dict[str, Any] = MISSING
    tokenizer: dict[str, Any] = MISSING
    optimizer: dict[str, Any] = MISSING
    encoder_lr: float = 1e-5
    ema: float = 0.0
    warmup: float = 0.1
    schedule: str = "cosine"
    loss: str = "mean"
    patience: int = 5
    seed: int = 0
    checkpoint_minutes: float = 10.0
    timeout: float = 600.0
    phases: Any = None
    resume: str | None = None
    run_dir: str = "runs/${run_name:}"


@dataclass
class ClipConfig:
    """name: of open_clip's models; weights: one of its tags, or a file."""

    name: str | None = None
    weights: str = "openai"


@dataclass
class EvalConfig:
    """Either `model` (with data, split, search), or `predictions` (with references,
    or with data and split).

    model: a model directory, or a list of them, an ensemble; average: log_prob or prob. metrics:
    names of scoring.py; without any, pictures need no references. official: tokenize
    as the official code does, each caption with the next one in view. corpus: CIDEr's document
    frequencies, a caption file or a table, instead of the references'. objects: COCO's instance
    annotations, for chair. training: a caption file, to tell which captions are novel. resamples,
    seed: of the 95 % intervals; 0 for none.
    """

    data: Any = MISSING
    search: dict[str, Any] = MISSING
    wording: Constraints = field(default_factory=Constraints)
    model: Any = None
    average: str = "log_prob"
    split: str = "val"
    predictions: str | None = None
    references: str | None = None
    metrics: list[str] = field(default_factory=lambda: list(USUAL))
    official: bool = False
    corpus: str | None = None
    objects: str | None = None
    training: str | None = None
    clip: ClipConfig = field(default_factory=ClipConfig)
    resamples: int = RESAMPLES
    seed: int = 0
    run_dir: str = "runs/eval_${now:%Y-%m-%d_%H-%M-%S}"


def register() -> None:
    """Makes the schemas known to Hydra, before it composes."""
    OmegaConf.register_new_resolver("run_name", _run_name, use_cache=True, replace=True)
    store = ConfigStore.instance()
    store.store("train_schema", TrainConfig)
    store.store("eval_schema", EvalConfig)
    store.store("base", DataConfig, group="data")
    store.store("text_base", TextConfig, group="data")


def _run_name() -> str:
    """SLURM's job number, which a requeued job keeps; elsewhere, date and time."""
    if "SLURM_JOB_ID" in os.environ:
        return f"slurm_{os.environ['SLURM_JOB_ID']}"
    return time.strftime("%Y-%m-%d_%H-%M-%S")


def plain(config: Any) -> Any:
    """An OmegaConf node as dicts and lists; anything else as it is."""
    if not OmegaConf.is_config(config):
        return config
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


def check_ranges(config: DictConfig) -> None:
    """Raises InputError for a number that is too small, before anything is computed."""
    least = {"batch_size": 1, "captions": 1, "workers": 0, "views": 1, "bptt": 1}
    values = {
        f"data.{name}": (config.data[name], low)
        for name, low in least.items()
        if name in config.data
    }
    values |= {"patience": (config.patience, 0), "encoder_lr": (config.encoder_lr, 0)}
    values["trainer.max_epochs"] = (config.trainer.max_epochs, 1)
    for name, (value, low) in values.items():
        if not isinstance(value, int | float) or value < low:
            raise InputError(f"{name}={value}: give {low} or more")
    if isinstance(interval := config.trainer.get("val_check_interval"), str):
        raise InputError(
            f"trainer.val_check_interval={interval}: give a share of the epoch, or how many batches"
        )
    if config.loss not in ("mean", "sum"):
        raise InputError(f"loss={config.loss}: give mean or sum")
    if config.timeout <= 0:
        raise InputError(f"timeout={config.timeout}: give more than 0 seconds")
    if not 0 <= config.ema < 1:
        raise InputError(f"ema={config.ema}: give 0 <= ema < 1, such as 0.999")
    if not 0 <= config.warmup < 1:
        raise InputError(f"warmup={config.warmup}: give 0 <= warmup < 1, a share of all steps")
