"""CHAIR (Rohrbach et al. 2018, "Object Hallucination in Image Captioning"): objects made up.

CHAIR_i is the share of the mentioned objects (twice if mentioned twice) that are not in the
picture, CHAIR_s the share of the captions that mention such an object. A picture contains what
COCO's instances list for it or its references mention. The words for COCO's 80 categories are our
own (chair_names.py), not the paper's: published scores compare only roughly.
"""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from captioner.errors import InputError, first_five, json_field, json_items, printable, read_json
from captioner.metrics import chair_names
from captioner.metrics.statistics import Statistics, shares


def chair(
    references: Sequence[Sequence[str]],
    captions: Sequence[str],
    objects_B: Sequence[frozenset[str]],
) -> Statistics:
    """The statistics of CHAIR_i and CHAIR_s (0 to 1, lower is better) of B images.

    references, captions: token strings, several and one per image. objects_B: the categories that
    each picture shows, apart from those that references mention. A caption without a mention has no
    CHAIR_i (nan) and a CHAIR_s of 0.
    """
    wrong_BM, total_BM = np.zeros((len(captions), 2)), np.ones((len(captions), 2))
    for b, (texts, caption, seen) in enumerate(zip(references, captions, objects_B, strict=True)):
        mentioned = mentions(caption)
        shown = seen.union(*map(mentions, texts))
        wrong = sum(category not in shown for category in mentioned)
        wrong_BM[b] = wrong, wrong > 0
        total_BM[b, 0] = len(mentioned)
    return shares(("CHAIR_i", "CHAIR_s"), wrong_BM, total_BM)


def mentions(caption: str) -> list[str]:
    """The categories that a token string mentions, in order, each as often as it is mentioned.

    The longest phrase wins, from left to right. Adjacent names of one category are one mention ("a
    puppy dog", "a jumbo jet airplane"). A toy, a statue or a painting is no mention.
    """
    words = [*re.split("[ /-]+", caption), "."]
    categories: list[str] = []
    start, last_stop, last = 0, 0, ""
    while start < len(words):
        stop = start + 1
        for rest, category in _table().get(words[start], ()):
            if words[stop : stop + len(rest)] == rest:
                stop += len(rest)
                if category and not _depicted(category, words, start, stop):
                    if (category, start) != (last, last_stop):
                        categories.append(category)
                    last, last_stop = category, stop
                break
        start = stop
    return categories


def _depicted(category: str, words: list[str], start: int, stop: int) -> bool:
    """Whether words[start:stop] mean only an image of the object they name."""
    if category not in chair_names.DEPICTED:
        return False
    around = " ".join([*words[max(0, start - 3) : start], "_", words[stop]])
    return chair_names.DEPICTION.search(around) is not None


def phrases() -> Iterator[tuple[str, str]]:
    """Every phrase of the table with the category it means, "" for none."""
    for line in chair_names.NAMES.strip().replace("\n    ", " ").splitlines():
        category, _, names = line.partition(": ")
        for name in _with_plurals(names):
            yield name, category
            if category in chair_names.ANIMALS:  # the baby of an elephant is no person
                yield from ((f"{who} {name}", category) for who in chair_names.OF_ANIMALS)
    yield from ((f"an orange {word}", "orange") for word in chair_names.ORANGE)
    yield from ((name, "") for name in _with_plurals(chair_names.OTHERS))


def _with_plurals(names: str) -> Iterator[str]:
    for name in re.split(r",\s+", names.strip()):
        singular, _, plural = name.partition("/")
        yield from dict.fromkeys((singular, plural or _plural(singular)))


def _plural(name: str) -> str:
    if re.search("[^su]s$", name):  # "scissors" is one
        return name
    if re.search("(s|x|z|ch|sh)$", name):
        return name + "es"
    if name.endswith("man"):  # those in "human" and "german" have their plural in the table
        return name[:-2] + "en"
    return name[:-1] + "ies" if re.search("[^aeiou]y$", name) else name + "s"


@cache
def _table() -> dict[str, list[tuple[list[str], str]]]:
    """By first word: the other words and the category of each phrase, the longest first."""
    table: dict[str, list[tuple[list[str], str]]] = {}
    for phrase, category in phrases():
        first, *rest = phrase.split()
        table.setdefault(first, []).append((rest, category))
    for entries in table.values():
        entries.sort(key=lambda entry: -len(entry[0]))
    return table


def read_objects(path: Path | str) -> dict[int | str, frozenset[str]]:
    """The categories of each image of a COCO instances file, crowds included: {image id: names}.

    Raises InputError naming the file and the key if it is broken or has other categories.
    """
    data, name = read_json(Path(path)), printable(path)
    names: dict[int, str] = {}
    for place, entry in json_items(data, "categories", name):
        names[json_field(entry, "id", (int,), place)] = json_field(entry, "name", (str,), place)
    known = {category for _, category in phrases()}
    if unknown := [category for category in names.values() if category not in known]:
        raise InputError(
            f"{name}: categories {first_five(map(repr, unknown))} are none of COCO's "
            "80: CHAIR needs an instances file of COCO, as instances_val2014.json"
        )
    objects: dict[int | str, set[str]] = {}
    for place, entry in json_items(data, "images", name):
        image = json_field(entry, "id", (int, str), place)
        if image in objects:
            raise InputError(f"{place}: id {image!r} is that of another image too: take one out")
        objects[image] = set()
    for place, entry in json_items(data, "annotations", name):
        image = json_field(entry, "image_id", (int, str), place)
        category = json_field(entry, "category_id", (int,), place)
        if image not in objects:
            raise InputError(f"{place}: image_id {image!r} is none of the images")
        if category not in names:
            raise InputError(f"{place}: category_id {category!r} is none of the categories")
        objects[image].add(names[category])
    return {image: frozenset(categories) for image, categories in objects.items()}
