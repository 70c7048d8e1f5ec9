"""The page of captioner.analysis.neurons: one self-contained HTML file."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from captioner import images
from captioner.analysis.properties import Values

SHOWN = 6  # documents of each property
CHARACTERS = 900  # of each
LEVELS = 10  # of colour, on either side of none

STYLE = """
:root { color-scheme: light dark; --paper: #fdfdfb; --ink: #1d1d1b; --faint: #6b6b66; --line: #ddd;
        --plus: 214, 96, 0; --minus: 0, 103, 196 }
@media (prefers-color-scheme: dark) {
  :root { --paper: #161614; --ink: #eceae4; --faint: #a09e96; --line: #3a3a36;
          --plus: 255, 140, 40; --minus: 70, 150, 255 } }
body { background: var(--paper); color: var(--ink); max-width: 62rem; margin: 2rem auto;
       padding: 0 1rem; font: 1rem/1.5 system-ui, sans-serif }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin: 2.2rem 0 .2rem }
p { margin: .3rem 0 } .faint { color: var(--faint) }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
td, th { padding: .2rem .8rem .2rem 0; text-align: right; border-bottom: 1px solid var(--line) }
td:first-child, th:first-child { text-align: left }
.scroll { overflow-x: auto }
pre { border: 1px solid var(--line); border-radius: .3rem; padding: .6rem; margin: .5rem 0;
      white-space: pre-wrap; overflow-wrap: anywhere; font: .84rem/1.55 ui-monospace, monospace }
figure { margin: .8rem 0; display: flex; gap: .8rem; align-items: center; flex-wrap: wrap }
figure img { width: 7rem; border-radius: .2rem } figure pre { flex: 1 1 14rem; margin: 0 }
.key span { padding: .1rem .5rem }
"""


class Reading(NamedTuple):
    """A piece of a document: its units of text, and what is true after each of them.

    state_TU: the activations of all U units there. document: its number. picture: of a caption.
    """

    units: list[str]
    state_TU: np.ndarray
    values: Values
    document: int
    picture: Path | None = None


class Found(NamedTuple):
    """The best unit for a property, and what it is called, such as "c1[37]".

    score, control: AUC, or rho of a number, on documents that did not choose the unit.
    """

    name: str
    unit: int
    label: str
    score: float
    control: float
    numeric: bool

    @property
    def measure(self) -> str:
        return "rho" if self.numeric else "AUC"


def page(readings: Sequence[Reading], found: Sequence[Found]) -> str:
    """Each property with its best unit, scores, and documents coloured by the unit's activation."""
    rows, parts = [], []
    for number, one in enumerate(found):
        name, what = one.label, one.measure
        title = html.escape(one.name)
        rows.append(
            f'<tr><td><a href="#p{number}">{title}</a></td><td>{name}</td><td>{what}</td>'
            f"<td>{one.score:.3f}</td><td>{one.control:.3f}</td></tr>"
        )
        parts.append(
            f'<h2 id="p{number}">{title}</h2>\n<p class="faint">unit {name}: {what} '
            f"{one.score:.3f}, by chance {one.control:.3f}</p>\n"
        )
        about = [r for r in readings if one.name in r.values]
        every_T = np.concatenate([r.state_TU[:, one.unit] for r in about])
        middle, spread = np.median(every_T), max(float(every_T.std()), 1e-9)
        for reading in _examples(about, one.name):
            activation_T = reading.state_TU[:CHARACTERS, one.unit]
            parts.append(_document(reading, np.tanh((activation_T - middle) / spread)))
    documents = len({reading.document for reading in readings})
    pieces = f"{len(readings)} pieces of " if documents < len(readings) else ""
    colours = "".join(
        f".{sign}{k} {{ background: rgba(var(--{side}), {0.75 * k / LEVELS:.2f}) }}\n"
        for sign, side in (("p", "plus"), ("m", "minus"))
        for k in range(1, LEVELS + 1)
    )
    key = "".join(f'<span class="m{k}">&nbsp;</span>' for k in range(LEVELS, 0, -3))
    key += "<span>0</span>" + "".join(
        f'<span class="p{k}">&nbsp;</span>' for k in range(1, LEVELS + 1, 3)
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Units that one can read</title>
<style>{STYLE}{colours}</style>
</head>
<body>
<h1>Units that one can read</h1>
<p>{readings[0].state_TU.shape[1]} entries of the state, over {pieces}{documents} documents. For
each property one half of the documents chose the unit that tells it best; the score is of the other
half. By chance: the same search where each document has another one's values, moved around. AUC:
0.5 says nothing, 0 and 1 everything; rho (Spearman's rank correlation): 0 nothing, -1 and 1
everything.</p>
<p class="key">tanh of the activation, less its median, by its deviation: -1 {key} 1</p>
<div class="scroll"><table>
<tr><th>property</th><th>unit</th><th></th><th>score</th><th>by chance</th></tr>
{"".join(rows)}
</table></div>
{"".join(parts)}
</body>
</html>
"""


def _examples(about: Sequence[Reading], name: str) -> list[Reading]:
    """Some in which the property varies, if there are such, from much of it to little."""

    def values(reading: Reading) -> np.ndarray:
        value_T = reading.values[name][:CHARACTERS]
        return value_T[~np.isnan(value_T)]

    told = [r for r in about if len(values(r))]
    some = [r for r in told if values(r).std() > 0] or told
    some.sort(key=lambda r: -values(r).mean())
    at = np.linspace(0, len(some) - 1, min(SHOWN, len(some))).astype(int)
    return [some[i] for i in at]


def _document(reading: Reading, activation_T: np.ndarray) -> str:
    """Its units, runs of one colour together."""
    units = reading.units[: len(activation_T)]
    between = "" if all(len(unit) == 1 for unit in units) else " "
    runs: list[tuple[int, str]] = []
    for unit, value in zip(units, activation_T):
        level = int(np.rint(value * LEVELS))
        if runs and runs[-1][0] == level:
            runs[-1] = level, runs[-1][1] + between + unit
        else:
            runs.append((level, unit))
    said = between.join(_run(level, chunk) for level, chunk in runs)
    if reading.picture is None:
        return f"<pre>{said}</pre>\n"
    return f'<figure><img alt="" src="{_thumbnail(reading.picture)}"><pre>{said}</pre></figure>\n'


def _run(level: int, chunk: str) -> str:
    shown = html.escape(chunk)
    if not level:
        return shown
    return f'<span class="{"p" if level > 0 else "m"}{abs(level)}">{shown}</span>'


def _thumbnail(path: Path) -> str:
    picture = images.read_image(path)
    picture.thumbnail((160, 160))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
