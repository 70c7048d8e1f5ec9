"""Tokenizers: text <-> ids. A model directory holds one as JSON, beside the weights.

Ids 0 to 3 are pad, bos, eos and unk (types.py); the units follow, the most frequent first.
"""

import hashlib
import json
import re
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import Path

import torch
from torch import Tensor

from captioner.errors import InputError, is_encodable, read_json
from captioner.instantiate import construct
from captioner.metrics import tokenize
from captioner.types import BOS, EOS, PAD, UNK

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
CLITIC = re.compile(r" ('s|'re|'ve|'ll|'d|'m|n't)\b")


class Tokenizer(ABC):
    """A vocabulary of `units` (words or characters) and the way text is split into them.

    max_length: number of units of a training caption; longer ones are cut off.
    """

    kind: str
    version: str

    def __init__(self, units: Sequence[str], max_length: int):
        if not units:
            raise InputError("the vocabulary is empty: lower tokenizer.min_count, or add captions")
        if special := sorted(set(units) & set(SPECIAL)):
            raise InputError(f"{special[0]} is a special token: take it out of the captions")
        if broken := [unit for unit in units if not is_encodable(unit)]:
            raise InputError(f"the vocabulary holds half a character, {broken[0]!r}: take it out")
        unit, count = Counter(units).most_common(1)[0]
        if count > 1:
            raise InputError(f"the vocabulary holds {unit!r} twice: take one of them out")
        if max_length < 1:
            raise InputError(f"tokenizer.max_length={max_length}: give 1 or more")
        self.units, self.max_length = [*SPECIAL, *units], max_length
        self.ids = {unit: i for i, unit in enumerate(self.units)}

    def __len__(self) -> int:
        return len(self.units)

    @classmethod
    def train(cls, captions: Iterable[str], min_count: int = 1, max_length: int = 40):
        """Return a tokenizer with the units that occur `min_count` times in training captions.

        Raises InputError if no unit is that frequent.
        """
        counts: Counter[str] = Counter()
        total = joined = 0
        for caption in captions:
            counts.update(cls.split(caption))
            total += 1
            joined += tokenize.without_blanks([caption])
        frequent = [unit for unit, count in counts.items() if count >= min_count]
        if cls.kind == "word" and 2 * joined > total:
            fault = f"{joined} of {total} captions have no blanks between words"
            fault += ": give tokenizer.kind=char metrics_tokenizer=char, or put blanks between them"
            if not frequent:
                raise InputError(f"the vocabulary is empty: {fault}")
            warnings.warn(f"{fault}: now each sentence is one word", stacklevel=2)
        return cls(sorted(frequent, key=lambda unit: (-counts[unit], unit)), max_length)

    @staticmethod
    @abstractmethod
    def split(text: str) -> list[str]:
        """Text -> units."""

    @staticmethod
    @abstractmethod
    def join(units: Sequence[str]) -> str:
        """Units -> text; `split` gives the same units back."""

    def encode(self, text: str) -> list[int]:
        """Text -> ids, unk (3) for units that are not in the vocabulary."""
        return [self.ids.get(unit, UNK) for unit in self.split(text)]

    def targets(self, caption: str) -> list[int]:
        """Return the ids that a decoder learns to predict: with eos, unless cut to max_length."""
        return [*self.encode(caption), EOS][: self.max_length + 1]

    def decode(self, ids: Iterable[int]) -> str:
        """Ids -> text, up to the first eos, without pad and bos."""
        return self.join(self.decode_units(ids))

    def decode_units(self, ids: Iterable[int]) -> list[str]:
        """Ids -> units, up to the first eos, without pad and bos."""
        before_end = takewhile(lambda i: i != EOS, ids)
        return [self.units[i] for i in before_end if i not in (PAD, BOS)]

    def token_string(self, ids: Iterable[int], metrics_tokenizer: str = "ptb") -> str:
        """Return the token string of the metrics for these ids: words joined by spaces."""
        return " ".join(tokenize.TOKENIZERS[metrics_tokenizer](self.decode(ids)))

    def grown(self, other: "Tokenizer") -> "Tokenizer":
        """Return a tokenizer with these units and ids, then the units that only `other` has.

        max_length is that of `other`. Raises InputError if the two split text differently.
        """
        if self.kind != other.kind:
            fault = f"tokenizer.kind={other.kind}: the model to start from has {self.kind}"
            raise InputError(fault)
        new = [unit for unit in other.units if unit not in self.ids]
        return type(self)([*self.units[len(SPECIAL) :], *new], other.max_length)

    def digest(self) -> str:
        """Return a digest that only equal tokenizers share."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """The content of tokenizer.json, which `load_tokenizer` reads."""
        content = {"kind": self.kind, "version": self.version, "max_length": self.max_length}
        content |= {"units": self.units[len(SPECIAL) :]}
        return json.dumps(content, ensure_ascii=False, indent=0)


class Word(Tokenizer):
    """Lower-case words, split by the tokenizer of the metrics, so that rewards and words agree."""

    kind, version = "word", tokenize.VERSION

    @staticmethod
    def split(text: str) -> list[str]:
        return tokenize.tokenize(text)

    def token_string(self, ids: Iterable[int], metrics_tokenizer: str = "ptb") -> str:
        if metrics_tokenizer == "ptb":
            return " ".join(self.decode_units(ids))  # they are its words
        return super().token_string(ids, metrics_tokenizer)

    @staticmethod
    def join(units: Sequence[str]) -> str:
        return CLITIC.sub(r"\1", " ".join(units))


class Char(Tokenizer):
    """Single characters, as they are."""

    kind, version = "char", "1"

    @staticmethod
    def split(text: str) -> list[str]:
        return list(text)

    @staticmethod
    def join(units: Sequence[str]) -> str:
        return "".join(units)


KINDS: dict[str, type[Tokenizer]] = {"word": Word, "char": Char}


def frame(ids_N: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Return rows of ids as token_NT, with bos before each and pad after it, and their length_N.

    If the ids are targets, which end in eos, a decoder reads length_N tokens of a row and predicts
    the next one of each. An empty row is all pad.
    """
    length_N = torch.tensor([len(ids) for ids in ids_N])
    token_NT = torch.full((len(ids_N), int(length_N.max()) + 1), PAD)
    for row, ids in enumerate(ids_N):
        if ids:
            token_NT[row, : len(ids) + 1] = torch.tensor([BOS, *ids])
    return token_NT, length_N


