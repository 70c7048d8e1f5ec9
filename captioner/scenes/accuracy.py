"""How much of what captions say is true of their scenes, whatever their wording."""

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np

from captioner.metrics.statistics import Statistics, shares
from captioner.scenes.drawing import Scene, Thing
from captioner.scenes.grammar import NUMBERS, Meaning, holds, parse

KINDS = ("colour", "shape", "size")
ATTRIBUTES = (*KINDS, "number", "place", "relation", "arrangement", "background")


def truth(captions: Sequence[str], scenes: Sequence[Scene]) -> Statistics:
    """Return the shares of captions, 0 to 1, that are true of their scenes, and by attribute.

    scene_accuracy: true, as the head of grammar.py defines it.
    scene_colour, scene_shape, scene_size: each phrase has a different thing with this value.
    scene_number, scene_place, scene_relation, scene_arrangement: right about the things that match
        most of the colours, shapes and sizes in the caption: "a red circle above a star" has its
        relation right if a blue circle is above a star.
    scene_background: the background is right.

    Each is a share of the captions that mention the attribute ("a" gives no number) or cannot be
    parsed, which are wrong in all. A false caption may be right in every attribute.
    """
    names = ("accuracy", *ATTRIBUTES)
    right_BM, mentioned_BM = np.zeros((2, len(captions), len(names)))
    for b, (caption, scene) in enumerate(zip(captions, scenes, strict=True)):
        right = _right(parse(caption), scene)
        right_BM[b] = [right.get(name, False) for name in names]
        mentioned_BM[b] = [name in right for name in names]
    return shares([f"scene_{name}" for name in names], right_BM, mentioned_BM)


def _right(meaning: Meaning | None, scene: Scene) -> dict[str, bool]:
    """Return whether a caption is true, and whether right in each attribute that it mentions."""
    if meaning is None:
        return dict.fromkeys(("accuracy", *ATTRIBUTES), False)
    (kind, value), phrases = meaning
    readings = list(_readings(meaning, scene))
    best = max((matches for matches, _ in readings), default=0)
    right = {"accuracy": any(all(reading.values()) for _, reading in readings)}
    for name in KINDS:
        if any(getattr(phrase, name) for phrase in phrases):
            right[name] = any(reading[name] for _, reading in readings)
    counted = value in NUMBERS or any(phrase.number > 1 for phrase in phrases)
    for name in ["number"] * counted + [kind] * (kind != "list"):
        right[name] = any(reading[name] for matches, reading in readings if matches == best)
    if kind == "background":  # a picture without things has one too
        right[kind] = value == scene.texture
    return right


def _readings(meaning: Meaning, scene: Scene) -> Iterator[tuple[int, dict[str, bool]]]:
    """For each assignment of different things to all phrases: yield how many of the colours, shapes
    and sizes of the phrases match, and whether each attribute is right.

    A plural phrase is assigned one thing, or all that are equal in the attributes it names.
    """
    (kind, value), phrases = meaning
    choices = []
    for phrase in phrases:
        equal: dict[tuple[str, ...], tuple[Thing, ...]] = {}
        for thing in scene.things:
            key = thing.colour, thing.shape, thing.size if phrase.size else ""
            equal[key] = (*equal.get(key, ()), thing)
        several = [group for group in equal.values() if len(group) > 1 and phrase.number > 1]
        choices.append([(thing,) for thing in scene.things] + several)
    for groups in product(*choices):
        if len({thing for group in groups for thing in group}) < sum(map(len, groups)):
            continue
        pairs = list(zip(phrases, groups, strict=True))
        matches = {
            name: sum(getattr(p, name) in (None, getattr(g[0], name)) for p, g in pairs)
            for name in KINDS
        }
        reading = {name: n == len(phrases) for name, n in matches.items()}
        reading["number"] = all(p.number in (1, len(g)) for p, g in pairs)
        claim = "number" if kind == "list" else kind
        reading[claim] = reading.get(claim, True) and holds(meaning.claim, groups, scene)
        yield sum(matches.values()), reading
