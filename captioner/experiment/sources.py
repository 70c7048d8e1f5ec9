"""The records and pictures that a `data` config names: for training, for evaluation."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig

from captioner import distributed, images, instantiate, scenes
from captioner.console import note
from captioner.data import batches
from captioner.data.cache import FeatureCache
from captioner.data.formats import read_caption_texts
from captioner.data.records import Record, read_captions
from captioner.data.records import read_records as read_all_records
from captioner.encoders import CNN, Encoders
from captioner.errors import InputError
from captioner.experiment.components import cache_folder
from captioner.experiment.schemas import plain
from captioner.images import integrity
from captioner.images.integrity import BadPictures
from captioner.models.caption_model import CaptionModel


def read_records(config: DictConfig, split: str, bare: bool = False) -> list[Record]:
    """The records of a split, at most data.limit. bare: also pictures without captions."""
    if config.limit is not None and config.limit < 1:
        raise InputError(f"data.limit={config.limit}: give 1 or more, or null for all")
    all_records = read_all_records(
        Path(config.root),
        split,
        captions=config.annotations and Path(config.annotations),
        images=config.images and Path(config.images),
        bare=bare,
    )
    return all_records[: config.limit]


TEXT_OPTIONS = {"path", "share", "style"}


class Text(NamedTuple):
    """Captions without pictures, their share of an epoch's batches, and the name of their style."""

    captions: list[str]
    share: float
    style: str | None


def read_texts(config: DictConfig) -> list[Text]:
    """The captions without pictures that data.text names: a path, or {path, share, style}, or a
    list of these. Raises InputError for anything else, and for shares that leave no pictures."""
    options = plain(config.text)
    texts = []
    for entry in options if isinstance(options, list) else [] if options is None else [options]:
        entry = {"path": entry} if isinstance(entry, str) else entry
        known = isinstance(entry, dict) and "path" in entry and set(entry) <= TEXT_OPTIONS
        if not known or not isinstance(entry["path"], str):
            raise InputError(
                f"data.text={entry!r:.80}: give a file or folder, or {{path, share, style}}"
            )
        share, style = entry.get("share", 0.5), entry.get("style")
        if type(share) not in (int, float) or not 0 < share < 1:
            raise InputError(f"data.text.share={share!r:.80}: give a number between 0 and 1")
        if style is not None and not (isinstance(style, str) and re.fullmatch(r"[\w-]+", style)):
            raise InputError(f"data.text.style={style!r:.80}: give letters, digits, - and _")
        texts.append(Text(read_caption_texts(Path(entry["path"])), share, style))
    if (total := sum(text.share for text in texts)) > 0.99:
        raise InputError(f"data.text: their shares add up to {total:g}: leave some for pictures")
    return texts


def training_captions(config: DictConfig, evaluated: Sequence[Record]) -> list[str]:
    """All captions of the training split.

    Raises InputError if there are none, or if they are those of the evaluated images.
    """
    split = config.train_split
    annotations = config.annotations and Path(config.annotations)
    captions_of = read_captions(Path(config.root), split, annotations)
    if both := captions_of.keys() & {record.id for record in evaluated}:
        raise InputError(
            f"{config.root}: {len(both)} of the evaluated images are in {split} too: give "
            "training=CAPTIONS.json"
        )
    return [text for captions in captions_of.values() for text in captions]


def read_scenes(config: DictConfig, split: str) -> dict[int, scenes.Scene] | None:
    """What each picture of the embedded data set shows, by image id; None for other data."""
    path = Path(config.root) / f"captions_{split}.json"
    return scenes.read_scenes(path) if config.scenes else None


def make_source(
    config: DictConfig, captioner: CaptionModel, records: Sequence[Record], train: bool
) -> tuple[list[Record], batches.Source, list[str]]:
    """Where the pictures of these records come from: the cache of a frozen encoder, or files.

    Computes the features that the cache lacks, and opens every picture that was not opened before.
    Returns the records whose pictures are whole, their source (for `skip_bad` to allow), and what
    is wrong with the others.
    """
    try:
        return list(records), _source(config, captioner, records, train), []
    except BadPictures as bad:
        good = [record for i, record in enumerate(records) if i not in bad.errors]
        source: batches.Source = batches.PixelSource([], images.Preprocess())
        if good and config.skip_bad:
            source = _source(config, captioner, good, train)
        return good, source, list(bad.errors.values())


def skip_bad(config: DictConfig, bad: Sequence[str], *good: Sequence[Record]) -> None:
    """Say on stderr which pictures are left out.

    Raises BadPictures unless data.skip_bad is true and each of `good` has records.
    """
    if not bad:
        return
    if not config.skip_bad or not all(good):
        raise BadPictures(dict(enumerate(bad)), len(bad) + sum(map(len, good)))
    if distributed.rank() == 0:
        lines = "\n  ".join(bad)
        note(f"{len(bad)} bad pictures are left out:\n  {lines}")


def _source(
    config: DictConfig, captioner: CaptionModel, records: Sequence[Record], train: bool
) -> batches.Source:
    encoder, uses_grid = captioner.encoder, captioner.decoder.uses_grid
    paths = [record.image for record in records]
    if not isinstance(encoder, Encoders):
        return _of_one(config, encoder, uses_grid, paths, train)
    members = zip(encoder.members, uses_grid)  # type: ignore[call-overload]
    return batches.EnsembleSource([_of_one(config, e, grid, paths, train) for e, grid in members])


def _of_one(
    config: DictConfig, encoder: CNN, grid: bool, paths: Sequence[Path], train: bool
) -> batches.Source:
    folder = cache_folder(config.cache, "features")
    augment = None
    if config.augment is not None:
        options = {"_target_": "captioner.images.Augment", **plain(config.augment)}
        augment = instantiate.instantiate(options, "captioner.images", images.Augment)
    if not encoder.frozen:
        if config.views != 1:
            raise InputError("data.views is for frozen encoders; this one sees each picture anew")
        integrity.check_images(paths, folder, config.workers)
        return batches.PixelSource(paths, encoder.preprocess, augment if train else None)
    views, augment = (config.views, augment) if train else (1, None)
    cache = FeatureCache(folder, encoder, grid, views, augment)
    return batches.FeatureSource(cache, cache.compute(paths, workers=config.workers))
