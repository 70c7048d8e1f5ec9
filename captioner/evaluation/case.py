"""What metrics start from, a Case, and what they give, a Result."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

from captioner.data.batches import Source
from captioner.data.records import Record
from captioner.errors import InputError, Unavailable
from captioner.evaluation.clip import OpenClip
from captioner.evaluation.predictions import Prediction
from captioner.metrics import score
from captioner.metrics.cider import DocumentFrequencies
from captioner.metrics.statistics import Statistics
from captioner.models.caption_model import CaptionModel
from captioner.scenes import Scene

T = TypeVar("T")


class Result(NamedTuple):
    """The result of a metric.

    statistics: of scores with intervals. corpus_only: scores of the corpus alone, by name.
    unavailable: why other scores are missing, by name.
    """

    statistics: list[Statistics]
    corpus_only: Mapping[str, float] = {}
    unavailable: Mapping[str, str] = {}


@dataclass(eq=False)
class Case:
    """Predictions with their records and all else that metrics may need; missing inputs are None.

    predictions: one for each record. official: tokenize as the official code at a caption's end.
    tokenizer: of the metrics, a name in tokenize.TOKENIZERS.
    frequencies: document frequencies for CIDEr, by default those of the references. training: raw
    training captions, by which others are novel, or the error that prevented reading them. scenes,
    objects: the content of pictures, by image id. embedder: makes one for CLIPScore when needed.
    model, source: the model that made the predictions, and its pictures.
    Raises InputError, naming images, if predictions and records do not match.
    """

    records: Sequence[Record]
    predictions: Sequence[Prediction]
    official: bool = False
    tokenizer: str = "ptb"
    frequencies: DocumentFrequencies | None = None
    training: Sequence[str] | InputError | None = None
    scenes: Mapping[Any, Scene] | None = None
    objects: Mapping[Any, frozenset[str]] | None = None
    embedder: Callable[[], OpenClip] | None = None
    model: CaptionModel | None = None
    source: Source | None = None

    def __post_init__(self) -> None:
        by_image: dict[Any, Prediction] = {}
        for prediction in self.predictions:
            if prediction["image_id"] in by_image:
                raise InputError(f"image {prediction['image_id']} has two predictions")
            by_image[prediction["image_id"]] = prediction
        score.check_matching(
            {record.id: record.captions for record in self.records},
            {image: prediction["caption"] for image, prediction in by_image.items()},
        )
        self.predictions = [by_image[record.id] for record in self.records]

    @cached_property
    def texts(self) -> score.Texts:
        """References and captions as token strings."""
        references = [record.captions for record in self.records]
        options = self.frequencies, self.official, self.tokenizer
        return score.tokens(references, self.captions, *options)

    @property
    def captions(self) -> list[str]:
        """The raw captions, in the order of the records."""
        return [prediction["caption"] for prediction in self.predictions]

    def per_record(self, table: Mapping[Any, T] | None, option: str) -> list[T]:
        """The entry of each record in a table by image id. Raises Unavailable naming the option."""
        if table is None:
            raise Unavailable(f"give {option}")
        if missing := [record.id for record in self.records if record.id not in table]:
            raise Unavailable(f"{option} does not have {score.list_images(missing)}")
        return [table[record.id] for record in self.records]
