"""What captions may and must say, in words: a tokenizer makes rules of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from captioner.errors import InputError
from captioner.search import rules
from captioner.search.rules import Include, Rule
from captioner.tokenizers import Tokenizer
from captioner.types import UNK


@dataclass
class Constraints:
    """Rules for any strategy (captioner/search/rules.py), and what beam search must say.

    min_length, max_length: in words. no_repeat: no word twice in a row. no_repeated_ngram: n, of n
    words that are not said again. unk: whether the unknown word may be said. forbid: words and
    phrases that are not; endings: words that no caption ends with; begin: words that every
    caption begins with; include: words and phrases that every caption says. forbid_in, include_in:
    the same for single pictures, by their number in what is given (0, 1, 2 ...).
    """

    min_length: int = 1
    max_length: int | None = None
    no_repeat: bool = False
    no_repeated_ngram: int | None = None
    unk: bool = False
    forbid: list[str] = field(default_factory=list)
    endings: list[str] = field(default_factory=list)
    begin: str = ""
    include: list[str] = field(default_factory=list)
    forbid_in: dict[int, list[str]] = field(default_factory=dict)
    include_in: dict[int, list[str]] = field(default_factory=dict)

    def rules(self, tokenizer: Tokenizer, numbers: Sequence[int] | None = None) -> list[Rule]:
        """The rules as a strategy takes them, for the pictures of these numbers (default: all).

        Raises InputError for a word that is not known.
        """
        made = [] if self.unk else [rules.forbid(UNK)]
        made += [rules.min_length(self.min_length)] if self.min_length else []
        made += [] if self.max_length is None else [rules.max_length(self.max_length)]
        made += [rules.no_repeat()] if self.no_repeat else []
        if self.no_repeated_ngram is not None:
            made.append(rules.no_repeated_ngram(self.no_repeated_ngram))
        if self.forbid or self.forbid_in:
            own = _own("forbid_in", self.forbid_in, tokenizer, numbers)
            everywhere = _phrases("forbid", self.forbid, tokenizer)
            made.append(rules.forbid(*everywhere, in_image=own))
        if self.endings:
            words = _phrases("endings", self.endings, tokenizer)
            if any(len(word) > 1 for word in words):
                raise InputError(f"wording.endings={list(self.endings)}: give single words")
            made.append(rules.no_ending(*(word[0] for word in words)))
        if self.begin:
            made.append(rules.begin(*_phrases("begin", [self.begin], tokenizer)[0]))
        return made

    def progress(
        self, tokenizer: Tokenizer, numbers: Sequence[int] | None = None
    ) -> Include | None:
        """What must be said, or None where nothing must."""
        if not (self.include or self.include_in):
            return None
        own = _own("include_in", self.include_in, tokenizer, numbers)
        return Include(*_phrases("include", self.include, tokenizer), in_image=own)


UNCONSTRAINED = Constraints()
"""Anything but the unknown word, and nothing at all."""


def _own(
    name: str,
    texts: Mapping[int, Sequence[str]],
    tokenizer: Tokenizer,
    numbers: Sequence[int] | None,
) -> dict[int, list[tuple[int, ...]]]:
    chosen = texts if numbers is None else [number for number in numbers if number in texts]
    return {number: _phrases(name, texts[number], tokenizer) for number in chosen}


def _phrases(name: str, texts: Sequence[str], tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    phrases = []
    for text in texts:
        ids = tuple(tokenizer.encode(text))
        unknown = [unit for unit in tokenizer.split(text) if unit not in tokenizer.ids]
        if unknown:
            raise InputError(
                f"wording.{name}={text!r}: the model does not know {unknown[0]!r}: leave it out"
            )
        if not ids:
            raise InputError(f"wording.{name}={text!r}: there is no word in it")
        phrases.append(ids)
    return phrases
