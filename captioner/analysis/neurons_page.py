"""The page that shows units one can read: one self-contained HTML file."""

import base64
import io
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import jinja2
import numpy as np

from captioner import images
from captioner.analysis.activations import Reading
from captioner.analysis.neurons import Match
from captioner.errors import escape

EXAMPLES = 6  # documents of each property
CHARACTERS = 900  # of each document
LEVELS = 10  # of colour, on either side of none

TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("captioner.analysis"),
    autoescape=True,
    finalize=lambda value: escape(value) if type(value) is str else value,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render_page(readings: Sequence[Reading], matches: Sequence[Match]) -> str:
    """Each property with its best unit, scores, and documents coloured by the unit's activation."""
    return TEMPLATES.get_template("neurons.html.j2").render(
        levels=LEVELS,
        units=readings[0].state_TU.shape[1],
        pieces=len(readings),
        documents=len({reading.document for reading in readings}),
        matches=[(match, _coloured(readings, match)) for match in matches],
    )


Run = tuple[int, str]  # text of one colour: the level, -LEVELS to LEVELS, and the text


def _coloured(readings: Sequence[Reading], match: Match) -> list[tuple[list[Run], str | None]]:
    """The runs of examples of a property, and their pictures."""
    readings = [reading for reading in readings if match.name in reading.values]
    every_T = np.concatenate([reading.state_TU[:, match.unit] for reading in readings])
    median, deviation = np.median(every_T), max(float(every_T.std()), 1e-9)
    coloured = []
    for reading in _examples(readings, match.name):
        activation_T = np.tanh((reading.state_TU[:CHARACTERS, match.unit] - median) / deviation)
        levels = np.rint(activation_T * LEVELS).astype(int).tolist()
        picture = None if reading.picture is None else _thumbnail(reading.picture)
        coloured.append((_runs(reading.units[:CHARACTERS], levels), picture))
    return coloured


def _examples(readings: Sequence[Reading], name: str) -> list[Reading]:
    """Readings in which a property varies, if there are any, from much of it to little."""

    def values(reading: Reading) -> np.ndarray:
        value_T = reading.values[name][:CHARACTERS]
        return value_T[~np.isnan(value_T)]

    readings = [reading for reading in readings if len(values(reading))]
    readings = [reading for reading in readings if values(reading).std() > 0] or readings
    readings.sort(key=lambda reading: -values(reading).mean())
    chosen = np.linspace(0, len(readings) - 1, min(EXAMPLES, len(readings))).astype(int)
    return [readings[i] for i in chosen]


def _runs(units: Sequence[str], levels: Sequence[int]) -> list[Run]:
    """The units with adjacent ones of one level joined: words by spaces, which each ends with."""
    space = "" if all(len(unit) == 1 for unit in units) else " "
    runs: list[Run] = []
    for level, group in groupby(zip(levels, units), lambda pair: pair[0]):
        runs += [(0, space)] * bool(runs and space)
        runs.append((level, space.join(unit for _, unit in group)))
    return runs


def _thumbnail(path: Path) -> str:
    """A small JPEG of a picture, as a data URI."""
    picture = images.read_image(path)
    picture.thumbnail((160, 160))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
