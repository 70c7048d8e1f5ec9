"""CaptionModel: pictures in, captions out; an encoder, a decoder, a tokenizer and a search."""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from captioner import images, search, tokenizers
from captioner.decoders.base import Decoder, token_log_probs
from captioner.encoders import CNN, Encoders
from captioner.errors import InputError, printable
from captioner.instantiate import instantiate
from captioner.models.base import Model
from captioner.models.captions import Caption, Hypothesis, SureConcept
from captioner.models.directory import write_model
from captioner.prefetch import prefetch_batches
from captioner.search.constraints import UNCONSTRAINED, Constraints
from captioner.search.include import MustInclude
from captioner.types import PAD, Batch, Features, Memory, PerMember, State

READERS = 4
"""Threads that open pictures, ahead of the CNN."""


class CaptionModel(Model):
    """encoder -> decoder.start -> decoder.step -> decoder.step -> ... -> END.

    config: what `build_captioner` got. strategy: the search to use by default. Both are saved with
    the model. An ensemble has no config, and takes and gives PerMember for pixels and Features.
    """

    def __init__(
        self,
        encoder: CNN | Encoders,
        decoder: Decoder,
        tokenizer: tokenizers.Tokenizer,
        config: dict[str, Any],
        strategy: search.Strategy | None = None,
    ):
        super().__init__(decoder, tokenizer, config)
        self.encoder, self.strategy = encoder, strategy or search.Beam()

    def start(  # type: ignore[override]
        self, batch: Batch, state: State | None = None
    ) -> tuple[Features, Memory, State]:
        """The features, memory and state for a training batch's captions; none has a `state`."""
        features = self.encode(batch.images)
        return features, *self.decoder.start(features, rows=len(batch.token_NT))

    def encode(self, images: Tensor | Features | PerMember) -> Features:
        """Pixels (B, 3, S, S), or features from a cache -> Features, on the model's device and of
        its floating point type; those that are complete are handed on."""
        weight = next(self.decoder.parameters())
        images = images.to(weight.device, weight.dtype)
        return self.encoder(images, grid=self.decoder.uses_grid)

    def generate(
        self,
        images: Tensor | Features | PerMember,
        strategy: search.Strategy | None = None,
        image_numbers: Sequence[int] | None = None,
        constraints: Constraints = UNCONSTRAINED,
    ) -> search.Captions:
        """Captions of B images as ids; by default without the unknown word, of one word at least.

        image_numbers: in their data set, so that sampling does not depend on the batch, and for
        constraints on single images.
        """
        strategy = strategy or self.strategy
        with torch.inference_mode():
            features = self.encode(images)
            first = features[0] if isinstance(features, PerMember) else features
            memory, state = self.decoder.start(features, len(first.pooled_BD) * strategy.rows)
            rules = constraints.rules(self.tokenizer, image_numbers)
            words = constraints.must_include(self.tokenizer, image_numbers)
            guide = self._guide(features, strategy, image_numbers, constraints)
            return strategy(self.decoder.step, memory, state, rules, image_numbers, words, guide)

    def _guide(
        self,
        features: Features | PerMember,
        strategy: search.Strategy,
        image_numbers: Sequence[int] | None,
        constraints: Constraints,
    ) -> MustInclude | None:
        """What `Guided` makes captions include if need be."""
        if not isinstance(strategy, search.Guided):
            return None
        sure_B = self.sure_concepts(features, strategy.threshold)
        numbers = range(len(sure_B)) if image_numbers is None else image_numbers
        any_of = {number: sure.words for number, sure in zip(numbers, sure_B) if sure}
        return constraints.must_include(self.tokenizer, image_numbers, any_of) if any_of else None

    def sure_concepts(
        self, features: Features | PerMember, threshold: float
    ) -> list[SureConcept | None]:
        """The likeliest concept of each image, if it is at least that likely and the decoder knows
        a word for it; by the first encoder of an ensemble.

        Raises InputError for an encoder without concepts.
        """
        encoder, *_ = getattr(self.encoder, "members", [self.encoder])
        first = features[0] if isinstance(features, PerMember) else features
        if encoder.concepts is None:
            raise InputError("search=guided: the model's encoder has no concepts: take search=beam")
        known = [[w for w in forms if w in self.tokenizer.ids] for forms in encoder.concepts.words]
        t_BX = encoder.concepts.read(first.pooled_BD)
        t_BX = t_BX * torch.tensor([bool(words) for words in known], device=t_BX.device)
        best_B, concept_B = (tensor.tolist() for tensor in t_BX.max(1))
        return [
            SureConcept(known[x], t) if t >= threshold else None for t, x in zip(best_B, concept_B)
        ]

    def trace(
        self,
        images: Tensor | Features | PerMember,
        captions: search.Captions,
        keep: Sequence[str] = (),
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """log_prob_BKT of the tokens of captions of these images, 0 after their end, and what the
        decoder keeps, by name ("alpha", "h0" ..), (B, K, T, ...): one `forward` over all of them.
        """
        with torch.inference_mode():
            log_prob_NT, _, kept = token_log_probs(
                self.decoder, self.encode(images), *captions.framed(), keep
            )
        B, K, _ = captions.token_BKT.shape
        kept = {name: tensor.unflatten(0, (B, K)) for name, tensor in kept.items()}
        return log_prob_NT.view_as(captions.token_BKT), kept

    def texts(
        self, captions: search.Captions, log_prob_BKT: Tensor | None = None
    ) -> list[list[Hypothesis]]:
        """The hypotheses for each image as text, best first; none for an image with an error.

        log_prob_BKT: log-probabilities of their tokens (see `trace`), to be handed on.
        """
        token_BKT = captions.token_BKT.tolist()
        scores, log_probs = captions.score_BK.tolist(), captions.log_prob_BK.tolist()
        of_tokens = None if log_prob_BKT is None else log_prob_BKT.tolist()

        def hypothesis(b: int, k: int) -> Hypothesis:
            ids = [i for i in token_BKT[b][k] if i != PAD]
            units = (self.tokenizer.units[i] for i in ids)
            tokens = None if of_tokens is None else list(zip(units, of_tokens[b][k]))
            return Hypothesis(self.tokenizer.decode(ids), scores[b][k], log_probs[b][k], tokens)

        return [
            [hypothesis(b, k) for k, score in enumerate(row) if score > -torch.inf]
            for b, row in enumerate(scores)
        ]

    @overload
    def caption(self, pictures: images.Source, *args: Any, **options: Any) -> Caption: ...  # type: ignore[overload-overlap]

    @overload
    def caption(
        self, pictures: Iterable[images.Source], *args: Any, **options: Any
    ) -> list[Caption]: ...

    def caption(
        self,
        pictures: images.Source | Iterable[images.Source],
        strategy: search.Strategy | None = None,
        batch_size: int = 16,
        constraints: Constraints = UNCONSTRAINED,
        tokens: bool = False,
    ) -> Caption | list[Caption]:
        """The Caption of a picture, or a list of those of many, in their order.

        A picture is a path, the bytes of a file, a PIL image, or an array (H, W, 3) of uint8. A bad
        one gives a Caption with `error` set. Raises InputError for anything else.
        """
        is_stack = isinstance(pictures, np.ndarray) and pictures.ndim == 4
        one = isinstance(pictures, images.Source) and not is_stack
        many: Any = [pictures] if one else pictures
        no_list = isinstance(many, Mapping | Tensor) or hasattr(many, "read")
        if no_list or not isinstance(many, Iterable):
            kinds = "a path, bytes, a PIL image, an array, or a list of these"
            raise InputError(f"{type(many).__name__}: give {kinds}")
        captions = list(self.caption_stream(many, strategy, batch_size, constraints, tokens))
        return captions[0] if one else captions

    def caption_stream(
        self,
        pictures: Iterable[images.Source],
        strategy: search.Strategy | None = None,
        batch_size: int = 16,
        constraints: Constraints = UNCONSTRAINED,
        tokens: bool = False,
    ) -> Iterator[Caption]:
        """Yield captions one by one, as they are made, for any number of pictures (see `caption`).

        The next pictures are read while a batch is captioned. If `pictures` is an iterator that
        gives none for a while, such as the lines of a terminal, a batch does not wait to be
        complete. tokens: whether each hypothesis lists its tokens with their log-probabilities.
        """
        self.eval()
        if batch_size < 1:
            raise InputError(f"batch_size={batch_size}: give 1 or more")
        number = 0
        numbered: Iterable[tuple[int, images.Source]] = enumerate(pictures, 1)
        if isinstance(pictures, Collection):
            numbered = list(numbered)  # all there: every batch is complete
        with closing(prefetch_batches(self._open, numbered, batch_size, READERS)) as batches:
            for batch in batches:
                readable = {
                    n: picture
                    for n, (_, picture) in enumerate(batch, number)
                    if not isinstance(picture, images.ImageError)
                }
                number += len(batch)
                results: Iterator[tuple[list[Hypothesis], str | None, SureConcept | None]] = iter(
                    ()
                )
                if readable:
                    with torch.inference_mode():
                        features = self.encode(_stack(list(readable.values())))
                    captions = self.generate(features, strategy, list(readable), constraints)
                    log_probs = self.trace(features, captions)[0] if tokens else None
                    forced_B = self._forced(features, captions, strategy or self.strategy)
                    results = zip(self.texts(captions, log_probs), captions.error_B, forced_B)
                for path, picture in batch:
                    if isinstance(picture, images.ImageError):
                        yield Caption(path, None, None, str(picture))
                        continue
                    hypotheses, error, forced = next(results)
                    if error is None:
                        yield Caption(path, *hypotheses[0][:2], None, hypotheses, forced)
                    else:
                        yield Caption(path, None, None, f"{printable(path)}: {error}")

    def _forced(
        self, features: Features | PerMember, captions: search.Captions, strategy: search.Strategy
    ) -> list[SureConcept | None]:
        """The concept that each image's captions were made to name, if any."""
        if not (isinstance(strategy, search.Guided) and any(captions.forced_B)):
            return [None] * len(captions.error_B)
        sure_B = self.sure_concepts(features, strategy.threshold)
        return [sure if forced else None for sure, forced in zip(sure_B, captions.forced_B)]

    def _open(
        self, numbered: tuple[int, images.Source]
    ) -> tuple[str, Tensor | PerMember | images.ImageError]:
        number, picture = numbered
        named = isinstance(picture, str | os.PathLike)
        name = os.fsdecode(picture) if named else f"picture {number}"  # type: ignore[arg-type]
        try:
            return name, self.encoder.preprocess(images.read_image(picture, name))
        except images.ImageError as error:
            return name, error

    def save(
        self, folder: str | Path, dtype: torch.dtype = torch.float32, encoder: bool = True
    ) -> None:
        """Write the model directory, with the options of its search.

        encoder: whether to write the CNN's weights; if not, the config must say where they come
        from, and a digest is kept. Raises InputError for an ensemble or a foreign strategy.
        """
        if isinstance(self.encoder, Encoders):
            raise InputError("an ensemble is not saved as one: save its members")
        if not isinstance(self.strategy, search.STRATEGIES):
            raise InputError(f"{self.strategy}: only the strategies of captioner.search are saved")
        config = self.config | {"preprocess": asdict(self.encoder.preprocess)}
        config["search"] = self.strategy.options()
        write_model(self, Path(folder), config, dtype, None if encoder else self.encoder.weights())


def build_captioner(
    config: dict[str, Any],
    tokenizer: tokenizers.Tokenizer,
    bounding: Callable[[str], AbstractContextManager] = nullcontext,
) -> CaptionModel:
    """{"encoder": {"_target_": .., ..}, "decoder": {..}} -> a model with fresh decoder weights.

    bounding: gives the context in which the "encoder" or "decoder" is made (see `Contents`).
    Raises InputError for a foreign class or option.
    """
    with bounding("encoder"):
        encoder = instantiate(config["encoder"], "captioner.encoders", CNN)
    sizes = {"vocab_size": len(tokenizer), "feature_size": encoder.size}
    with bounding("decoder"):
        decoder = instantiate(config["decoder"], "captioner.decoders", Decoder, **sizes)
    return CaptionModel(encoder, decoder, tokenizer, config)


def _stack(pixels: Sequence[Any]) -> Any:
    if isinstance(pixels[0], PerMember):
        return PerMember(images.stack(entries) for entries in zip(*pixels))
    return images.stack(pixels)
