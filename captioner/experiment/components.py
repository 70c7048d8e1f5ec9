"""What a run is put together from: parts that conf/ names by `_target_`, and folders.

Hydra's `instantiate` would call anything; `captioner.instantiate` calls classes of one package.
"""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig

from captioner import files, instantiate, search, tokenizers
from captioner.errors import InputError
from captioner.experiment.optimizers import make_optimizer
from captioner.experiment.schemas import plain
from captioner.models import loading
from captioner.models.base import Model
from captioner.models.directory import WEIGHTS
from captioner.models.warm_start import warm_start
from captioner.objectives.base import Objective
from captioner.tokenizers import Tokenizer

M = TypeVar("M", bound=Model)


def make_strategy(config: DictConfig | dict[str, Any]) -> search.Strategy:
    """The search that `conf/search` describes."""
    return instantiate.instantiate(plain(config), "captioner.search", search.STRATEGIES)


def choose_strategy(config: DictConfig, saved: search.Strategy) -> search.Strategy:
    """The search that `conf/search` describes; without one, the saved search with these options.

    Raises InputError for an option that the search does not have.
    """
    options = {name: value for name, value in plain(config).items() if value is not None}
    return make_strategy(options if "_target_" in options else saved.options() | options)


def build_model(
    config: DictConfig,
    build: Callable[[dict[str, Any], Tokenizer], M],
    texts: Iterable[str],
    **options: Any,
) -> tuple[M, Model | None]:
    """A model with a vocabulary of these texts, and the one whose weights it starts from, if any.

    build: makes it of `options`, those of the decoder, and the tokenizer.
    """
    tokenizer = tokenizers.train_tokenizer(texts, **plain(config.tokenizer))
    options["decoder"] = decoder = plain(config.decoder)
    older = decoder.pop("init_from", None)  # the option's older name
    if older and config.model.init_from:
        raise InputError("model.init_from and decoder.init_from: give one of them")
    if not (folder := config.model.init_from or older):
        return build(options, tokenizer), None
    old = loading.read_model(folder)
    encoder, old_encoder = options.get("encoder") or {}, old.config.get("encoder") or {}
    if encoder.get("concepts") == "auto" and old_encoder.get("concepts"):
        encoder["concepts"] = old_encoder["concepts"]
    model = build(options, old.tokenizer.grown(tokenizer))
    warm_start(model, old, folder)
    return model, old


def training_options(config: DictConfig, precision: str) -> dict[str, Any]:
    """The options of `training.loop.Loop`, but for the expected count."""
    options = {name: config[name] for name in ("ema", "warmup", "schedule", "seed")}
    return options | {
        "summed": config.loss == "sum",
        "optimizer": make_optimizer(config.optimizer, precision),
        "objective": instantiate.instantiate(
            plain(config.objective), "captioner.objectives", Objective
        ),
    }


def cache_folder(given: str | None, kind: str) -> Path:
    """data.cache, or captioner/KIND in the user's cache folder."""
    user_cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(given or f"{user_cache}/captioner/{kind}").expanduser()


def weight_digests(*folders: str | Path) -> dict[str, str]:
    """Model directory -> SHA-256 of its weights, by which a score can be traced to its model."""
    return {str(folder): files.sha256(Path(folder) / WEIGHTS) for folder in folders}
