"""CaptionModel: encoder, decoder and tokenizer together; built from JSON, saved, loaded, used.

A model directory holds `config.json`, `tokenizer.json` and `model.safetensors`, nothing else is
read, and nothing in it is executed: classes are those of `captioner.encoders` and
`captioner.decoders`, weights are plain tensors.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from captioner import files, images, search, tokenizers
from captioner.beam import LogSoftmax
from captioner.decoders.base import Decoder
from captioner.decoders.ensemble import Ensemble
from captioner.encoders import CNN, Encoders
from captioner.readers import ahead
from captioner.targets import make
from captioner.types import BOS, PAD, Features, InputError, Many, shown
from captioner.wording import PLAIN, Wording

FORMAT = 1
READERS = 4
"""Threads that open pictures ahead of the CNN."""
FILES = ("config.json", "tokenizer.json", "model.safetensors")


class Said(NamedTuple):
    """A caption, what it was ranked by, its log-probability, and on request those of its tokens."""

    caption: str
    score: float
    log_prob: float
    tokens: list[tuple[str, float]] | None = None


class Caption(NamedTuple):
    """What became of one picture: a caption and its score, or the error that prevented it.

    said: all that the search found for it, best first.
    """

    path: str
    caption: str | None
    score: float | None
    error: str | None = None
    said: Sequence[Said] = ()


class CaptionModel(nn.Module):
    """encoder -> decoder.start -> decoder.step -> decoder.step -> ... -> END.

    config: what `build` made it from; saved with it. An ensemble has none, and Many in place of
    pixels and Features.
    """

    def __init__(
        self,
        encoder: CNN | Encoders,
        decoder: Decoder,
        tokenizer: tokenizers.Tokenizer,
        config: dict[str, Any],
    ):
        super().__init__()
        self.encoder, self.decoder, self.tokenizer = encoder, decoder, tokenizer
        self.config = config

    def encode(self, images: Tensor | Features | Many) -> Features:
        """Pixels (B, 3, S, S) -> Features; features from a cache are handed on.

        Either is brought to the model's device and floating point type first.
        """
        weight = next(self.decoder.parameters())
        images = images.to(weight.device, weight.dtype)
        if isinstance(images, Features):
            return images
        return self.encoder(images, grid=self.decoder.uses_grid)

    def generate(
        self,
        images: Tensor | Features | Many,
        strategy: search.Strategy,
        numbers: Sequence[int] | None = None,
        wording: Wording = PLAIN,
    ) -> search.Captions:
        """Captions of B images as ids; by default without the unknown word, of one word at least.

        numbers: which images these are, so that sampling does not depend on their batch; and for
        what `wording` says of single images.
        """
        with torch.inference_mode():
            features = self.encode(images)
            memory, state = self.decoder.start(features, _count(features) * strategy.rows)
            return strategy(
                self.decoder.step,
                memory,
                state,
                wording.rules(self.tokenizer),
                numbers,
                wording.progress(self.tokenizer),
            )

    def trace(
        self,
        images: Tensor | Features | Many,
        captions: search.Captions,
        keep: Sequence[str] = (),
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """log_prob_BKT of the tokens of captions of these images, 0 behind their end, and what the
        decoder keeps, by name ("alpha", "h0" ..), (B, K, T, ...): one `forward` over all of them.
        """
        B, K, T = captions.token_BKT.shape
        target_NT = captions.token_BKT.flatten(0, 1)
        said_NT = target_NT != PAD
        token_NT = torch.cat([torch.full_like(target_NT[:, :1], BOS), target_NT[:, :-1]], dim=1)
        token_NT = token_NT.masked_fill(~said_NT, PAD)
        with torch.inference_mode():
            memory, state = self.decoder.start(self.encode(images), B * K)
            logits_PV, _, kept = self.decoder(token_NT, said_NT.sum(1), memory, state, keep)
            log_prob_PV = LogSoftmax()(logits_PV)
        log_prob_NT = log_prob_PV.new_zeros(said_NT.shape)
        log_prob_NT[said_NT] = log_prob_PV.gather(1, target_NT[said_NT][:, None])[:, 0]
        return log_prob_NT.view(B, K, T), {
            name: tensor.unflatten(0, (B, K)) for name, tensor in kept.items()
        }

    def texts(
        self, captions: search.Captions, log_prob_BKT: Tensor | None = None
    ) -> list[list[Said]]:
        """What was found for each image, best first; nothing for one with an error.

        log_prob_BKT: of the tokens (see `trace`), to be handed on.
        """
        token_BKT = captions.token_BKT.tolist()
        scores, log_probs = captions.score_BK.tolist(), captions.log_prob_BK.tolist()
        own = None if log_prob_BKT is None else log_prob_BKT.tolist()

        def said(b: int, k: int) -> Said:
            ids = [i for i in token_BKT[b][k] if i != PAD]
            tokens = own and list(zip((self.tokenizer.units[i] for i in ids), own[b][k]))
            return Said(self.tokenizer.decode(ids), scores[b][k], log_probs[b][k], tokens)

        return [
            [said(b, k) for k, score in enumerate(row) if score > -torch.inf]
            for b, row in enumerate(scores)
        ]

    def caption(
        self,
        paths: Iterable[str | Path],
        strategy: search.Strategy | None = None,
        batch_size: int = 16,
        wording: Wording = PLAIN,
        tokens: bool = False,
    ) -> list[Caption]:
        """One Caption for each path, in their order; a bad picture gives one with `error` set."""
        return list(self.caption_stream(paths, strategy, batch_size, wording, tokens))

    def caption_stream(
        self,
        paths: Iterable[str | Path],
        strategy: search.Strategy | None = None,
        batch_size: int = 16,
        wording: Wording = PLAIN,
        tokens: bool = False,
    ) -> Iterator[Caption]:
        """The same one by one, as they are made, for any number of paths.

        tokens: whether the log-probabilities of the tokens are wanted.
        """
        self.eval()
        strategy = strategy or search.Beam()
        if batch_size < 1:
            raise InputError(f"batch_size={batch_size}: give 1 or more")
        opened, begun = ahead(self._open, map(str, paths), READERS), 0
        while batch := list(islice(opened, batch_size)):
            good = {n: p for n, (_, p) in enumerate(batch, begun) if not isinstance(p, InputError)}
            begun += len(batch)
            results: Iterator[tuple[list[Said], str | None]] = iter(())
            if good:
                with torch.inference_mode():
                    features = self.encode(_stack(list(good.values())))
                captions = self.generate(features, strategy, list(good), wording)
                log_probs = self.trace(features, captions)[0] if tokens else None
                results = zip(self.texts(captions, log_probs), captions.error_B)
            for path, picture in batch:
                if isinstance(picture, InputError):
                    yield Caption(path, None, None, str(picture))
                    continue
                said, error = next(results)
                if error is None:
                    yield Caption(path, said[0].caption, said[0].score, None, said)
                else:
                    yield Caption(path, None, None, f"{shown(path)}: {error}")

    def _open(self, path: str) -> tuple[str, Tensor | Many | InputError]:
        try:
            return path, self.encoder.preprocess(images.read(path))
        except InputError as error:
            return path, error

    def save(self, folder: str | Path) -> None:
        """Writes the model directory; an existing one is replaced file by file.

        The weights carry a digest of their tokenizer, so that words and weights cannot be parted.
        """
        if isinstance(self.encoder, Encoders):
            raise InputError("an ensemble is not saved as one: save its members")
        folder = Path(folder)
        files.make_folder(folder)
        config = {
            "format": FORMAT,
            **self.config,
            "preprocess": asdict(self.encoder.preprocess),
        }
        # Always float32, whatever was trained in, so that a model has one precision.
        tensors = {
            name: (tensor.float() if tensor.is_floating_point() else tensor).cpu().contiguous()
            for name, tensor in self.state_dict().items()
        }
        contents: dict[str, str | bytes] = {
            "config.json": json.dumps(config, indent=2) + "\n",
            "tokenizer.json": self.tokenizer.to_json(),
            "model.safetensors": safetensors.torch.save(
                tensors, {"tokenizer": self.tokenizer.digest()}
            ),
        }
        for name in FILES:
            files.write(folder / name, contents[name])


def build(config: dict[str, Any], tokenizer: tokenizers.Tokenizer) -> CaptionModel:
    """{"encoder": {"_target_": .., ..}, "decoder": {..}} -> a model with fresh decoder weights.

    Raises InputError for a class outside captioner.encoders and captioner.decoders, and for an
    option that the class does not have.
    """
    encoder = make(config["encoder"], "captioner.encoders", CNN)
    decoder = make(
        config["decoder"],
        "captioner.decoders",
        Decoder,
        vocab_size=len(tokenizer),
        feature_size=encoder.size,
    )
    return CaptionModel(encoder, decoder, tokenizer, config)


def load(*folders: str | Path, average: str = "log_prob") -> CaptionModel:
    """Reads what `CaptionModel.save` wrote, in evaluation mode; several folders as an ensemble.

    average: how an ensemble's members are averaged, log_prob or prob. Raises InputError naming the
    file and the key, where one is missing, foreign or broken, or the tokenizers are not equal.
    """
    if not folders:
        raise InputError("no model: give a model directory, or several")
    members = []
    for folder in folders:
        try:
            members.append(_load(Path(folder)))
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"{shown(error.filename or folder)}: {reason}") from error
        if members[-1].tokenizer.digest() != members[0].tokenizer.digest():
            raise InputError(
                f"{shown(folder)}: its tokenizer.json is not that of {shown(folders[0])}: an "
                "ensemble needs one"
            )
    if len(members) == 1:
        return members[0]
    encoder = Encoders([member.encoder for member in members])  # type: ignore[misc]
    decoder = Ensemble([member.decoder for member in members], average)
    return CaptionModel(encoder, decoder, members[0].tokenizer, {}).eval()


def is_model(folder: str | Path) -> bool:
    """Whether it looks like what `CaptionModel.save` wrote."""
    return all((Path(folder) / name).is_file() for name in FILES)


def _count(features: Features | Many) -> int:
    one = features[0] if isinstance(features, Many) else features
    return len(one.pooled_BD)


def _stack(pixels: Sequence[Any]) -> Any:
    if isinstance(pixels[0], Many):
        return Many(images.stack(entries) for entries in zip(*pixels))
    return images.stack(pixels)


def _load(folder: Path) -> CaptionModel:
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"{shown(folder)}: not a model directory, it has no {' and no '.join(missing)}; "
            "give the folder model/ of a run"
        )
    path = folder / "config.json"
    config = _read_config(path)
    try:
        preprocess = images.Preprocess(**config.pop("preprocess"))
    except (TypeError, InputError) as error:
        raise InputError(f"{path}: preprocess: {error}") from error
    source = {"pretrained": False, "weights": None}  # the weights are in this directory
    encoder = {k: source.get(k, v) for k, v in config["encoder"].items()}
    tokenizer = tokenizers.load(folder / FILES[1])
    try:
        model = build({"encoder": encoder, "decoder": config["decoder"]}, tokenizer)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    model.config = config
    model.encoder.preprocess = preprocess  # type: ignore[method-assign]
    _load_tensors(model, folder / "model.safetensors")
    return model.eval()


def _read_config(path: Path) -> dict[str, dict[str, Any]]:
    """The objects encoder, decoder and preprocess of a config.json."""
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{path}: not readable as JSON ({error}): copy it again") from error
    if not isinstance(saved, dict):
        raise InputError(f"{path}: not an object with format, encoder, decoder and preprocess")
    for key in ("format", "encoder", "decoder", "preprocess"):
        if key not in saved:
            raise InputError(f"{path}: the key {key!r} is missing: copy it again")
        if key != "format" and not isinstance(saved[key], dict):
            raise InputError(f"{path}: {key} is {saved[key]!r:.60}; it must be an object")
    if saved["format"] != FORMAT:
        raise InputError(
            f"{path}: format {saved['format']!r:.60}, this version reads {FORMAT}: use the version "
            "of captioner that wrote it"
        )
    return {key: saved[key] for key in ("encoder", "decoder", "preprocess")}


def _load_tensors(model: CaptionModel, path: Path) -> None:
    path.open("rb").close()  # for the system's own error
    try:
        with safe_open(path, "pt") as file:
            digest = (file.metadata() or {}).get("tokenizer")
        tensors = safetensors.torch.load_file(path)
    except SafetensorError as error:
        raise InputError(
            f"{path}: not a whole safetensors file ({error}): copy it again"
        ) from error
    if digest != model.tokenizer.digest():
        raise InputError(
            f"{path}: was not trained with the tokenizer.json beside it: take both from one run"
        )
    wanted = model.state_dict()
    wrong = [f"{key} is missing" for key in wanted if key not in tensors]
    wrong += [f"{key} is foreign" for key in tensors if key not in wanted]
    wrong += [
        f"{key} has shape {tuple(tensor.shape)}, not {tuple(wanted[key].shape)}"
        for key, tensor in tensors.items()
        if key in wanted and tensor.shape != wanted[key].shape
    ]
    if wrong:
        raise InputError(
            f"{path}: does not fit its config.json: {'; '.join(wrong[:5])}"
            + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else "")
            + ": take both from one run"
        )
    for key, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise InputError(
                f"{path}: {key} holds values that are not finite: its training diverged; "
                "train again with a lower learning rate"
            )
    model.load_state_dict(tensors)
