"""Units that one can read.

Records every entry of the state (h and c of each layer) over a text, or over captions that a
captioner generates of the pictures of a split; finds for each property (properties.py)
the unit that tells it best on one half of the documents, and scores it on the other. One HTML page
shows them: the text coloured by the unit's activation (Karpathy, Johnson and Fei-Fei 2016).

The score is the AUC of a property that is or is not, and Spearman's rank correlation rho with a
number: both ask whether the unit grows with it, and not how. The control is the same search where
each document has another one's values, moved around by a random distance: what the best of so many
units reaches by chance.
"""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from captioner.analysis import properties
from captioner.analysis.neurons_page import Found, Reading
from captioner.data import batches, records, text
from captioner.decoders.recurrent import Recurrent
from captioner.encoders import CNN
from captioner.errors import InputError
from captioner.metrics.chair import mentions
from captioner.metrics.tokenize import token_strings
from captioner.models import loading
from captioner.models.caption_model import CaptionModel
from captioner.models.language_model import LanguageModel
from captioner.search import Beam
from captioner.types import BOS, PAD

LENGTH = 2000  # characters of a document that are read at once
WARM = 1000  # those before them that are read too, and not looked at
ROWS = 16  # pieces that are read side by side
LEAST = 20  # places with, and without a property, for it to be scored
PLACES = 10_000  # of each kind, evenly spaced, by which the unit is chosen
FEW = 3  # documents with, and without it


def read_activations(
    folder: str | Path,
    data: str,
    limit: int,
    *,
    pattern: str = "*",
    val_share: float = 0.1,
    split: str = "val",
) -> tuple[list[Reading], list[str]]:
    """The readings of a model over data, and the labels of its units.

    data: for a language model, text (`pattern`: of a folder's files), of which the last `val_share`
    is read, if not 0; for a captioner, a folder of pictures and captions. limit: pieces of text, or
    pictures. Raises InputError naming what cannot be read.
    """
    if limit < 2 * FEW:
        raise InputError(f"--limit {limit}: give {2 * FEW} or more")
    model = loading.read_model(folder)
    if isinstance(model, LanguageModel):
        some = text.documents(data, pattern)
        held_out = text.split(some, val_share)[1] if val_share else some
        readings = read_texts(model, held_out, limit)
    else:
        pictures = [r for r in records.read_records(Path(data), split) if r.captions]
        readings = read_captions(model, pictures[:limit])
    return readings, labels(model)


def read_texts(model: LanguageModel, some: Sequence[text.Document], most: int) -> list[Reading]:
    """Up to `most` pieces of LENGTH characters of documents, evenly spaced. Where documents are
    too few to be halved, each piece counts as one.

    Raises InputError for a model of words: properties are of characters.
    """
    if model.tokenizer.kind != "char":
        raise InputError("properties of texts are of characters, and this model reads words")
    model.eval()
    pieces = [
        (document, begin)
        for document in some
        for begin in range(0, document.end - document.begin, LENGTH)
    ]
    at = np.linspace(0, len(pieces) - 1, min(most, len(pieces))).astype(int)
    cut = list(_cut([pieces[i] for i in at]))
    readings = []
    for first in range(0, len(cut), ROWS):
        part = cut[first : first + ROWS]
        states = _states(model, [content for content, *_ in part])
        for (content, warm, values, number), state_TU in zip(part, states):
            units = model.tokenizer.split(content)[warm:]
            readings.append(Reading(units, state_TU[warm:].copy(), values, number))
    if len({reading.document for reading in readings}) < 2 * FEW:
        return [reading._replace(document=n) for n, reading in enumerate(readings)]
    return readings


