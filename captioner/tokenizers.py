"""Text <-> ids. Saved as JSON beside the weights, so that they cannot be parted.

Ids 0 to 3 are pad, bos, eos and unk (types.py); the words follow, most frequent first.
"""

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from captioner.errors import InputError
from captioner.metrics import tokenize
from captioner.types import BOS, EOS, PAD, UNK

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
CLITIC = re.compile(r" ('s|'re|'ve|'ll|'d|'m|n't)\b")


class Tokenizer(ABC):
    """A vocabulary of `units` (words or characters) and the way text is cut into them.

    max_length: units learned of a training caption; what lies behind is cut off.
    """

    kind: str
    version: str

    def __init__(self, units: Sequence[str], max_length: int):
        if not units:
            raise InputError("the vocabulary is empty: lower tokenizer.min_count, or add captions")
        if special := sorted(set(units) & set(SPECIAL)):
            raise InputError(f"{special[0]} is a special token: take it out of the captions")
        if len(set(units)) != len(units):
            twice = next(unit for unit, count in Counter(units).items() if count > 1)
            raise InputError(f"the vocabulary holds {twice!r} twice: take one of them out")
        if max_length < 1:
            raise InputError(f"tokenizer.max_length={max_length}: give 1 or more")
        self.units, self.max_length = [*SPECIAL, *units], max_length
        self.ids = {unit: i for i, unit in enumerate(self.units)}

    def __len__(self) -> int:
        return len(self.units)

    @classmethod
    def train(cls, captions: Iterable[str], min_count: int = 1, max_length: int = 40):
        """The vocabulary of these captions (training captions only): units seen `min_count` times.

        Raises InputError where none is.
        """
        counts = Counter(unit for caption in captions for unit in cls.split(caption))
        kept = [unit for unit, count in counts.items() if count >= min_count]
        return cls(sorted(kept, key=lambda unit: (-counts[unit], unit)), max_length)

    @staticmethod
    @abstractmethod
    def split(text: str) -> list[str]:
        """Text -> units."""

    @staticmethod
    @abstractmethod
    def join(units: Sequence[str]) -> str:
        """Units -> text; `split` gives the same units back."""

    def encode(self, text: str) -> list[int]:
        """Text -> ids, unk (3) for what is not in the vocabulary."""
        return [self.ids.get(unit, UNK) for unit in self.split(text)]

    def targets(self, caption: str) -> list[int]:
        """What a decoder learns to say: the ids and eos. A caption cut to max_length has no eos."""
        return [*self.encode(caption), EOS][: self.max_length + 1]

    def decode(self, ids: Iterable[int]) -> str:
        """Ids -> text, up to the first eos; pad and bos are left out."""
        return self.join(self.said(ids))

    def said(self, ids: Iterable[int]) -> list[str]:
        """The same as units."""
        units = []
        for i in ids:
            if i == EOS:
                break
            if i not in (PAD, BOS):
                units.append(self.units[i])
        return units

    def token_string(self, ids: Iterable[int]) -> str:
        """What the metrics make of the text of these ids: words joined by spaces."""
        return " ".join(tokenize.tokenize(self.decode(ids)))

    def grown(self, other: "Tokenizer") -> "Tokenizer":
        """These units with their ids, then those that only `other` has; its max_length.

        Raises InputError where the two cut text differently.
        """
        if self.kind != other.kind:
            raise InputError(
                f"tokenizer.kind={other.kind}: the model to start from has {self.kind}"
            )
        fresh = [unit for unit in other.units if unit not in self.ids]
        return type(self)([*self.units[len(SPECIAL) :], *fresh], other.max_length)

    def digest(self) -> str:
        """Equal for equal tokenizers only."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """The content of tokenizer.json, which `load_tokenizer` reads."""
        return json.dumps(
            {
                "kind": self.kind,
                "version": self.version,
                "max_length": self.max_length,
                "units": self.units[len(SPECIAL) :],
            },
            ensure_ascii=False,
            indent=0,
        )


class Word(Tokenizer):
    """Lower-case words, split by the metrics' own tokenizer, so that rewards and words agree."""

    kind, version = "word", tokenize.VERSION

    @staticmethod
    def split(text: str) -> list[str]:
        return tokenize.tokenize(text)

    def token_string(self, ids: Iterable[int]) -> str:
        return " ".join(self.said(ids))  # they are the metrics' words

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


def train_tokenizer(captions: Iterable[str], kind: str = "word", **options: int) -> Tokenizer:
    """A tokenizer of this kind. Raises InputError for a kind or an option that there is not."""
    if kind not in KINDS:
        raise InputError(f"tokenizer.kind={kind}: give one of {', '.join(KINDS)}")
    for name, value in options.items():
        if name not in ("min_count", "max_length"):
            raise InputError(f"tokenizer.{name}: no such option; it has min_count and max_length")
        if type(value) is not int or value < 1:
            raise InputError(f"tokenizer.{name}={value}: give a whole number, 1 or more")
    return KINDS[kind].train(captions, **options)


def load_tokenizer(path: Path) -> Tokenizer:
    """Reads what `to_json` wrote. Raises InputError naming the file and what is wrong in it."""
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        kind = KINDS[saved["kind"]]
        units, max_length = saved["units"], saved["max_length"]
        if not all(isinstance(unit, str) for unit in units) or not isinstance(max_length, int):
            raise TypeError("units must be strings and max_length an integer")
        if saved["version"] != kind.version:
            raise InputError(
                f"{path}: made by version {saved['version']} of the {kind.kind} tokenizer, this is "
                f"version {kind.version}: the words would not mean the same; train again"
            )
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InputError(
            f"{path}: not a readable tokenizer file ({error}): copy it again"
        ) from error
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path}: not a tokenizer of captioner ({error!r}): take it from the run of the model"
        ) from error
    try:
        return kind(units, max_length)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