def train_tokenizer(captions: Iterable[str], kind: str = "word", **options: int) -> Tokenizer:
    """Return a tokenizer of this kind (see `Tokenizer.train`, also for the options).

    Raises InputError for an unknown kind or option.
    """
    if kind not in KINDS:
        raise InputError(f"tokenizer.kind={kind}: give one of {', '.join(KINDS)}")
    for name, value in options.items():
        if name not in ("min_count", "max_length"):
            raise InputError(f"tokenizer.{name}: no such option; it has min_count and max_length")
        if type(value) is not int or value < 1:
            raise InputError(f"tokenizer.{name}={value}: give a whole number, 1 or more")
    return KINDS[kind].train(captions, **options)


def load_tokenizer(path: Path) -> Tokenizer:
    """Return the tokenizer that `to_json` wrote. Raises InputError that names file and fault."""
    saved = read_json(path, 2**26)
    try:
        kind = KINDS[saved["kind"]]
        units, max_length = saved["units"], saved["max_length"]
        version = saved["version"]
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path}: not a tokenizer of captioner ({error!r}): take it from the run of the model"
        ) from error
    if version != kind.version:
        raise InputError(
            f"{path}: made by version {version} of the {kind.kind} tokenizer, this is "
            f"version {kind.version}: the words would not mean the same; train again"
        )
    try:
        return construct(kind, {"units": units, "max_length": max_length}, "tokenizer")
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
