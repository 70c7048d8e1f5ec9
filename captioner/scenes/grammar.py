"""The grammar of captions of scenes: how a claim is worded, parsed, and when it is true.

"a red circle"        at least one thing of that colour and shape (and size, if given)
"two red circles"     exactly two such things in the picture
several of these      name different things: "a red circle and a red circle" needs two
"three shapes: .."    the picture has three things in all
"small", "large"      it was drawn so: radius 0.065 to 0.08, or 0.12 to 0.14
"at the top"          its centre is in the upper 40%; "at the top left": and in the left 40%;
                      "in the centre": in the inner 20% of both axes
"to the left of"      0.25 or more to that side, and at least twice as far as up or down,
                      between centres; likewise "to the right of", "above", "below"
"in a row"            the group is at least twice as wide as high, between centres;
                      "in a column": twice as high as wide; "in a grid": four things, neither
"on a striped .."     the background was painted with stripes
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import permutations, product
from random import Random
from typing import NamedTuple

import numpy as np

from captioner.scenes.drawing import COLOURS, SHAPES, SIZES, Scene, Thing

NUMBERS = {"a": 1, "two": 2, "three": 3, "four": 4}
PLACES = {
    "top left": ("at the top left", "in the top left corner", "at the upper left"),
    "top right": ("at the top right", "in the top right corner", "at the upper right"),
    "bottom left": ("at the bottom left", "in the bottom left corner", "at the lower left"),
    "bottom right": ("at the bottom right", "in the bottom right corner", "at the lower right"),
    "top": ("at the top", "near the top"),
    "bottom": ("at the bottom", "near the bottom"),
    "centre": ("in the centre", "in the middle"),
}
RELATIONS = {
    "left": ("to the left of", "left of", "on the left of"),
    "right": ("to the right of", "right of", "on the right of"),
    "above": ("above",),
    "below": ("below", "under"),
}
INVERSE = {"left": "right", "right": "left", "above": "below", "below": "above"}
ARRANGEMENTS = {
    "row": ("in a row", "side by side", "next to each other"),
    "column": ("in a column", "one above the other", "in a vertical line"),
    "grid": ("in a grid", "in two rows of two"),
}
BACKGROUNDS = {"stripes": ("striped",), "checks": ("checked", "checkered"), "dots": ("dotted",)}


class Phrase(NamedTuple):
    """The meaning of a noun phrase: "two small red circles" is 2, "small", "red", "circle"."""

    number: int
    size: str | None
    colour: str
    shape: str

    def __str__(self) -> str:
        words = f"{self.size or ''} {self.colour} {self.shape}".strip()
        if self.number == 1:
            return ("an " if words[0] == "o" else "a ") + words
        plural = "es" if self.shape == "cross" else "s"
        return f"{list(NUMBERS)[self.number - 1]} {words}{plural}"


class Meaning(NamedTuple):
    """The meaning of a caption: a claim, such as ("relation", "left"), about its phrases."""

    claim: tuple[str, str]
    phrases: tuple[Phrase, ...]


def _frames() -> dict[tuple[str, str], list[str]]:
    """Return claim -> all its captions, with ONE and MANY in place of phrases."""
    frames: dict[tuple[str, str], list[str]] = defaultdict(list)

    def add(kind: str, value: str, words: Sequence[str], *forms: str) -> None:
        frames[kind, value] += [form.format(word) for form in forms for word in words]

    shown = ("{}", "a picture of {}", "the image shows {}")
    for value, words in PLACES.items():
        add("place", value, [f"ONE {word}" for word in words], *shown, "there is {}")
        add("place", value, words, "ONE {} of the picture", "ONE sits {} of the picture")
        add("place", value, words, "{} there is ONE")
    for value, words in RELATIONS.items():
        add("relation", value, [f"ONE {word} ONE" for word in words], *shown, "there is {}")
        add("relation", value, words, "ONE is {} ONE", "ONE sits {} ONE")
        add("relation", INVERSE[value], words, "ONE with ONE {} it", "there is ONE with ONE {} it")
    for value, words in ARRANGEMENTS.items():
        add("arrangement", value, [f"MANY {word}" for word in words], *shown, "there are {}")
        add("arrangement", value, words, "MANY arranged {}")
        add("arrangement", value, [f"a {value} of MANY"], *shown, "there is {}")
    for value, words in BACKGROUNDS.items():
        for items in ("ONE", "ONE and ONE"):
            add("background", value, [f"{items} on a {word} background" for word in words], *shown)
            add("background", value, words, "there is " + items + " against a {} background")
            add("background", value, words, "a {} background with " + items)
    for first, *rest in (slots for n in (2, 3) for slots in product(("ONE", "MANY"), repeat=n)):
        items = ", ".join([first, *rest[:-1]]) + " and " + rest[-1]
        add("list", "", [items], *shown, "there is {}" if first == "ONE" else "there are {}")
        for number in list(NUMBERS)[1:]:
            add("list", number, [items], number + " shapes: {}")
    return dict(frames)


def _plain(caption: str) -> str:
    return " ".join(re.sub(r"[.,:;!?]", " ", caption).split())


FRAMES = _frames()
CLAIMS = {_plain(frame): claim for claim, frames in FRAMES.items() for frame in frames}
PHRASE = re.compile(
    rf"\b(an|{'|'.join(NUMBERS)}) (?:({'|'.join(SIZES)}) )?"
    rf"({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})(?:e?s)?\b"
)


def captions(scene: Scene, rng: Random) -> list[str]:
    """Return five different captions of a scene, all true and with the same meaning.

    Those of a group of equal things give number, size and arrangement; of one thing (with its size)
    or two different ones, the background if it has a pattern, else the place or the relation of the
    two; of other scenes, all things and their number.
    """
    groups: dict[tuple[str, str, str], list[Thing]] = defaultdict(list)
    for thing in scene.things:
        groups[thing.size, thing.colour, thing.shape].append(thing)
    if len(groups) == len(scene.things) <= 2:
        about = "place" if len(groups) == 1 else "relation"
        about = "background" if scene.texture in BACKGROUNDS else about
    else:
        about = "arrangement" if len(groups) == 1 else "list"
    texts = set()
    for order in permutations(groups.items()):
        alike = len(groups) == 1
        phrases = [Phrase(len(g), s if alike else None, c, f) for (s, c, f), g in order]
        slots = ["ONE" if phrase.number == 1 else "MANY" for phrase in phrases]
        claims = [c for c in FRAMES if c[0] == about and holds(c, [g for _, g in order], scene)]
        for claim in claims[:1] if about == "place" else claims:  # "top left" precedes "top"
            for text in FRAMES[claim]:
                if re.findall("ONE|MANY", text) == slots:
                    for phrase in phrases:
                        text = re.sub("ONE|MANY", str(phrase), text, count=1)
                    texts.add(text[0].upper() + text[1:] + ".")
    return rng.sample(sorted(texts), 5)


def parse(caption: str) -> Meaning | None:
    """Return the meaning of a caption, None if it is not of the grammar; ignores case, .,:;!?"""
    phrases = []

    def slot(match: re.Match[str]) -> str:
        number, size, colour, shape = match.groups()
        phrase = Phrase(NUMBERS.get(number, 1), size, colour, shape)
        if str(phrase) != match.group():  # "two circle", "a orange star"
            return match.group()
        phrases.append(phrase)
        return "ONE" if phrase.number == 1 else "MANY"

    claim = CLAIMS.get(PHRASE.sub(slot, _plain(caption.lower())))
    return Meaning(claim, tuple(phrases)) if claim else None


def holds(claim: tuple[str, str], groups: Sequence[Sequence[Thing]], scene: Scene) -> bool:
    """Return whether a claim is true of these things, a group per phrase (see the file's head)."""
    kind, value = claim
    first, last = groups[0][0], groups[-1][0]
    if kind == "place":
        right, down = first.x - 0.5, first.y - 0.5
        if value == "centre":
            return max(abs(right), abs(down)) < 0.1
        towards = {"left": -right, "right": right, "top": -down, "bottom": down}
        return all(towards[word] > 0.1 for word in value.split())
    if kind == "relation":
        right, down = first.x - last.x, first.y - last.y
        ahead = {"left": -right, "right": right, "above": -down, "below": down}[value]
        return ahead >= 0.25 and ahead >= 2 * min(abs(right), abs(down))
    if kind == "arrangement":
        wide, high = np.ptp([(thing.x, thing.y) for thing in groups[0]], axis=0)
        shape = "row" if wide >= 2 * high else "column" if high >= 2 * wide else "grid"
        return value == shape and (len(groups[0]) == 4 if value == "grid" else len(groups[0]) > 1)
    if kind == "background":
        return value == scene.texture
    return value == "" or NUMBERS[value] == len(scene.things)
