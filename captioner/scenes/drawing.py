"""Scenes of coloured shapes, drawn at random, and their pictures.

A scene is a pure function of (seed, split, index), a picture one of the scene. Lengths are in units
of the picture's side, x to the right, y down.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from random import Random

import numpy as np
from PIL import Image, ImageDraw

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
HELD_OUT = tuple(zip(SHAPES, COLOURS, strict=False))  # these pairs occur in the test split only
# Number of things of each kind in a picture -> in how many of a hundred pictures.
COUNTS = {(1,): 38, (1, 1): 20, (2,): 14, (3,): 8, (4,): 4}
COUNTS |= {(2, 1): 5, (3, 1): 2, (2, 2): 3, (1, 1, 1): 4, (2, 1, 1): 2}


@dataclass(frozen=True)
class Thing:
    """A shape, the centre and the radius of the circle around it."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Scene:
    """What a picture shows. `seed` decides what captions do not mention: tints, angles, grain."""

    things: tuple[Thing, ...]
    texture: str
    seed: int


def scene(seed: int, split: str, index: int) -> Scene:
    """Return a random scene of 1 to 4 things; the same arguments give the same scene."""
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
    """Return centres such that no two shapes touch and captions are clearly true or false."""
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
    """Return an RGB picture of 224 x 224, its shapes anti-aliased by 4 x 4 samples per pixel."""
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
    """Return the brightness of a background, 0 to 1."""
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
    """Return the corners x + iy of a shape in the unit circle, turned clockwise by `turn`."""
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
