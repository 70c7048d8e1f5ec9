"""The embedded data set: pictures of coloured shapes, captions out of a grammar, and its parser.

The parser makes captions checkable: `truth` gives the share of captions that are true of their
picture, whatever their wording, and of those right in colour, number and so on. What makes a
caption true:

    "a red circle"        at least one thing of that colour and shape (and size, where said)
    "two red circles"     exactly two such things in the whole picture
    several of these      speak of different things: "a red circle and a red circle" needs two
    "three shapes: .."    the picture holds three things in all
    "small", "large"      it was drawn so: radius 0.065 to 0.08, or 0.12 to 0.14
    "at the top"          its centre is in the upper 40%; "at the top left": and in the left 40%;
                          "in the centre": in the inner 20% of both axes
    "to the left of"      0.25 or more to that side, and at least twice as far as up or down,
                          between centres; likewise "to the right of", "above", "below"
    "in a row"            the group is at least twice as wide as high, between centres;
                          "in a column": twice as high as wide; "in a grid": four things, neither
    "on a striped .."     the background was painted with stripes

Lengths are in units of the picture's side, x to the right, y down. Everything is a pure function of
(seed, split, index). The n-th shape with the n-th colour is seen in test only (`HELD_OUT`).
"""

import json
import math
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import permutations, product
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from captioner.errors import InputError
from captioner.metrics.statistics import Statistics, shares

SIDE = 224  # pixels
SPLITS = ("train", "val", "test")
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross")
COLOURS = {
    "green": (30, 140, 60),
    "orange": (250, 124, 16),
    "pink": (246, 112, 190),
    "red": (218, 34, 42),
    "yellow": (254, 226, 40),
    "blue": (36, 92, 214),
    "black": (34, 34, 40),
}
SIZES = {"small": (0.065, 0.08), "large": (0.12, 0.14)}  # radius of the circle around the shape
TEXTURES = ("plain", "gradient", "stripes", "checks", "dots", "grain")
HELD_OUT = tuple(zip(SHAPES, COLOURS, strict=False))  # the seventh colour meets every shape
# How many things of each kind a picture holds, and how often among a hundred pictures.
COUNTS = {(1,): 38, (1, 1): 20, (2,): 14, (3,): 8, (4,): 4}
COUNTS |= {(2, 1): 5, (3, 1): 2, (2, 2): 3, (1, 1, 1): 4, (2, 1, 1): 2}


