"""Scores a captioner: python eval.py model=DIR data=flickr8k data.root=DIR split=val search=beam
an ensemble: python eval.py model=[A,B,C] ...
or a predictions file: python eval.py predictions=FILE references=COCO.json
Several processes share the pictures: torchrun --nproc-per-node 2 eval.py ..."""

from pathlib import Path

import hydra
from omegaconf import DictConfig, ListConfig
from rich.console import Console

from captioner import config, evaluation, processes, records, runs, saved, sources
from captioner.types import InputError

config.register()


@hydra.main(version_base="1.3", config_path="conf", config_name="eval")
@config.command
def main(cfg: DictConfig) -> float:
    """Writes predictions.json and scores.json into `run_dir`, prints the table, returns CIDEr."""
    processes.join()
    if (cfg.model is None) == (cfg.predictions is None):
        raise InputError("give either model=DIR, or predictions=FILE and references=COCO.json")
    if cfg.predictions is not None:
        if cfg.references is None:
            raise InputError("predictions=FILE needs references=COCO.json")
        predictions = evaluation.read_predictions(Path(cfg.predictions))
        some = records.read_references(Path(cfg.references))
        shown, title = None, f"{len(some)} images"
    else:
        strategy = config.make_strategy(cfg.search)
        folders = cfg.model if isinstance(cfg.model, ListConfig) else [cfg.model]
        captioner = saved.load(*map(str, folders), average=cfg.average)
        captioner.to(config.device())
        some = sources.read_records(cfg.data, cfg.split)
        workers = 0 if captioner.encoder.frozen else cfg.data.workers
        some, source, bad = sources.make(cfg.data, captioner, some, train=False)
        sources.skip_bad(cfg.data, bad, some)
        wording = config.make_wording(cfg.wording)
        predictions = evaluation.predict(
            captioner, some, source, strategy, workers=workers, wording=wording
        )
        shown = sources.read_scenes(cfg.data, cfg.split)
        title = f"{cfg.split}, {len(some)} images"
    scores = evaluation.evaluate(some, predictions, shown)
    if processes.rank() == 0:
        run_dir = config.run_dir(cfg)
        evaluation.write(run_dir, predictions, scores)
        Console().print(runs.table({title: scores["corpus"]}))
        print(f"predictions.json and scores.json are in {run_dir}")
    return float(scores["corpus"]["CIDEr"])


if __name__ == "__main__":
    main()
