"""Properties of each place in a text or a caption that a unit of a network might keep track of.

A value belongs to the state after the character (or word) at its place was read: 0 or 1, a number,
or NaN where the property has no value.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np

from captioner.metrics.chair import mentions

Values = dict[str, np.ndarray]

LITERAL = r"""(?:'''(?:\\.|[^\\])*?'''|\"\"\"(?:\\.|[^\\])*?\"\"\""""
LITERAL += r"""|'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*")"""
PYTHON = re.compile(
    rf"(?P<string>\b[rbuf]{{0,2}}{LITERAL}|(?<![\w'\"]){LITERAL})|(?P<comment>#[^\n]*)",
    re.DOTALL | re.IGNORECASE,
)
CONDITION = re.compile(r"\b(?:el)?if\b[^\n:]*:")
QUOTES = re.compile(r"\"[^\"]{1,2000}?\"|\u201c[^\u201d]{1,2000}?\u201d")

ARTICLES = {"a", "an", "the"}
PREPOSITIONS = {"in", "on", "with", "of", "at", "through", "near", "by", "over", "under", "into"}
PREPOSITIONS |= {"behind", "from", "to", "along", "across", "beside", "against", "around", "down"}
COLOURS = {"red", "blue", "green", "yellow", "black", "white", "brown", "orange", "pink", "purple"}
COLOURS |= {"gray", "grey", "tan"}
NUMBERS = {"one", "two", "three", "four", "five", "six", "several", "many"}


def of_text(text: str, code: bool) -> Values:
    """The properties of each character.

    code: the text is Python, with strings, comments, conditions and indentation; else it is prose,
    with quotes.
    """
    lines = [len(line) for line in text.split("\n")]
    starts = np.repeat(np.cumsum([0, *(n + 1 for n in lines[:-1])]), [n + 1 for n in lines])
    column = (np.arange(len(text) + 1) - starts)[: len(text)].astype(float)
    letter = np.array([character.isalnum() for character in text], dtype=bool)
    ends = letter & ~np.append(letter[1:], False)
    values: Values = {
        "position in the line": column,
        "last letter of a word": np.where(letter, ends.astype(float), np.nan),
    }
    if not code:
        return values | {"inside quotes": _marked(text, QUOTES.finditer(text))}
    tokens = list(PYTHON.finditer(text))
    strings = [token for token in tokens if token.lastgroup == "string"]
    string = _marked(text, strings)
    comment = _marked(text, (token for token in tokens if token.lastgroup == "comment"), 0)
    hidden = _marked(text, strings, 0) + comment
    bare = "".join(" " if i and c != "\n" else c for c, i in zip(text, hidden))
    depth = np.cumsum([(c in "([{") - (c in ")]}") for c in bare])
    return values | {
        "inside a string": string,
        "inside a comment": comment,
        "inside a string or a comment": np.maximum(string, comment),
        "inside the condition of an if": _marked(text, CONDITION.finditer(bare)),
        "indentation of the line": _indentation(text),
        "depth of brackets": np.maximum(depth, 0).astype(float),
    }


def _marked(text: str, matches: Iterable[re.Match[str]], closing: int = 1) -> np.ndarray:
    """1 inside the matches: from the opening mark on, until the closing one is read."""
    value = np.zeros(len(text))
    for match in matches:
        value[match.start() : max(match.start() + 1, match.end() - closing)] = 1
    return value


def _indentation(text: str) -> np.ndarray:
    """The indentation of the line, once it is known; NaN before, and in empty lines."""
    value = np.full(len(text), np.nan)
    at = 0
    for line in text.split("\n"):
        depth = len(line) - len(line.lstrip(" "))
        if line.strip():
            value[at + depth : at + len(line)] = depth
        at += len(line) + 1
    return value


def of_caption(words: Sequence[str], references: Sequence[str], objects: Sequence[str]) -> Values:
    """The properties of each word of a caption.

    references: of the picture; the COCO categories that they mention are in the picture. objects:
    the categories whose presence is a property.
    """
    shown, T = {*chain(*map(mentions, references))}, len(words)

    def among(class_words: set[str]) -> np.ndarray:
        return np.array([float(word in class_words) for word in words])

    return {
        "position in the sentence": np.arange(T).astype(float),
        "an article": among(ARTICLES),
        "a preposition": among(PREPOSITIONS),
        "a colour": among(COLOURS),
        "a number": among(NUMBERS),
        "a verb in -ing": np.array([float(w.endswith("ing") and len(w) > 4) for w in words]),
        "an object": np.array([float(bool(mentions(word))) for word in words]),
        **{f"{name} in the picture": np.full(T, float(name in shown)) for name in objects},
    }
