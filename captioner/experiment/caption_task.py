"""What train.py does for captioners: pictures and their captions, judged by CIDEr."""

import pytorch_lightning as pl
from omegaconf import DictConfig

from captioner import console, files, shell
from captioner.data.batches import image_vectors
from captioner.data.records import Record
from captioner.decoders.base import WordDecoder
from captioner.errors import InputError
from captioner.evaluation import predictions, scoring
from captioner.evaluation.scoring import Case
from captioner.experiment import components, sources
from captioner.experiment.run_dir import RunDir
from captioner.experiment.schemas import plain
from captioner.metrics.bootstrap import RESAMPLES
from captioner.metrics.score import USUAL, headline
from captioner.models import caption_model, loading
from captioner.models.caption_model import CaptionModel
from captioner.training.caption_training import CaptionTraining
from captioner.training.data import CaptionData

MONITOR, MODE = "val/CIDEr", "max"


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
    captions = (caption for record in train for caption in record.captions)
    build, encoder = caption_model.build_captioner, plain(config.encoder)
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
        model.decoder.standard.fit(image_vectors(train_source, len(train)))
    sizes = config.data.batch_size, config.data.captions
    workers = 0 if model.encoder.frozen else config.data.workers
    data = CaptionData(
        train, val, train_source, val_source, model.tokenizer, *sizes, workers, config.seed
    )
    model.strategy = strategy  # saved with it
    objective.prepare(train, config.metrics_tokenizer)
    options["metrics_tokenizer"] = config.metrics_tokenizer
    options["expected_count"] = config.data.batch_size if objective.rewarded else data.words
    training = CaptionTraining(model, train, val, config.encoder_lr, **options)
    return training, data, bad + bad_val


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
