"""What captions may and must contain, in words: a tokenizer turns it into rules."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from captioner.errors import InputError
from captioner.search import rules
from captioner.search.include import MustInclude
from captioner.search.rules import Rule
from captioner.tokenizers import Tokenizer
from captioner.types import UNK


@dataclass
class Constraints:
    """Rules for any strategy (captioner/search/rules.py), and words that beam search must include.

    min_length, max_length: in words. no_repeat: no word twice in a row. no_repeated_ngram: n: no n
    words in a row twice. unk: whether the unknown word may occur. forbid: words and phrases that
    may not; endings: words that no caption ends with; begin: words that every caption begins with;
    include: words and phrases that every caption contains. forbid_in, include_in: the same for
    single images, by their number in the input (0, 1, 2 ...).
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

    def rules(self, tokenizer: Tokenizer, image_numbers: Sequence[int] | None = None) -> list[Rule]:
        """The rules as a strategy takes them, for the images of these numbers (default: all).

        Raises InputError for a word that is not known.
        """
        result = [] if self.unk else [rules.forbid(UNK)]
        result += [rules.min_length(self.min_length)] if self.min_length else []
        result += [] if self.max_length is None else [rules.max_length(self.max_length)]
        result += [rules.no_repeat()] if self.no_repeat else []
        n = self.no_repeated_ngram
        result += [] if n is None else [rules.no_repeated_ngram(n)]
        if self.forbid or self.forbid_in:
            in_image = self._in_image("forbid_in", tokenizer, image_numbers)
            phrases = _phrases("forbid", self.forbid, tokenizer)
            result.append(rules.forbid(*phrases, in_image=in_image))
        if self.endings:
            words = _phrases("endings", self.endings, tokenizer)
            if any(len(word) > 1 for word in words):
                raise InputError(f"constraints.endings={list(self.endings)}: give single words")
            result.append(rules.no_ending(*(word[0] for word in words)))
        if self.begin:
            result.append(rules.begin(*_phrases("begin", [self.begin], tokenizer)[0]))
        return result

    def must_include(
        self,
        tokenizer: Tokenizer,
        image_numbers: Sequence[int] | None = None,
        any_of: Mapping[int, Sequence[str]] | None = None,
    ) -> MustInclude | None:
        """The words that captions must include, as a strategy takes them; None without any.

        any_of: words of which captions of an image must include one besides, by its number.
        """
        if not (self.include or self.include_in or any_of):
            return None
        in_image = self._in_image("include_in", tokenizer, image_numbers)
        choices = {i: _phrases("include", words, tokenizer) for i, words in (any_of or {}).items()}
        phrases = _phrases("include", self.include, tokenizer)
        return MustInclude(*phrases, in_image=in_image, any_of=choices)

    def _in_image(self, name, tokenizer, image_numbers) -> dict[int, list[tuple[int, ...]]]:
        texts = getattr(self, name)
        numbers = texts if image_numbers is None else [i for i in image_numbers if i in texts]
        return {number: _phrases(name, texts[number], tokenizer) for number in numbers}


UNCONSTRAINED = Constraints()
"""Any caption of at least one word, without the unknown word."""


def _phrases(name: str, texts: Sequence[str], tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    phrases = []
    for text in texts:
        option, units = f"constraints.{name}={text!r}", tokenizer.split(text)
        if unknown := [unit for unit in units if unit not in tokenizer.ids]:
            raise InputError(f"{option}: the model does not know {unknown[0]!r}: leave it out")
        if not units:
            raise InputError(f"{option}: there is no word in it")
        phrases.append(tuple(tokenizer.encode(text)))
    return phrases