def _cut(
    pieces: Sequence[tuple[text.Document, int]],
) -> Iterator[tuple[str, int, properties.Values, int]]:
    """Each piece, begun up to WARM characters earlier; how many these are; the properties of the
    others, as the whole document tells them; and the document's number."""
    for number, (document, own) in enumerate(itertools.groupby(pieces, lambda piece: piece[0])):
        whole = "".join(document.pieces())
        values = properties.of_text(whole, document.code)
        for _, begin in own:
            warm, end = min(begin, WARM), begin + LENGTH
            if begin < len(whole):  # as many bytes may be fewer characters
                told = {name: value[begin:end] for name, value in values.items()}
                yield whole[begin - warm : end], warm, told, number


def read_captions(model: CaptionModel, some: Sequence[records.Record]) -> list[Reading]:
    """The captions that it generates of these pictures."""
    model.eval()
    often: dict[str, int] = {}
    for record in some:
        for name in {n for said in token_strings(record.captions) for n in mentions(said)}:
            often[name] = often.get(name, 0) + 1
    objects = [n for n, count in often.items() if LEAST <= count <= len(some) - LEAST]
    assert isinstance(model.encoder, CNN)
    source = batches.PixelSource([record.image for record in some], model.encoder.preprocess)
    readings = []
    for at in range(0, len(some), 32):
        batch = range(len(some))[at : at + 32]
        with torch.inference_mode():
            features = model.encode(source(batch, None))
            found = model.generate(features, Beam(), batch)
            names = _names(model)
            _, kept = model.trace(features, found, names)
        states = torch.cat([kept[name][:, 0] for name in names], dim=-1).cpu().numpy()
        for number, tokens, state_TU in zip(batch, found.token_BKT[:, 0].tolist(), states):
            units = model.tokenizer.said(tokens)
            references = token_strings(some[number].captions)
            own = properties.of_caption(units, references, objects)
            # What is read at place t + 1 is the word at t.
            rows = state_TU[1 : len(units) + 1]
            own = {name: value[: len(rows)] for name, value in own.items()}
            picture = some[number].image
            readings.append(Reading(units[: len(rows)], rows, own, number, picture))
    return readings


def _names(model: CaptionModel | LanguageModel) -> tuple[str, ...]:
    if not isinstance(model.decoder, Recurrent):
        kind = type(model.decoder).__name__
        raise InputError(f"{kind}: its units are not looked at, only those of a Recurrent decoder")
    return tuple(model.decoder.entries)


def _states(model: LanguageModel, contents: Sequence[str]) -> list[np.ndarray]:
    """All entries of the state after each unit of each text: (T, U) each."""
    names = _names(model)
    ids = [[BOS, *model.tokenizer.encode(content)] for content in contents]
    length_N = torch.tensor([len(row) for row in ids])
    token_NT = torch.full((len(ids), int(length_N.max())), PAD)
    for row, some in zip(token_NT, ids):
        row[: len(some)] = torch.tensor(some)
    device = next(model.parameters()).device
    with torch.inference_mode():
        memory, state = model.decoder.start(None, len(ids))
        _, _, kept = model.decoder(
            token_NT.to(device), length_N.to(device), memory, state, keep=names
        )
    state_NTU = torch.cat([kept[name] for name in names], dim=-1).cpu().numpy()
    return [rows[1:length] for rows, length in zip(state_NTU, length_N.tolist())]


def labels(model: CaptionModel | LanguageModel) -> list[str]:
    """The entry of the state, and the unit in it, of each of all units."""
    names = _names(model)
    assert isinstance(model.decoder, Recurrent)
    return [f"{name}[{unit}]" for name in names for unit in range(model.decoder.hidden_size)]


