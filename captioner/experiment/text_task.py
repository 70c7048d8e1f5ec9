"""What train.py does for language models: texts, judged by bits per character (or word)."""

from pathlib import Path

import pytorch_lightning as pl
from omegaconf import DictConfig

from captioner import distributed, files, instantiate, tokenizers
from captioner.data import text
from captioner.errors import InputError
from captioner.evaluation import scoring
from captioner.experiment import config
from captioner.models import language_model, loading
from captioner.objectives.base import Objective
from captioner.training.data import TextData
from captioner.training.language_training import LanguageTraining, bits

MONITOR, MODE = "val/bits", "min"


def make(
    cfg: DictConfig, trainer: pl.Trainer, run_dir: Path
) -> tuple[LanguageTraining, TextData, list[str]]:
    """The model and its texts; nothing of them is left out."""
    objective = instantiate.instantiate(
        config.plain(cfg.objective), "captioner.objectives", Objective
    )
    if objective.rewarded:
        raise InputError("objective: rewards are of captions; a language model has cross_entropy")
    strategy = config.make_strategy(cfg.search)
    optimizer = config.make_optimizer(cfg.optimizer, trainer.precision)
    train, val = text.split(text.documents(cfg.data.path, cfg.data.pattern), cfg.data.val_share)
    pieces = (piece for document in train for piece in document.pieces())
    old = loading.read_model(cfg.model.init_from) if cfg.model.init_from else None
    tokenizer = tokenizers.train_tokenizer(pieces, **config.plain(cfg.tokenizer))
    if old is not None:
        tokenizer = old.tokenizer.grown(tokenizer)
    decoder, begin = config.decoder_options(cfg.decoder)
    if begin is not None:
        raise InputError(
            "decoder.init_from is for captioners; a language model has model.init_from"
        )
    model = language_model.build_language_model({"decoder": decoder}, tokenizer)
    if old is not None:
        loading.start_from(model, old, cfg.model.init_from)
    folder = config.cache_folder(cfg.data.cache, "text")
    model.read(cfg.data.prompt)
    if distributed.rank() > 0:
        distributed.gather(None)  # the first process encodes
    corpora = [text.Corpus(some, tokenizer, folder) for some in (train, val)]
    if distributed.rank() == 0:
        distributed.gather(None)
    for name, corpus in zip(("train", "validate"), corpora):
        if not corpus.units:
            raise InputError(
                f"data.val_share={cfg.data.val_share}: nothing to {name} on: there are no "
                f"{tokenizer.kind}s in that part"
            )
    data = TextData(
        corpora[0],
        corpora[1],
        batch_size=cfg.data.batch_size,
        bptt=cfg.data.bptt,
        seed=cfg.seed,
    )
    training = LanguageTraining(
        model,
        objective,
        strategy,
        cfg.data.prompt,
        run_dir / "samples.txt",
        optimizer,
        ema=cfg.ema,
        warmup=cfg.warmup,
        schedule=cfg.schedule,
        seed=cfg.seed,
        count=data.words,
        summed=cfg.loss == "sum",
    )
    return training, data, []


def evaluate(
    cfg: DictConfig,
    trainer: pl.Trainer,
    training: LanguageTraining,
    data: TextData,
    run_dir: Path,
) -> float:
    """Bits of the best model on the validation text."""
    model = loading.read_model(run_dir / "model")
    assert isinstance(model, language_model.LanguageModel)
    model.to(trainer.strategy.root_device)
    found = bits(model, data.val, data.batch_size, data.bptt)
    if trainer.is_global_zero:
        unit = {"char": "character"}.get(model.tokenizer.kind, model.tokenizer.kind)
        origin = {
            "data": config.plain(cfg.data),
            "model": {str(run_dir / "model"): files.sha256(run_dir / "model/model.safetensors")},
        }
        scoring.write_scores(run_dir, {"corpus": {f"bits_per_{unit}": found}, "origin": origin})
        print(
            f"{found:.4f} bits a {unit} of {data.val.units} held out; {run_dir / 'samples.txt'} "
            f"shows how it wrote; let it write with\n"
            f"  python -m captioner.commands.sample {run_dir / 'model'}"
        )
    return found
