"""Trains a captioner: python train.py data=flickr8k data.root=DIR [group=choice] [key=value]"""

import logging
import os
import warnings

import hydra
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from rich.console import Console

from captioner import config, evaluation, model, objectives, runs, tokenizers
from captioner.data import CaptionData
from captioner.training import Training
from captioner.types import InputError

config.register()
logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", "Found .* module.* in eval mode")  # the frozen encoder's


class ProgressBar(RichProgressBar):
    """Without the version number that Lightning makes of our logger's folder."""

    def get_metrics(self, *args):
        metrics = super().get_metrics(*args)
        metrics.pop("v_num", None)
        return metrics


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
@config.command
def main(cfg: DictConfig) -> float:
    """One run, from data to scores, all in `run_dir`. Returns val CIDEr, for sweeps."""
    run_dir = config.run_dir(cfg)
    first = os.environ.get("LOCAL_RANK", "0") == "0"  # of several processes
    if first and (run_dir / "config.yaml").exists():
        raise InputError(f"{run_dir} holds a run already: give another run_dir, or remove it")
    if not cfg.trainer.max_epochs:
        raise InputError(f"trainer.max_epochs={cfg.trainer.max_epochs}: give 1 or more")
    run_dir.mkdir(parents=True, exist_ok=True)
    pl.seed_everything(cfg.seed, verbose=False)

    train = config.read_records(cfg.data, cfg.data.train_split)
    val = config.read_records(cfg.data, cfg.data.val_split)
    both = {record.image for record in train} & {record.image for record in val}
    if both and cfg.data.train_split != cfg.data.val_split:
        raise InputError(
            f"{len(both)} pictures are in {cfg.data.train_split} and in {cfg.data.val_split}, such "
            f"as {min(both)}: the validation would mean nothing"
        )
    tokenizer = tokenizers.train(
        (caption for record in train for caption in record.captions),
        **config.plain(cfg.tokenizer),
    )
    captioner = model.build(
        {"encoder": config.plain(cfg.encoder), "decoder": config.plain(cfg.decoder)}, tokenizer
    )
    captioner.encoder.to(config.device(cfg.trainer.accelerator))  # where features are computed
    objective = model.make(
        config.plain(cfg.objective), "captioner.objectives", objectives.CrossEntropy
    )
    strategy = config.make_strategy(cfg.search)
    train_source, val_source = (
        config.make_source(cfg.data, captioner, some, train=some is train) for some in (train, val)
    )
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
    training = Training(
        captioner,
        objective,
        strategy,
        val,
        config.make_optimizer(cfg.optimizer),
        encoder_lr=cfg.encoder_lr,
        warmup=cfg.warmup,
        seed=cfg.seed,
    )
    best = ModelCheckpoint(
        run_dir / "checkpoints",
        filename="best-{epoch}-{step}",
        monitor="val/CIDEr",
        mode="max",
        save_last=True,
    )
    trainer = pl.Trainer(
        **config.plain(cfg.trainer),
        default_root_dir=run_dir,
        callbacks=[
            best,
            EarlyStopping("val/CIDEr", mode="max", patience=cfg.patience),
            ProgressBar(),
        ],
        logger=[
            CSVLogger(run_dir, name="", version=""),
            TensorBoardLogger(run_dir, name="", version="tensorboard"),
        ],
        use_distributed_sampler=False,
        reload_dataloaders_every_n_epochs=1,
        num_sanity_val_steps=0,
    )
    if trainer.is_global_zero:
        OmegaConf.save(cfg, run_dir / "config.yaml", resolve=True)
        (run_dir / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
    trainer.fit(training, data)

    if not best.best_model_path:
        raise InputError(
            "no validation took place: raise trainer.max_epochs, or lower "
            f"trainer.check_val_every_n_epoch={cfg.trainer.check_val_every_n_epoch}"
        )
    if trainer.is_global_zero:
        weights = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
        training.load_state_dict(weights["state_dict"])
        captioner.float().save(run_dir / "model")
        captioner.to(trainer.strategy.root_device)
        predictions = evaluation.predict(captioner, val, val_source, strategy, workers=data.workers)
        shown = config.read_scenes(cfg.data, cfg.data.val_split)
        scores = evaluation.evaluate(val, predictions, shown)
        evaluation.write(run_dir, predictions, scores)
        title = f"{cfg.data.val_split}, {len(val)} images"
        Console().print(runs.table({title: scores["corpus"]}))
        print(
            f"everything is in {run_dir}; caption pictures with\n"
            f"  caption --model {run_dir / 'model'} PATH ..."
        )
    return float(best.best_model_score or 0)


if __name__ == "__main__":
    main()