def search(readings: Sequence[Reading], called: Sequence[str], seed: int = 0) -> list[Found]:
    """The best unit for each property that enough places have, and lack; best first."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(sorted({reading.document for reading in readings}))
    chosen = set(order[::2].tolist())
    halves = [[r for r in readings if (r.document in chosen) is first] for first in (True, False)]
    found: list[tuple[float, Found]] = []
    for name in dict.fromkeys(name for reading in readings for name in reading.values):
        told = [[reading for reading in half if name in reading.values] for half in halves]
        values = [r.values[name] for half in told for r in half]
        numeric = any(bool((~np.isin(v[~np.isnan(v)], (0, 1))).any()) for v in values)
        if not all(_enough(half, name, numeric) for half in told):
            continue
        unit, score = _best([_gather(half, name) for half in told], numeric)
        _, control = _best([_gather(half, name, rng) for half in told], numeric)
        add = 0.0 if numeric else 0.5
        scores = score + add, control + add
        found.append((abs(score), Found(name, unit, called[unit], *scores, numeric)))
    if not found:
        raise InputError("too little data for any property: give more text, or pictures")
    return [one for _, one in sorted(found, key=lambda pair: -pair[0])]


Places = tuple[np.ndarray, np.ndarray]
"""state_PU and value_P."""


def _best(halves: Sequence[Places], numeric: bool) -> tuple[int, float]:
    """The unit that tells the values of one half best, and how well it does in the other."""
    state_PU, value_P = halves[0]
    kinds = [np.flatnonzero(value_P == 0), np.flatnonzero(value_P == 1)]
    kinds = [np.arange(len(value_P))] if numeric else kinds
    some = np.concatenate([places[:: 1 + len(places) // PLACES] for places in kinds])
    unit = int(np.abs(_scores(state_PU[some], value_P[some], numeric)).argmax())
    state_PU, value_P = halves[1]
    return unit, float(_scores(state_PU[:, [unit]], value_P, numeric)[0])


def _gather(some: Sequence[Reading], name: str, rng: np.random.Generator | None = None) -> Places:
    """All places where the property says something. rng: for the control, in which a document has
    another one's values, moved around by a random distance: neighbours stay neighbours."""
    states, values = [], []
    for reading in some:
        value_T = reading.values[name]
        if rng is not None:
            others = [other for other in some if other.document != reading.document]
            other_T = others[rng.integers(len(others))].values[name]
            value_T = np.roll(other_T, rng.integers(max(1, len(other_T))))[: len(value_T)]
        real_T = ~np.isnan(value_T)
        states.append(reading.state_TU[: len(value_T)][real_T])
        values.append(value_T[real_T])
    return np.concatenate(states), np.concatenate(values)


def _enough(some: Sequence[Reading], name: str, numeric: bool) -> bool:
    """Whether there are places and documents enough, with and without."""
    values = [reading.values[name] for reading in some]
    if numeric:
        documents = {reading.document for reading in some}
        return len(documents) >= FEW and float(np.nanstd(np.concatenate(values))) > 0
    return all(
        sum(int((value == is_it).sum()) for value in values) >= LEAST
        and len({r.document for r, value in zip(some, values) if (value == is_it).any()}) >= FEW
        for is_it in (0, 1)
    )


def _scores(state_PU: np.ndarray, value_P: np.ndarray, numeric: bool) -> np.ndarray:
    """rho of each unit with the value, or AUC - 0.5: both by ranks alone. NaN where there is none:
    in a control that got one kind of value only."""
    rank_PU = np.stack([_ranks(state_P) for state_P in state_PU.T], axis=1)
    if not numeric:
        ones_P = value_P == 1
        if ones_P.all() or not ones_P.any():
            return np.full(state_PU.shape[1], np.nan)
        return (rank_PU[ones_P].mean(0) - rank_PU[~ones_P].mean(0)) / len(value_P)
    x_PU, y_P = rank_PU - rank_PU.mean(0), _ranks(value_P)
    y_P -= y_P.mean()
    size_U = np.sqrt((x_PU**2).sum(0) * (y_P**2).sum())
    return (x_PU * y_P[:, None]).sum(0) / np.where(size_U > 0, size_U, 1)


def _ranks(x_P: np.ndarray) -> np.ndarray:
    """Of each among all, from 0 on; equal ones share the mean of theirs."""
    _, which_P, count = np.unique(x_P, return_inverse=True, return_counts=True)
    return (count.cumsum() - (count + 1) / 2)[which_P]
