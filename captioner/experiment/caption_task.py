"""What train.py does for captioners: pictures and their captions, judged by CIDEr."""

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig

from captioner import console, files, shell
from captioner.data.batches import CaptionText, Source, evenly_spaced, image_vectors
from captioner.data.records import Record
from captioner.decoders.base import WordDecoder
from captioner.encoders import CNN
from captioner.encoders.concepts import choose_concepts
from captioner.errors import InputError
from captioner.evaluation import predictions, scoring
from captioner.evaluation.scoring import Case
from captioner.experiment import components, sources
from captioner.experiment.run_dir import RunDir
from captioner.experiment.schemas import plain
from captioner.experiment.sources import Text
from captioner.metrics.bootstrap import RESAMPLES
from captioner.metrics.score import USUAL, headline
from captioner.metrics.tokenize import tokenize
from captioner.models import caption_model, loading
from captioner.models.caption_model import CaptionModel
from captioner.tokenizers import Tokenizer
from captioner.training.caption_training import CaptionTraining
from captioner.training.data import CaptionData
from captioner.types import Features

MONITOR, MODE = "val/CIDEr", "max"
PROBED, STANDARDISED = 10_000, 2000
"""Training pictures from whose v concepts and the decoder's standardisation are fitted."""


def prepare(
    config: DictConfig, trainer: pl.Trainer, run: RunDir
) -> tuple[CaptionTraining, CaptionData, list[str]]:
    """The model and its data, and what is wrong with the pictures that are left out.

    Every picture is opened, and seen by a frozen encoder, if it was not before.
    """
    options = components.training_options(config, trainer.precision)
    objective, strategy = options["objective"], components.make_strategy(config.search)
    train, val = _read_records(config)
    if not config.encoder:
        raise InputError("encoder=none is for data=text: give an encoder")
    captions = [caption for record in train for caption in record.captions]
    texts = sources.read_texts(config.data)
    captions += [caption for text in texts for caption in text.captions]

    def build(options: dict[str, Any], tokenizer: Tokenizer) -> CaptionModel:
        if options["encoder"].get("concepts") == "auto":
            styles = dict.fromkeys(text.style for text in texts if text.style)
            styles_last = [[f"<{style}>"] for style in styles]
            options["encoder"]["concepts"] = choose_concepts(_words(train)) + styles_last
        return caption_model.build_captioner(options, tokenizer)

    encoder = plain(config.encoder)
    model, old = components.build_model(config, build, captions, encoder=encoder)
    model.encoder.to(trainer.strategy.root_device)  # where features are computed
    model.encoder.fuse()
    train, train_source, bad = sources.make_source(config.data, model, train, train=True)
    val, val_source, bad_val = sources.make_source(config.data, model, val, train=False)
    sources.skip_bad(config.data, bad + bad_val, train, val)
    if -(-len(train) // config.data.batch_size) < trainer.world_size:
        raise InputError(
            f"{len(train)} pictures with data.batch_size={config.data.batch_size} are too few "
            f"batches for {trainer.world_size} processes: give a smaller one, or fewer devices"
        )
    fresh = not isinstance(old, CaptionModel) and model.encoder.frozen
    if fresh and isinstance(model.decoder, WordDecoder):
        _fit(model, train, train_source)
    sizes = config.data.batch_size, config.data.captions
    workers = 0 if model.encoder.frozen else config.data.workers
    data = CaptionData(
        train,
        val,
        train_source,
        val_source,
        model.tokenizer,
        *sizes,
        workers,
        config.seed,
        [_caption_text(model, text, objective.rewarded) for text in texts],
    )
    model.strategy = strategy  # saved with it
    objective.prepare(train, config.metrics_tokenizer)
    options["metrics_tokenizer"] = config.metrics_tokenizer
    options["expected_count"] = config.data.batch_size if objective.rewarded else data.words
    training = CaptionTraining(model, train, val, config.encoder_lr, **options)
    return training, data, bad + bad_val


def _words(records: Sequence[Record]) -> list[list[list[str]]]:
    """The words of each picture's captions."""
    return [[tokenize(caption) for caption in record.captions] for record in records]


def _fit(model: CaptionModel, train: Sequence[Record], source: Source) -> None:
    """Fit what a fresh captioner with a frozen encoder knows of v before it learns."""
    assert isinstance(model.encoder, CNN) and isinstance(model.decoder, WordDecoder)
    features = Features(image_vectors(source, evenly_spaced(len(train), STANDARDISED)))
    if (concepts := model.encoder.concepts) is not None:
        chosen = evenly_spaced(len(train), PROBED)
        concepts.fit(image_vectors(source, chosen), _words([train[i] for i in chosen]))
        features = model.encoder(features.to(concepts.mean_D.device))
    model.decoder.standard.fit(features.pooled_BD)


def _caption_text(model: CaptionModel, text: Text, rewarded: bool) -> CaptionText:
    """Captions without pictures, for training. Raises InputError without concepts."""
    concepts = getattr(model.encoder, "concepts", None)
    if concepts is None:
        raise InputError("data.text: needs an encoder with concepts: give encoder.concepts=auto")
    if rewarded:
        raise InputError("data.text: rewards need pictures: give data.text=null")
    if text.style is not None and text.style not in concepts.styles:
        raise InputError(f"data.text.style={text.style}: not among the concepts: give auto")
    style = {concepts.styles[text.style]} if text.style else set()
    spoken = [concepts.spoken(tokenize(caption)) | style for caption in text.captions]
    targets = [model.tokenizer.targets(caption) for caption in text.captions]
    return CaptionText(targets, spoken, concepts.imagine, text.share)


def _read_records(config: DictConfig) -> tuple[list[Record], list[Record]]:
    """Those of both splits. Raises InputError if a picture is in both."""
    train = sources.read_records(config.data, config.data.train_split)
    val = sources.read_records(config.data, config.data.val_split)
    both = {record.image for record in train} & {record.image for record in val}
    if both and config.data.train_split != config.data.val_split:
        raise InputError(
            f"{len(both)} pictures are in {config.data.train_split} and in "
            f"{config.data.val_split}, such as {min(both)}: the validation would mean nothing; "
            "take them out of one"
        )
    return train, val


def evaluate(
    config: DictConfig,
    trainer: pl.Trainer,
    training: CaptionTraining,
    data: CaptionData,
    run: RunDir,
) -> float:
    """Score the best model on the validation split; the processes share the pictures."""
    model = loading.load(run.model, device=trainer.strategy.root_device)
    val, split, first = training.val_records, config.data.val_split, trainer.is_global_zero
    source, workers = data.sources["val"], data.workers
    captions = predictions.predict(model, val, source, model.strategy, workers=workers)
    if first:
        files.write_json(run.predictions, captions)
    scenes = sources.read_scenes(config.data, split)
    case = Case(val, captions, tokenizer=config.metrics_tokenizer, scenes=scenes)
    resamples = RESAMPLES if first else 0  # of the scores that are written
    scores = scoring.evaluate(case, [*USUAL, *(["scenes"] if scenes else [])], resamples)
    if first:
        options = {"data": plain(config.data), "split": split, "search": plain(config.search)}
        options |= {"resamples": resamples, "seed": 0}
        digests = components.weight_digests(run.model)
        scores["origin"] = scoring.origin(case, **options, model=digests)
        files.write_json(run.scores, scores)
        console.show(scoring.scores_table(scores, f"{len(val)} images of {split}"))
        console.say(f"everything is in {run}; caption pictures with")
        console.say(f"  {shell.command('caption', '--model', run.model)} PATH ...")
    return headline(scores)
