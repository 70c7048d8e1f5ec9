"""The typed top level of conf/: the options of train.py and eval.py, with their defaults.

The options of an encoder, a decoder, an objective or a search are those of the class that its
`_target_` names, which checks them when it is made.
"""

import os
import secrets
import time
from dataclasses import dataclass, field, fields
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from captioner.errors import InputError
from captioner.metrics.bootstrap import RESAMPLES
from captioner.metrics.score import USUAL
from captioner.metrics.tokenize import TOKENIZERS
from captioner.search import STRATEGIES
from captioner.search.constraints import Constraints


@dataclass
class DataConfig:
    """Pictures and their captions.

    root: the folder of the data set. scenes: whether it is the embedded one, whose captions can be
    checked for truth. annotations, images: the caption file and the folder of pictures, if they are
    not where captioner/data/ looks for them.

    limit: only the first n pictures of a split. batch_size: pictures in a step. captions: captions
    of each picture in a step. workers: threads that read pictures ahead, in each process.
    cache: the folder of features (default: captioner/features in the user's cache folder).
    skip_bad: go on without pictures that cannot be read, and list them in RUN_DIR/skipped.txt.
    text: captions without pictures that are trained on too, with an encoder that has concepts: a
    file or folder (see `read_caption_texts`), or {path, share, style}, or a list of these. share:
    of an epoch's batches (0.5). style: a name for theirs, which pictures can then be captioned in.
    views: versions of each picture that the cache of a frozen encoder holds; more than 1 need
    augment. augment: options of captioner.images.Augment.
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
    text: Any = None


@dataclass
class TextConfig:
    """Text for a language model.

    path: a UTF-8 file, a folder, or `python`, Python's own modules. pattern: the files of a folder.
    val_share: the share of the text that is held out for validation. batch_size: streams of text in
    each process. bptt: tokens after which the gradient is cut. prompt: how the samples in
    validations begin. cache: the folder of encoded text (default: captioner/text in the user's
    cache folder).
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
    """Where training starts.

    init_from: a model directory whose weights and vocabulary the new model starts with. A captioner
    may start from a language model, which fills its decoder.
    """

    init_from: str | None = None


@dataclass
class TrainConfig:
    """All of train.py.

    metrics_tokenizer: of the metrics of validations and rewards, as in eval.py. encoder_lr: the
    learning rate of an encoder that trains. ema: the share of the moving average of the weights
    that each step leaves in place, such as 0.999; the average is then validated and saved. 0: none.
    warmup: the share of the steps in which the learning rate rises. schedule: after that it falls
    along a "cosine", or is "constant". loss: the "mean" over the words of a step, or their "sum".
    patience: training stops after so many validations without a better CIDEr (or bits).

    phases: runs one after the other, each in a folder inside the run's: a list of names, and of
    what differs from the rest of the configuration. Each starts with the model of the one before;
    an entry with a `_target_` replaces the whole group.

    checkpoint_minutes: how often the state of the run is saved, besides before each validation and
    after each epoch. timeout: seconds after which a process that hears nothing from the others
    ends. resume: the directory of a run to go on with, by its own configuration.
    """

    data: Any = MISSING
    model: ModelConfig = field(default_factory=ModelConfig)
    encoder: dict[str, Any] = MISSING
    decoder: dict[str, Any] = MISSING
    objective: dict[str, Any] = MISSING
    search: dict[str, Any] = MISSING
    trainer: dict[str, Any] = MISSING
    tokenizer: dict[str, Any] = MISSING
    metrics_tokenizer: str = "ptb"
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
    """The model for CLIPScore.

    name: of a model of open_clip. weights: one of its tags, or a file.
    """

    name: str | None = None
    weights: str = "openai"


def _unset_search_options() -> dict[str, Any]:
    """Every option of every search as null, so that Hydra lets each be given, and no other."""
    names = [option.name for strategy in STRATEGIES for option in fields(strategy)]
    return dict.fromkeys(["_target_", *names])


