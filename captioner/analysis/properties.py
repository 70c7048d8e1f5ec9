"""What a unit of a network might keep track of: properties of each place in a text or a caption.

A value belongs to a place after the character (or word) there was read. 0 and 1, or a number; NaN
where the property says nothing.
"""

import re
from collections.abc import Sequence

import numpy as np

from captioner.metrics.chair import mentions

Values = dict[str, np.ndarray]

PYTHON = re.compile(
    r"(?P<string>\b[rbuf]{0,2}(?:'''(?:\\.|[^\\])*?'''|\"\"\"(?:\\.|[^\\])*?\"\"\"|"
    r"'(?:\\.|[^'\\\n])*'|\"(?:\\.|[^\"\\\n])*\")|"
    r"(?<![\w'\"])(?:'''(?:\\.|[^\\])*?'''|\"\"\"(?:\\.|[^\\])*?\"\"\"|"
    r"'(?:\\.|[^'\\\n])*'|\"(?:\\.|[^\"\\\n])*\"))|(?P<comment>#[^\n]*)",
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
    """Of each character. code: whether it is Python, so that strings, comments, conditions and
    indentation are known; else quotes are those of prose."""
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
        return values | {"inside quotes": _marked(text, [m.span() for m in QUOTES.finditer(text)])}
    found = list(PYTHON.finditer(text))
    strings = [m.span() for m in found if m.lastgroup == "string"]
    comments = [m.span() for m in found if m.lastgroup == "comment"]
    inside = _marked(text, strings, 0) + _marked(text, comments, 0)
    bare = "".join(" " if i and c != "\n" else c for c, i in zip(text, inside))
    values["inside a string"] = _marked(text, strings)
    values["inside a comment"] = _marked(text, comments, 0)
    values["inside a string or a comment"] = np.maximum(
        values["inside a string"], values["inside a comment"]
    )
    values["inside the condition of an if"] = _marked(
        text, [m.span() for m in CONDITION.finditer(bare)]
    )
    values["indentation of the line"] = _indentation(text)
    depth = np.cumsum([(c in "([{") - (c in ")]}") for c in bare]) if bare else np.zeros(0)
    values["depth of brackets"] = np.maximum(depth, 0).astype(float)
    return values


def _marked(text: str, spans: Sequence[tuple[int, int]], closing: int = 1) -> np.ndarray:
    """1 inside, from the opening mark on; when the closing one was read, it is over."""
    value = np.zeros(len(text))
    for begin, end in spans:
        value[begin : max(begin + 1, end - closing)] = 1
    return value


def _indentation(text: str) -> np.ndarray:
    """Of each line, once its first other character was read; NaN before, and in empty lines."""
    value = np.full(len(text), np.nan)
    at = 0
    for line in text.split("\n"):
        depth = len(line) - len(line.lstrip(" "))
        if line.strip():
            value[at + depth : at + len(line)] = depth
        at += len(line) + 1
    return value


def of_caption(words: Sequence[str], references: Sequence[str], objects: Sequence[str]) -> Values:
    """Of each word of a caption of a picture with these references. objects: COCO categories whose
    presence in the picture, by what the references mention, is a property each."""
    seen = {name for reference in references for name in mentions(reference)}
    T = len(words)

    def among(some: set[str]) -> np.ndarray:
        return np.array([float(word in some) for word in words])

    return {
        "position in the sentence": np.arange(T).astype(float),
        "an article": among(ARTICLES),
        "a preposition": among(PREPOSITIONS),
        "a colour": among(COLOURS),
        "a number": among(NUMBERS),
        "a verb in -ing": np.array([float(w.endswith("ing") and len(w) > 4) for w in words]),
        "an object": np.array([float(bool(mentions(word))) for word in words]),
        **{f"{name} in the picture": np.full(T, float(name in seen)) for name in objects},
    }
