"""What eval.py scores: records, captions of a model or a file, and what metrics need besides."""

from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from captioner import files
from captioner.data import records
from captioner.data.records import Record
from captioner.errors import InputError
from captioner.evaluation import frequencies, predictions
from captioner.evaluation.clip import OpenClip
from captioner.evaluation.predictions import Prediction
from captioner.experiment import components, sources
from captioner.experiment.schemas import plain
from captioner.metrics import chair
from captioner.models import loading
from captioner.models.caption_model import CaptionModel
from captioner.search.constraints import UNCONSTRAINED


def read_captions(
    config: DictConfig,
) -> tuple[list[Record], list[Prediction], dict[str, Any]]:
    """The captions of the model or of the file that the configuration names, to be scored.

    Returns the records, less those with bad pictures, a caption for each, and the rest of what
    `Case` takes.
    """
    if (config.model is None) == (config.predictions is None):
        raise InputError("give either model=DIR, or predictions=FILE and references=COCO.json")
    if OmegaConf.to_object(config.wording) != UNCONSTRAINED:  # the old name
        if OmegaConf.to_object(config.constraints) != UNCONSTRAINED:
            raise InputError("wording is the old name of constraints: give constraints alone")
        config.constraints = config.wording
    scored = _read_records(config)
    needs = _read_needs(config, scored)
    if config.predictions is not None:
        return scored, predictions.read_predictions(Path(config.predictions)), needs
    model = loading.load(*_folders(config), average=config.average, style=config.style)
    model.strategy = components.choose_strategy(config.search, model.strategy)
    workers = 0 if model.encoder.frozen else config.data.workers
    scored, source, bad = sources.make_source(config.data, model, scored, train=False)
    sources.skip_bad(config.data, bad, scored)
    options: Any = {"workers": workers, "constraints": OmegaConf.to_object(config.constraints)}
    captions = predictions.predict(model, scored, source, model.strategy, **options)
    return scored, captions, needs | {"model": model, "source": source}


def settings(config: DictConfig, model: CaptionModel | None) -> dict[str, Any]:
    """For the scores' origin: what was scored, with which options, and digests of the files."""
    names = ["metrics", "metrics_tokenizer", "official", "resamples", "seed", "clip"]
    names += ["predictions"] if config.model is None else ["constraints", "average"]
    names += ["data", "split"] if config.references is None else ["references", "split"]
    settings = {name: plain(config[name]) for name in names}
    for name in ("corpus", "objects", "training"):
        path = config[name]
        settings[name] = path and {str(path): files.sha256(Path(path))}
    if model is not None:
        settings["search"] = model.strategy.options()
        settings["model"] = components.weight_digests(*_folders(config))
    return settings


def _read_records(config: DictConfig) -> list[Record]:
    if config.references is not None:
        if config.model is not None:
            raise InputError("references= goes with predictions=; a model takes data=")
        return records.read_references(Path(config.references), config.split)
    if config.predictions is not None:
        if not config.metrics:
            raise InputError("predictions=FILE with metrics=[]: there is nothing to do")
        if not Path(str(config.data.root)).is_dir():
            raise InputError(
                "predictions=FILE needs references=COCO.json, or the pictures and captions of "
                f"data=NAME data.root=DIR: {config.data.root} is no folder"
            )
    return sources.read_records(config.data, config.split, bare=not config.metrics)


def _read_needs(config: DictConfig, scored: list[Record]) -> dict[str, Any]:
    """What metrics need besides captions and references."""
    tokenizer = config.metrics_tokenizer
    needs: dict[str, Any] = {"tokenizer": tokenizer, "official": config.official}
    with_data = config.references is None
    if with_data:
        needs["scenes"] = sources.read_scenes(config.data, config.split)
    if config.corpus is not None:
        needs["frequencies"] = frequencies.read_frequencies(Path(config.corpus), "train", tokenizer)
    if config.objects is not None:
        needs["objects"] = chair.read_objects(Path(config.objects))
    if (clip := config.clip).name is not None:
        needs["embedder"] = partial(OpenClip, clip.name, clip.weights, loading.choose_device())
    if config.training is not None:
        training = records.read_references(Path(config.training), "train")
        needs["training"] = [text for record in training for text in record.captions]
    elif with_data and "language" in config.metrics:
        try:
            needs["training"] = sources.training_captions(config.data, scored)
        except InputError as error:
            needs["training"] = error
    return needs


def _folders(config: DictConfig) -> list[str]:
    folders = plain(config.model)
    return list(map(str, folders if isinstance(folders, list) else [folders]))