@dataclass
class EvalConfig:
    """All of eval.py. Give `model` (with data, split, search), or `predictions` (with references,
    or with data and split).

    model: a model directory, or a list of them, an ensemble. average: whether an ensemble averages
    log_prob or prob. style: see `loading.load`. search: a choice of conf/search; without one, the
    options that were saved with the model, less those that are given, as in
    search.length_penalty=0.7. constraints: what captions may and must say (wording is the old
    name). metrics: names in evaluation/scoring.py; without any, pictures need no references.
    metrics_tokenizer: of references and captions: "ptb", the official one, for English; "char", for
    languages without blanks between words; "none", for captions whose tokens are set apart by
    blanks. official: whether ptb reads each caption with the next one in view, as the official code
    does. corpus: a caption file or a table, whose document frequencies CIDEr takes in place of the
    references'. objects: COCO's instance annotations, for chair. training: a caption file, to tell
    which captions are novel. resamples, seed: of the 95 % intervals; 0 resamples for none.
    """

    data: Any = MISSING
    search: dict[str, Any] = field(default_factory=_unset_search_options)
    constraints: Constraints = field(default_factory=Constraints)
    wording: Constraints = field(default_factory=Constraints)
    model: Any = None
    average: str = "log_prob"
    style: str | None = None
    split: str = "val"
    predictions: str | None = None
    references: str | None = None
    metrics: list[str] = field(default_factory=lambda: list(USUAL))
    metrics_tokenizer: str = "ptb"
    official: bool = False
    corpus: str | None = None
    objects: str | None = None
    training: str | None = None
    clip: ClipConfig = field(default_factory=ClipConfig)
    resamples: int = RESAMPLES
    seed: int = 0
    run_dir: str = "runs/eval_${moment:}"


def register() -> None:
    """Make the schemas known to Hydra, before it composes."""
    for name, resolver in (("run_name", _run_name), ("moment", _moment)):
        OmegaConf.register_new_resolver(name, resolver, use_cache=True, replace=True)
    store = ConfigStore.instance()
    store.store("train_schema", TrainConfig)
    store.store("eval_schema", EvalConfig)
    store.store("base", DataConfig, group="data")
    store.store("text_base", TextConfig, group="data")


def _run_name() -> str:
    """SLURM's numbers of the job and of its step (if not 0), which a requeued job keeps; without
    SLURM, the moment."""
    if "SLURM_JOB_ID" not in os.environ:
        return _moment()
    step = os.environ.get("SLURM_STEP_ID", "0")
    return f"slurm_{os.environ['SLURM_JOB_ID']}" + (f"_{step}" if step != "0" else "")


def _moment() -> str:
    """Date and time, and six digits by which runs of the same second differ."""
    return f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{secrets.token_hex(3)}"


def plain(config: Any) -> Any:
    """An OmegaConf node as dicts and lists; anything else as it is."""
    if not OmegaConf.is_config(config):
        return config
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


def check_ranges(config: DictConfig) -> None:
    """Raise InputError for a number that is out of range, before anything is computed."""
    least = {f"data.{name}": 1 for name in ("batch_size", "captions", "views", "bptt")}
    least |= {"data.workers": 0, "patience": 0, "encoder_lr": 0, "trainer.max_epochs": 1}
    for name, low in least.items():
        value = OmegaConf.select(config, name, default=low)  # texts have no captions
        if not isinstance(value, int | float) or not value >= low:
            raise InputError(f"{name}={value}: give {low} or more")
    for name, lowest, advice in (  # where Lightning takes null, and checks not enough
        ("accumulate_grad_batches", 1.0, "1 or more"),
        ("check_val_every_n_epoch", 1, "1 or more"),
        ("gradient_clip_val", 0, "0 or more"),
        ("val_check_interval", 1e-9, "more than 0"),
        ("limit_train_batches", 1e-9, "more than 0"),
        ("limit_val_batches", 1e-9, "more than 0"),
    ):
        value = config.trainer.get(name)
        if isinstance(value, int | float) and not value >= lowest:
            raise InputError(f"trainer.{name}={value}: give {advice}")
    for name, fits, advice in (
        ("seed", 0 <= config.seed < 2**32, "0 to 4294967295"),
        ("metrics_tokenizer", config.metrics_tokenizer in TOKENIZERS, ", ".join(TOKENIZERS)),
        ("loss", config.loss in ("mean", "sum"), "mean or sum"),
        ("timeout", config.timeout > 0, "more than 0 seconds"),
        ("checkpoint_minutes", config.checkpoint_minutes > 0, "more than 0"),
        ("ema", 0 <= config.ema < 1, "0 <= ema < 1, such as 0.999"),
        ("warmup", 0 <= config.warmup < 1, "0 <= warmup < 1, a share of all steps"),
    ):
        if not fits:
            raise InputError(f"{name}={config[name]}: give {advice}")
