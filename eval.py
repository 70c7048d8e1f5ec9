"""Scores a captioner: python eval.py model=DIR data=flickr8k data.root=DIR split=val
searched in another way than is saved with it: python eval.py ... search.length_penalty=0.5
an ensemble: python eval.py model=[A,B,C] ...
or a predictions file: python eval.py predictions=FILE references=COCO.json
by metrics of your choice: python eval.py ... metrics=[bleu,cider,meteor,language]
Several processes share the pictures: torchrun --nproc-per-node 2 eval.py ..."""

import captioner.interrupts  # isort: skip  # noqa: F401
import hydra
from omegaconf import DictConfig

from captioner import console, distributed, files
from captioner.evaluation import scoring
from captioner.evaluation.scoring import Case
from captioner.experiment import evaluation_task, hydra_app, schemas
from captioner.experiment.run_dir import RunDir
from captioner.metrics import tokenize
from captioner.metrics.score import headline

schemas.register()


@hydra.main(version_base="1.3", config_path="conf", config_name="eval")
@hydra_app.command
def main(config: DictConfig) -> float:
    """Writes predictions.json and scores.json into `run_dir`, prints the table, returns CIDEr."""
    distributed.join()
    scoring.check_metrics(config.metrics, config.resamples, config.seed)
    tokenize.check_tokenizer(config.metrics_tokenizer, config.official)
    run = distributed.gather(hydra_app.run_dir_of(config))[0]  # the first process's
    with run.claimed():
        return evaluate(config, run)


def evaluate(config: DictConfig, run: RunDir) -> float:
    """The same, in a directory that no other run writes to."""
    first = distributed.rank() == 0
    records, captions, needs = evaluation_task.read_captions(config)
    if first and config.model is not None:  # before anything else may fail
        files.write_json(run.predictions, captions)
    if not config.metrics:
        if first:
            console.say(f"the captions are in {run.predictions}")
        return float("nan")
    case = Case(records, captions, **needs)
    metrics = [*config.metrics]
    if case.scenes and "scenes" not in metrics:
        metrics.append("scenes")
    if not first:  # the others do their share, and do not wait for the rest
        shared = [name for name in metrics if name in scoring.SHARED]
        return headline(scoring.evaluate(case, shared, resamples=0))
    scores = scoring.evaluate(case, metrics, config.resamples, config.seed)
    scores["origin"] = scoring.origin(case, **evaluation_task.settings(config, case.model))
    if config.model is None:
        files.write_json(run.predictions, captions)
    files.write_json(run.scores, scores)
    title = f"{len(records)} images" + (f" of {config.split}" if config.references is None else "")
    console.show(scoring.scores_table(scores, title))
    console.say(f"captions and scores are in {run.predictions} and {run.scores}")
    return headline(scores)


if __name__ == "__main__":
    hydra_app.start(main)