@dataclass(frozen=True)
class Thing:
    """One shape; its centre and radius in units of the picture's side."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Scene:
    """What a picture shows. `seed` fixes what captions do not speak of: tints, angles, grain."""

    things: tuple[Thing, ...]
    texture: str
    seed: int


def scene(seed: int, split: str, index: int) -> Scene:
    """Draw a scene of 1 to 4 things at random: the same arguments, the same scene."""
    rng = Random(f"scene {seed} {split} {index}")
    (counts,) = rng.choices(list(COUNTS), list(COUNTS.values()))
    pairs = list(product(SHAPES, COLOURS))
    if split == "test":
        kinds = [rng.choice(HELD_OUT)]
        kinds += rng.sample([pair for pair in pairs if pair not in kinds], len(counts) - 1)
        rng.shuffle(kinds)
    else:
        kinds = rng.sample([pair for pair in pairs if pair not in HELD_OUT], len(counts))
    sizes = [rng.choice(list(SIZES)) for _ in counts]
    radii = [round(rng.uniform(*SIZES[size]), 4) for size in sizes]
    group = [g for g, count in enumerate(counts) for _ in range(count)]
    places = _places(counts, [radii[g] for g in group], rng)
    things = [
        Thing(*kinds[g], sizes[g], round(x, 4), round(y, 4), radii[g])
        for g, (x, y) in zip(group, places, strict=True)
    ]
    return Scene(tuple(things), rng.choice(TEXTURES), rng.getrandbits(32))


def _places(counts: Sequence[int], radii: list[float], rng: Random) -> list[tuple[float, float]]:
    """Centres such that no two shapes touch and all that captions say is clearly true."""
    n, pair = len(radii), counts == (1, 1)
    if n == 1 or (len(counts) > 1 and not pair):  # scattered over a 3 x 3 board
        board = list(product((0.19, 0.5, 0.81), repeat=2))
        middle, corners = board[3:6], board[::2]  # corners with the centre
        spots = rng.sample(2 * middle + corners if n == 1 else board, n)
        spread = [0.04 if n == 1 else 0.7 * (0.15 - radius) for radius in radii]
    else:  # in a line, or four in two lines
        by, gap = (0.06, (0.44, 0.56)) if pair else (0.02, (2 * radii[0] + 0.04, 0.32))
        step, width = rng.uniform(*gap), 2 if n == 4 else n
        left = rng.uniform(0.16 + by, 0.84 - by - step * (width - 1))
        top = rng.uniform(0.22, 0.78 - step * (n == 4))
        spots = [(left + step * (i % width), top + step * (i // width)) for i in range(n)]
        spots = [(y, x) for x, y in spots] if rng.random() < 0.5 else spots
        rng.shuffle(spots)
        spread = [by] * n
    return [
        (x + rng.uniform(-by, by), y + rng.uniform(-by, by))
        for (x, y), by in zip(spots, spread, strict=True)
    ]


def render(scene: Scene) -> Image.Image:
    """Paint a scene: an RGB picture of 224 x 224, shapes anti-aliased by 4 x 4 samples a pixel."""
    rng = np.random.RandomState(scene.seed)  # its stream is frozen, unlike default_rng's
    base = rng.randint(170, 215) + rng.randint(-14, 15, 3)
    level = np.rint(_texture(scene.texture, rng) * rng.randint(18, 30))  # few levels pack well
    picture = Image.fromarray((base + level[..., None]).astype(np.uint8))
    for thing in scene.things:
        shade = np.clip(np.array(COLOURS[thing.colour]) + rng.randint(-12, 13, 3), 0, 255)
        fill, edge = tuple(shade.tolist()), tuple((shade * 0.6).astype(int).tolist())
        left, top = (int((c - thing.radius) * SIDE) - 1 for c in (thing.x, thing.y))
        width = math.ceil(2 * thing.radius * SIDE) + 3
        tile = Image.new("RGBA", (4 * width, 4 * width), (*edge, 0))
        outline = thing.radius * _outline(thing.shape, rng.uniform(-0.17, 0.17))
        pixels = 4 * (SIDE * (outline + complex(thing.x, thing.y)) - complex(left, top))
        corners = [(z.real, z.imag) for z in pixels.tolist()]
        ImageDraw.Draw(tile).polygon(corners, fill, edge, width=6)
        tile = tile.reduce(4)
        picture.paste(tile, (left, top), tile)
    return picture


def _texture(name: str, rng: np.random.RandomState) -> np.ndarray:
    """Brightness of a background, 0 to 1."""
    angle, wave = rng.uniform(0, math.pi), 2 * math.pi / rng.uniform(0.08, 0.16)
    y, x = (np.mgrid[:SIDE, :SIDE] + 0.5) / SIDE - 0.5
    u, v = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    if name == "gradient":
        return u / math.sqrt(2) + 0.5
    if name == "stripes":
        return np.clip(2 * np.sin(u * wave) + 0.5, 0, 1)
    if name in ("checks", "dots"):
        board = np.sin(u * wave) * np.sin(v * wave)
        return np.clip(3 * board + (0.5 if name == "checks" else -1.2), 0, 1)
    return rng.randint(0, 3, x.shape) / 2 if name == "grain" else np.zeros_like(x)


def _outline(shape: str, turn: float) -> np.ndarray:
    """The corners x + iy of a shape in the unit circle, turned clockwise by `turn` radians."""
    corners = {"square": 4, "triangle": 3, "star": 10}.get(shape, 72)
    t = 2 * math.pi * (np.arange(corners) + (shape == "square") / 2) / corners
    z: np.ndarray = np.sin(t) - 1j * np.cos(t)
    if shape == "star":
        z[1::2] *= 0.45
    elif shape == "heart":
        y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
        z = (16 * np.sin(t) ** 3 - 1j * (y + 2.5)) / 18.2
    elif shape == "cross":
        x = np.repeat([0.3, 0.95, 0.3, -0.3, -0.95, -0.3], 2)
        z = x + 1j * np.roll(x, 3)
    return z * np.exp(1j * turn)


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
    """What a noun phrase says: "two small red circles" is 2, "small", "red", "circle"."""

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
    """What a caption says: a claim of phrases, ("relation", "left") of a circle and a star."""

    claim: tuple[str, str]
    phrases: tuple[Phrase, ...]


def _frames() -> dict[tuple[str, str], list[str]]:
    """All captions of each claim, with ONE and MANY in the place of phrases."""
    frames: dict[tuple[str, str], list[str]] = defaultdict(list)

    def say(kind: str, value: str, words: Sequence[str], *forms: str) -> None:
        frames[kind, value] += [form.format(word) for form in forms for word in words]

    shown = ("{}", "a picture of {}", "the image shows {}")
    for value, words in PLACES.items():
        say("place", value, [f"ONE {word}" for word in words], *shown, "there is {}")
        say("place", value, words, "ONE {} of the picture", "ONE sits {} of the picture")
        say("place", value, words, "{} there is ONE")
    for value, words in RELATIONS.items():
        say("relation", value, [f"ONE {word} ONE" for word in words], *shown, "there is {}")
        say("relation", value, words, "ONE is {} ONE", "ONE sits {} ONE")
        say("relation", INVERSE[value], words, "ONE with ONE {} it", "there is ONE with ONE {} it")
    for value, words in ARRANGEMENTS.items():
        say("arrangement", value, [f"MANY {word}" for word in words], *shown, "there are {}")
        say("arrangement", value, words, "MANY arranged {}")
        say("arrangement", value, [f"a {value} of MANY"], *shown, "there is {}")
    for value, words in BACKGROUNDS.items():
        for items in ("ONE", "ONE and ONE"):
            say("background", value, [f"{items} on a {word} background" for word in words], *shown)
            say("background", value, words, "there is " + items + " against a {} background")
            say("background", value, words, "a {} background with " + items)
    for first, *rest in (slots for n in (2, 3) for slots in product(("ONE", "MANY"), repeat=n)):
        items = ", ".join([first, *rest[:-1]]) + " and " + rest[-1]
        say("list", "", [items], *shown, "there is {}" if first == "ONE" else "there are {}")
        for number in list(NUMBERS)[1:]:
            say("list", number, [items], number + " shapes: {}")
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
    """Five captions of a drawn scene: each true, no two alike in words, all saying the same.

    Of a group of like things: number, size and arrangement. Of one thing, or of two unlike ones:
    the background if patterned, else the place, or how they stand to each other (one thing with its
    size). Of other scenes: what is there, and how many.
    """
    groups: dict[tuple[str, str, str], tuple[Thing, ...]] = {}
    for thing in scene.things:
        kind = thing.size, thing.colour, thing.shape
        groups[kind] = (*groups.get(kind, ()), thing)
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
        held = [c for c in FRAMES if c[0] == about and _holds(c, [g for _, g in order], scene)]
        held = held[:1] if about == "place" else held  # "top left" comes before "top"
        for claim in held:
            for text in FRAMES[claim]:
                if re.findall("ONE|MANY", text) == slots:
                    for phrase in phrases:
                        text = re.sub("ONE|MANY", str(phrase), text, count=1)
                    texts.add(text[0].upper() + text[1:] + ".")
    return rng.sample(sorted(texts), 5)


def parse(caption: str) -> Meaning | None:
    """What a caption of the grammar says; None for any other text. Case and .,:;!? are free."""
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


KINDS = ("colour", "shape", "size")
ATTRIBUTES = (*KINDS, "number", "place", "relation", "arrangement", "background")


def truth(captions: Sequence[str], scenes: Sequence[Scene]) -> Statistics:
    """How much of what captions say is true of their scenes: shares of captions, 0 to 1.

    scene_accuracy: captions true in all they say (the head of this file says what makes them so).
    scene_colour, scene_shape, scene_size: true in this with all else left aside: for each phrase
        there is a thing of the colour it says, and for no two phrases the same thing.
    scene_number, scene_place, scene_relation, scene_arrangement: true in this of the things spoken
        of. They are those that meet most of the colours, shapes and sizes said, so "a red circle
        above a star" has its relation right where a blue circle is above a star. "Two" is right
        where they are two, and no more is like them in colour and shape (and size, where said).
    scene_background: the background is as said.

    Each is a share of those captions that speak of it ("a" says no number) or have no parse, which
    makes them wrong in all. A true caption is right in all it speaks of; one that is right in all
    may be false, with the colours of its things exchanged.
    """
    names = ("accuracy", *ATTRIBUTES)
    part_BM, whole_BM = np.zeros((2, len(captions), len(names)))
    for b, (caption, scene) in enumerate(zip(captions, scenes, strict=True)):
        right = _right(parse(caption), scene)
        part_BM[b] = [right.get(name, False) for name in names]
        whole_BM[b] = [name in right for name in names]
    return shares([f"scene_{name}" for name in names], part_BM, whole_BM)


def true_of(caption: str, scene: Scene) -> bool:
    """Whether a caption is true of a scene (the head of this file says when); False if no parse."""
    return _right(parse(caption), scene)["accuracy"]


def _right(meaning: Meaning | None, scene: Scene) -> dict[str, bool]:
    """Whether a caption is true, and right in each attribute that it speaks of."""
    if meaning is None:
        return dict.fromkeys(("accuracy", *ATTRIBUTES), False)
    (kind, value), phrases = meaning
    readings = list(_readings(meaning, scene))
    best = max((met for met, _ in readings), default=0)
    right = {"accuracy": any(all(reading.values()) for _, reading in readings)}
    for name in KINDS:
        if any(getattr(phrase, name) for phrase in phrases):
            right[name] = any(reading[name] for _, reading in readings)
    counted = value in NUMBERS or any(phrase.number > 1 for phrase in phrases)
    for name in ["number"] * counted + [kind] * (kind != "list"):
        right[name] = any(reading[name] for met, reading in readings if met == best)
    if kind == "background":  # of which a picture has one even if it has no things
        right[kind] = value == scene.texture
    return right


def _readings(meaning: Meaning, scene: Scene) -> Iterator[tuple[int, dict[str, bool]]]:
    """For each way to give all phrases different things: how many of the colours, shapes and sizes
    said these meet, and which attributes are right.

    What a phrase of several is given is one thing, or all that are alike in what it tells apart.
    """
    (kind, value), phrases = meaning
    choices = []
    for phrase in phrases:
        alike: dict[tuple[str, ...], tuple[Thing, ...]] = {}
        for thing in scene.things:
            key = thing.colour, thing.shape, thing.size if phrase.size else ""
            alike[key] = (*alike.get(key, ()), thing)
        several = [group for group in alike.values() if len(group) > 1 and phrase.number > 1]
        choices.append([(thing,) for thing in scene.things] + several)
    for groups in product(*choices):
        if len({thing for group in groups for thing in group}) < sum(map(len, groups)):
            continue
        pairs = list(zip(phrases, groups, strict=True))
        met = {
            name: sum(getattr(p, name) in (None, getattr(g[0], name)) for p, g in pairs)
            for name in KINDS
        }
        reading = {name: n == len(phrases) for name, n in met.items()}
        reading["number"] = all(p.number in (1, len(g)) for p, g in pairs)
        claim = "number" if kind == "list" else kind
        reading[claim] = reading.get(claim, True) and _holds(meaning.claim, groups, scene)
        yield sum(met.values()), reading


def _holds(claim: tuple[str, str], groups: Sequence[tuple[Thing, ...]], scene: Scene) -> bool:
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
        wide, high = (
            max(along) - min(along) for along in zip(*((t.x, t.y) for t in groups[0]), strict=True)
        )
        found = "row" if wide >= 2 * high else "column" if high >= 2 * wide else "grid"
        return value == found and (len(groups[0]) == 4 if value == "grid" else len(groups[0]) > 1)
    if kind == "background":
        return value == scene.texture
    return value == "" or NUMBERS[value] == len(scene.things)


def write_scenes(
    folder: str | Path,
    train: int = 2400,
    val: int = 300,
    test: int = 300,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write images/train_000000.png .. and captions_{train,val,test}.json (COCO captions).

    A split's JSON comes last, so where it is, the split is complete: a second call with the same
    arguments has nothing to do, and one after an interruption goes on with the splits that lack.
    `progress(done, total)` is called after each picture. Raises InputError for a negative size, and
    for a folder that holds something else or cannot be written.
    """
    folder, sizes = Path(folder), {"train": train, "val": val, "test": test}
    if min(sizes.values()) < 0:
        raise InputError(f"the size of a split cannot be negative: {sizes}")
    info = {"description": "captioner scenes", "version": "1", "seed": seed, **sizes}
    present = [split for split in SPLITS if (folder / f"captions_{split}.json").exists()]
    for split in present:
        path = folder / f"captions_{split}.json"
        if (found := _load(path).get("info")) != info:
            raise InputError(f"{path} was made otherwise ({found}): delete it or take a new folder")
    ours = re.compile(r"images|captions_[a-z]+\.json\.part|(train|val|test)_\d{6}\.png(\.part)?")
    for path in [] if present else [*folder.glob("*"), *folder.glob("images/*")]:
        if not ours.fullmatch(path.name):
            raise InputError(f"{folder} holds something else ({path}): take a new folder")
    missing = [split for split in SPLITS if split not in present]
    total, done = sum(sizes[split] for split in missing), 0
    try:
        (folder / "images").mkdir(parents=True, exist_ok=True)
        for split in missing:
            images, annotations = [], []
            for index in range(sizes[split]):
                number = (1 + SPLITS.index(split)) * 1_000_000 + index
                drawn, name = scene(seed, split, index), f"{split}_{index:06}.png"
                partial = folder / "images" / f"{name}.part"
                render(drawn).save(partial, "PNG", compress_level=3)  # 7% larger, twice as fast
                os.replace(partial, folder / "images" / name)
                image = {"id": number, "file_name": name, "width": SIDE, "height": SIDE}
                images.append({**image, "scene": asdict(drawn)})
                texts = captions(drawn, Random(f"captions {seed} {split} {index}"))
                for i, text in enumerate(texts):
                    annotations.append({"id": 10 * number + i, "image_id": number, "caption": text})
                done += 1
                if progress:
                    progress(done, total)
            coco = {"info": info, "licenses": [], "type": "captions"}
            partial = folder / f"captions_{split}.json.part"
            partial.write_text(json.dumps({**coco, "images": images, "annotations": annotations}))
            os.replace(partial, folder / f"captions_{split}.json")
    except OSError as error:
        raise InputError(f"cannot write scenes into {folder}: {error}") from error


def read_scenes(path: str | Path) -> dict[int, Scene]:
    """The scenes of a captions_*.json by image id. Raises InputError where it holds none."""
    try:
        scenes = {image["id"]: image["scene"] for image in _load(Path(path))["images"]}
        return {
            i: Scene(tuple(Thing(**t) for t in s["things"]), s["texture"], s["seed"])
            for i, s in scenes.items()
        }
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path} holds no scenes ({error}): write data_prep/scenes.py's"
        ) from error


def _load(path: Path) -> dict:
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
