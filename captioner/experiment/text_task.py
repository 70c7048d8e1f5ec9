"""What train.py does for language models: texts, judged by bits per character (or word)."""

from collections.abc import Sequence

import pytorch_lightning as pl
from omegaconf import DictConfig

from captioner import distributed, files, shell
from captioner.console import say
from captioner.data import text
from captioner.errors import InputError
from captioner.experiment import components
from captioner.experiment.run_dir import RunDir
from captioner.experiment.schemas import plain
from captioner.models import language_model, loading
from captioner.models.language_model import LanguageModel
from captioner.tokenizers import Tokenizer
from captioner.training.data import TextData
from captioner.training.language_training import LanguageTraining, bits

MONITOR, MODE = "val/bits", "min"


def prepare(
    config: DictConfig, trainer: pl.Trainer, run: RunDir
) -> tuple[LanguageTraining, TextData, list[str]]:
    """The model and its texts; nothing of them is left out."""
    options = components.training_options(config, trainer.precision)
    if options["objective"].rewarded:
        raise InputError("objective: rewards are of captions; a language model has cross_entropy")
    strategy = components.make_strategy(config.search)
    documents = text.documents(config.data.path, config.data.pattern)
    train, val = text.split(documents, config.data.val_share)
    pieces = (piece for document in train for piece in document.pieces())
    model, _ = components.build_model(config, language_model.build_language_model, pieces)
    model.encode_prompt(config.data.prompt)
    train_corpus, val_corpus = _encode(config, (train, val), model.tokenizer)
    sizes = config.data.batch_size, config.data.bptt
    data = TextData(train_corpus, val_corpus, *sizes, config.seed)
    options["expected_count"] = data.words
    training = LanguageTraining(model, strategy, config.data.prompt, run.samples, **options)
    return training, data, []


def _encode(
    config: DictConfig, split: Sequence[list[text.Document]], tokenizer: Tokenizer
) -> list[text.Corpus]:
    """Both parts of the texts as ids. The first process encodes, the others wait for its files."""
    folder = components.cache_folder(config.data.cache, "text")
    if distributed.rank() > 0:
        distributed.gather(None)
    corpora = [text.Corpus(documents, tokenizer, folder) for documents in split]
    if distributed.rank() == 0:
        distributed.gather(None)
    for name, corpus in zip(("train", "validate"), corpora):
        if not corpus.units:
            raise InputError(
                f"data.val_share={config.data.val_share}: nothing to {name} on: there are no "
                f"{tokenizer.kind}s in that part"
            )
    return corpora


def evaluate(
    config: DictConfig, trainer: pl.Trainer, training: LanguageTraining, data: TextData, run: RunDir
) -> float:
    """Bits of the best model on the validation text."""
    model = loading.read_model(run.model)
    assert isinstance(model, LanguageModel)
    model.to(trainer.strategy.root_device)
    score = bits(model, data.val, data.batch_size, data.bptt)
    if trainer.is_global_zero:
        unit = {"char": "character"}.get(model.tokenizer.kind, model.tokenizer.kind)
        origin = {"data": plain(config.data), "model": components.weight_digests(run.model)}
        scores = {"corpus": {f"bits_per_{unit}": score}, "origin": origin}
        files.write_json(run.scores, scores)
        command = shell.command("captioner", "sample", run.model)
        say(
            f"{score:.4f} bits a {unit} of {data.val.units} held out; {run.samples} "
            f"shows how it wrote; let it write with\n  {command}"
        )
    return score
