"""What train.py and eval.py share: the typed top level of conf/, and what may be made out of it.

Hydra's `instantiate` would call anything; here it is given torch's optimisers and Lightning's
callbacks and loggers only. Everything of captioner is made by `model.make`.
"""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.utils import instantiate
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from captioner import data, images, model, records, scenes, search
from captioner.cache import FeatureCache
from captioner.types import InputError

ALLOWED = ("torch.optim.", "pytorch_lightning.callbacks.", "pytorch_lightning.loggers.")


@dataclass
class DataConfig:
    """scenes: root holds the embedded data, whose captions can be checked for truth.
    annotations, images: where records.read shall look, if not where it looks by itself.

    limit: only the first n pictures of a split. batch_size: pictures a step; captions: of each.
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
    cache: str = "${oc.env:XDG_CACHE_HOME,${oc.env:HOME}/.cache}/captioner/features"


@dataclass
class TrainConfig:
    """encoder_lr: of an encoder that trains. warmup: share of the steps in which the learning rate
    rises. patience: validations without a better CIDEr after which training stops.
    """

    data: Any = MISSING
    encoder: dict[str, Any] = MISSING
    decoder: dict[str, Any] = MISSING
    objective: dict[str, Any] = MISSING
    search: dict[str, Any] = MISSING
    trainer: dict[str, Any] = MISSING
    tokenizer: dict[str, Any] = MISSING
    optimizer: dict[str, Any] = MISSING
    encoder_lr: float = 1e-5
    warmup: float = 0.1
    patience: int = 5
    seed: int = 0
    run_dir: str = "runs/${now:%Y-%m-%d_%H-%M-%S}"


@dataclass
class EvalConfig:
    """Either `model` (with data, split, search), or `predictions` and `references`."""

    data: Any = MISSING
    search: dict[str, Any] = MISSING
    model: str | None = None
    split: str = "val"
    predictions: str | None = None
    references: str | None = None
    run_dir: str = "runs/eval_${now:%Y-%m-%d_%H-%M-%S}"


def register() -> None:
    """Makes the schemas known to Hydra, before it composes."""
    store = ConfigStore.instance()
    store.store("train_schema", TrainConfig)
    store.store("eval_schema", EvalConfig)
    store.store("base", DataConfig, group="data")


def command(main: Callable[[DictConfig], Any]) -> Callable[[DictConfig], Any]:
    """A user's error ends the command with its message alone, and exit code 2."""

    @wraps(main)
    def run(config: DictConfig) -> Any:
        try:
            return main(config)
        except MissingMandatoryValue as error:
            message = f"{error.full_key} is not set: give {error.full_key}=..."
        except InputError as error:
            message = str(error)
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)

    return run


def plain(config: Any) -> Any:
    """An OmegaConf node as dicts and lists."""
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


def make_allowed(config: DictConfig, **options: Any) -> Any:
    """Hydra's instantiate, for targets in ALLOWED. Raises InputError for any other."""
    targets = [value for key, value in _leaves(plain(config)) if key == "_target_"]
    for target in targets:
        if not str(target).startswith(ALLOWED):
            raise InputError(f"_target_={target}: must begin with one of {', '.join(ALLOWED)}")
    return instantiate(config, **options)


def _leaves(tree: Any, key: str = ""):
    if isinstance(tree, dict):
        for name, value in tree.items():
            yield from _leaves(value, name)
    elif isinstance(tree, list):
        for value in tree:
            yield from _leaves(value)
    else:
        yield key, tree


def make_strategy(config: DictConfig) -> search.Strategy:
    """The search that `conf/search` describes."""
    return model.make(plain(config), "captioner.search", search.STRATEGIES)


def read_records(config: DictConfig, split: str) -> list[records.Record]:
    """The records of a split, cut to data.limit."""
    found = records.read(
        Path(config.root),
        split,
        captions=config.annotations and Path(config.annotations),
        images=config.images and Path(config.images),
    )
    return found[: config.limit]


def read_scenes(config: DictConfig, split: str) -> dict[int, scenes.Scene] | None:
    """What the pictures of the embedded data show; None for any other data."""
    return (
        scenes.read_scenes(Path(config.root) / f"captions_{split}.json") if config.scenes else None
    )


def make_source(
    config: DictConfig, captioner: model.CaptionModel, some: Sequence[records.Record], train: bool
) -> data.Source:
    """Where the pictures of these records come from: the cache of a frozen encoder, or files."""
    encoder, paths = captioner.encoder, [record.image for record in some]
    augment = None
    if config.augment is not None:
        options = {"_target_": "captioner.images.Augment", **plain(config.augment)}
        augment = model.make(options, "captioner.images", images.Augment)
    if not encoder.frozen:
        if config.views != 1:
            raise InputError("data.views is for frozen encoders; this one sees each picture anew")
        return data.Pixels(paths, encoder.preprocess, augment if train else None)
    views, augment = (config.views, augment) if train else (1, None)
    folder = os.path.expanduser(config.cache)
    cache = FeatureCache(folder, encoder, captioner.decoder.uses_grid, views, augment)
    return data.Cached(cache, paths, config.workers)
