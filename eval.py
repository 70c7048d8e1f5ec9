"""Scores a captioner: python eval.py model=DIR data=flickr8k data.root=DIR split=val search=beam
an ensemble: python eval.py model=[A,B,C] ...
or a predictions file: python eval.py predictions=FILE references=COCO.json
by metrics of your choice: python eval.py ... metrics=[bleu,cider,meteor,language]
Several processes share the pictures: torchrun --nproc-per-node 2 eval.py ..."""

from functools import partial
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, ListConfig
from rich.console import Console

from captioner import distributed, files
from captioner.data import records
from captioner.errors import InputError
from captioner.evaluation import frequencies, predictions, scoring
from captioner.evaluation.clip import OpenClip
from captioner.evaluation.scoring import Case
from captioner.experiment import config, sources
from captioner.metrics import chair
from captioner.models import loading

config.register()


@hydra.main(version_base="1.3", config_path="conf", config_name="eval")
@config.command
def main(cfg: DictConfig) -> float:
    """Writes predictions.json and scores.json into `run_dir`, prints the table, returns CIDEr."""
    distributed.join()
    if (cfg.model is None) == (cfg.predictions is None):
        raise InputError("give either model=DIR, or predictions=FILE and references=COCO.json")
    scoring.check_metrics(cfg.metrics, cfg.resamples, cfg.seed)
    folder, first = config.run_dir(cfg), distributed.rank() == 0
    some = _records(cfg)
    needs = _needs(cfg, some)
    if cfg.model is None:
        said = predictions.read_predictions(Path(cfg.predictions))
    else:
        some, said, needs["model"], needs["source"] = _predict(cfg, some, folder)
        if first:  # before anything else may fail
            predictions.write_predictions(folder, said)
    if not cfg.metrics:
        if first:
            print(f"predictions.json is in {folder}")
        return float("nan")
    case = Case(some, said, **needs)
    metrics = [*cfg.metrics, *(["scenes"] if case.scenes and "scenes" not in cfg.metrics else [])]
    if not first:  # the others do their share, and do not wait for the rest
        shared = [name for name in metrics if name in scoring.SHARED]
        return scoring.headline(scoring.evaluate(case, shared, resamples=0))
    scores = scoring.evaluate(case, metrics, cfg.resamples, cfg.seed)
    scores["origin"] = scoring.origin(case, **_settings(cfg))
    if cfg.model is None:
        predictions.write_predictions(folder, said)
    scoring.write_scores(folder, scores)
    title = f"{len(some)} images" + (f" of {cfg.split}" if cfg.references is None else "")
    Console().print(scoring.scores_table(scores, title))
    print(f"predictions.json and scores.json are in {folder}")
    return scoring.headline(scores)


def _records(cfg: DictConfig) -> list[records.Record]:
    if cfg.references is not None:
        if cfg.model is not None:
            raise InputError("references= goes with predictions=; a model takes data=")
        return records.read_references(Path(cfg.references), cfg.split)
    if cfg.predictions is not None:
        if not cfg.metrics:
            raise InputError("predictions=FILE with metrics=[]: there is nothing to do")
        if not Path(str(cfg.data.root)).is_dir():
            raise InputError(
                "predictions=FILE needs references=COCO.json, or the pictures and captions of "
                f"data=NAME data.root=DIR: {cfg.data.root} is no folder"
            )
    return sources.read_records(cfg.data, cfg.split, bare=not cfg.metrics)


def _predict(cfg: DictConfig, some: list[records.Record], folder: Path) -> tuple[Any, ...]:
    """The records whose pictures are whole, their captions, the model, and the pictures."""
    strategy = config.make_strategy(cfg.search)
    captioner = loading.load(*_folders(cfg), average=cfg.average)
    captioner.to(config.device())
    workers = 0 if captioner.encoder.frozen else cfg.data.workers
    some, source, bad = sources.make_source(cfg.data, captioner, some, train=False)
    sources.skip_bad(cfg.data, bad, some)
    wording = config.make_wording(cfg.wording)
    files.make_folder(folder)
    said = predictions.predict(captioner, some, source, strategy, workers=workers, wording=wording)
    return some, said, captioner, source


def _needs(cfg: DictConfig, some: list[records.Record]) -> dict[str, Any]:
    """What metrics need besides captions and references."""
    needs: dict[str, Any] = {"official": cfg.official}
    with_data = cfg.references is None
    if with_data:
        needs["scenes"] = sources.read_scenes(cfg.data, cfg.split)
    if cfg.corpus is not None:
        needs["frequencies"] = frequencies.read_frequencies(Path(cfg.corpus), "train")
    if cfg.objects is not None:
        needs["objects"] = chair.read_objects(Path(cfg.objects))
    if cfg.clip.name is not None:
        needs["embedder"] = partial(OpenClip, cfg.clip.name, cfg.clip.weights, config.device())
    if cfg.training is not None:
        training = records.read_references(Path(cfg.training), "train")
        needs["training"] = [text for record in training for text in record.captions]
    elif with_data and "language" in cfg.metrics:
        try:
            needs["training"] = sources.training_captions(cfg.data, some)
        except InputError as error:
            needs["training"] = error
    return needs


def _folders(cfg: DictConfig) -> list[str]:
    return [str(f) for f in (cfg.model if isinstance(cfg.model, ListConfig) else [cfg.model])]


def _settings(cfg: DictConfig) -> dict[str, Any]:
    """Of the scores' origin: what was scored, by which options, with digests of the files."""
    kept = ["metrics", "official", "resamples", "seed", "clip"]
    kept += ["predictions"] if cfg.model is None else ["search", "wording", "average"]
    kept += ["data", "split"] if cfg.references is None else ["references", "split"]
    settings = {name: config.plain(cfg[name]) for name in kept}
    for name in ("corpus", "objects", "training"):
        path = cfg[name]
        settings[name] = path and {str(path): files.sha256(Path(path))}
    if cfg.model is not None:
        weights = {folder: Path(folder) / "model.safetensors" for folder in _folders(cfg)}
        settings["model"] = {folder: files.sha256(path) for folder, path in weights.items()}
    return settings


if __name__ == "__main__":
    main()
