"""What train.py does for captioners: pictures and their captions, judged by CIDEr."""

from pathlib import Path

import pytorch_lightning as pl
from omegaconf import DictConfig
from rich.console import Console

from captioner import files, instantiate, tokenizers
from captioner.data.batches import image_vectors
from captioner.decoders.base import WordDecoder
from captioner.errors import InputError
from captioner.evaluation import predictions, scoring
from captioner.evaluation.scoring import Case
from captioner.experiment import config, sources
from captioner.metrics.score import USUAL
from captioner.models import caption_model, loading
from captioner.objectives.base import Objective
from captioner.training.caption_training import CaptionTraining
from captioner.training.data import CaptionData

MONITOR, MODE = "val/CIDEr", "max"


def make(
    cfg: DictConfig, trainer: pl.Trainer, run_dir: Path
) -> tuple[CaptionTraining, CaptionData, list[str]]:
    """The model and its data, and what is wrong with the pictures that are left out.

    Every picture is opened, and seen by a frozen encoder, if it was not before.
    """
    objective = instantiate.instantiate(
        config.plain(cfg.objective), "captioner.objectives", Objective
    )
    strategy = config.make_strategy(cfg.search)
    optimizer = config.make_optimizer(cfg.optimizer, trainer.precision)
    train = sources.read_records(cfg.data, cfg.data.train_split)
    val = sources.read_records(cfg.data, cfg.data.val_split)
    both = {record.image for record in train} & {record.image for record in val}
    if both and cfg.data.train_split != cfg.data.val_split:
        raise InputError(
            f"{len(both)} pictures are in {cfg.data.train_split} and in {cfg.data.val_split}, such "
            f"as {min(both)}: the validation would mean nothing; take them out of one"
        )
    tokenizer = tokenizers.train_tokenizer(
        (caption for record in train for caption in record.captions),
        **config.plain(cfg.tokenizer),
    )
    if not cfg.encoder:
        raise InputError("encoder=none is for data=text: give an encoder")
    decoder, begin = config.decoder_options(cfg.decoder)
    old = loading.load(cfg.model.init_from) if cfg.model.init_from else None
    if old is not None and begin is not None:
        raise InputError("model.init_from and decoder.init_from: give one of them")
    written = loading.read_model(begin) if begin is not None else None
    if (known := old or written) is not None:
        tokenizer = known.tokenizer.grown(tokenizer)
    captioner = caption_model.build_captioner(
        {"encoder": config.plain(cfg.encoder), "decoder": decoder}, tokenizer
    )
    if old is not None:
        loading.start_from(captioner, old, cfg.model.init_from)
    if begin is not None and written is not None:
        loading.start_decoder(captioner.decoder, written, begin)
    captioner.encoder.to(trainer.strategy.root_device)  # where features are computed
    captioner.encoder.fuse()
    train, train_source, bad = sources.make_source(cfg.data, captioner, train, train=True)
    val, val_source, bad_val = sources.make_source(cfg.data, captioner, val, train=False)
    bad += bad_val
    sources.skip_bad(cfg.data, bad, train, val)
    if -(-len(train) // cfg.data.batch_size) < trainer.world_size:
        raise InputError(
            f"{len(train)} pictures with data.batch_size={cfg.data.batch_size} are too few batches "
            f"for {trainer.world_size} processes: give a smaller one, or fewer devices"
        )
    if old is None and captioner.encoder.frozen and isinstance(captioner.decoder, WordDecoder):
        captioner.decoder.standard.fit(image_vectors(train_source, len(train)))
    data = CaptionData(
        train,
        val,
        train_source,
        val_source,
        tokenizer,
        batch_size=cfg.data.batch_size,
        captions=cfg.data.captions,
        workers=0 if captioner.encoder.frozen else cfg.data.workers,
        seed=cfg.seed,
    )
    objective.prepare(train)
    training = CaptionTraining(
        captioner,
        objective,
        strategy,
        train,
        val,
        optimizer,
        encoder_lr=cfg.encoder_lr,
        ema=cfg.ema,
        warmup=cfg.warmup,
        schedule=cfg.schedule,
        seed=cfg.seed,
        summed=cfg.loss == "sum",
        count=cfg.data.batch_size if objective.rewarded else data.words,
    )
    return training, data, bad


def evaluate(
    cfg: DictConfig,
    trainer: pl.Trainer,
    training: CaptionTraining,
    data: CaptionData,
    run_dir: Path,
) -> float:
    """Scores the best model on the validation split; the processes share the pictures."""
    captioner = loading.load(run_dir / "model").to(trainer.strategy.root_device)
    val, source = training.val_records, data.sources["val"]
    said = predictions.predict(captioner, val, source, training.strategy, workers=data.workers)
    if trainer.is_global_zero:
        predictions.write_predictions(run_dir, said)
    shown = sources.read_scenes(cfg.data, cfg.data.val_split)
    case = Case(val, said, scenes=shown)
    scores = scoring.evaluate(case, [*USUAL, *(["scenes"] if shown else [])])
    if trainer.is_global_zero:
        weights = run_dir / "model" / "model.safetensors"
        scores["origin"] = scoring.origin(
            case,
            data=config.plain(cfg.data),
            split=cfg.data.val_split,
            search=config.plain(cfg.search),
            resamples=scoring.RESAMPLES,
            seed=0,
            model={str(run_dir / "model"): files.sha256(weights)},
        )
        scoring.write_scores(run_dir, scores)
        Console().print(scoring.scores_table(scores, f"{len(val)} images of {cfg.data.val_split}"))
        print(
            f"everything is in {run_dir}; caption pictures with\n"
            f"  caption --model {run_dir / 'model'} PATH ..."
        )
    return scoring.headline(scores)
