"""`python -m captioner.neurons MODEL DATA`: units that one can read.

Records every entry of the state (h and c of each layer) over a text, or over captions that a
captioner generates of the pictures of a split; finds for each property (captioner/properties.py)
the unit that tells it best on one half of the documents, and scores it on the other. One HTML page
shows them: the text coloured by the unit's activation (Karpathy, Johnson and Fei-Fei 2016).

The score is the AUC of a property that is or is not, and Pearson's r of a number. The control is
the same search with the property's values taken from other places: what the best of so many units
reaches by chance.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from captioner import data, files, neurons_page, properties, records, saved, text
from captioner.decoders.recurrent import Recurrent
from captioner.encoders import CNN
from captioner.language import LanguageModel
from captioner.metrics.chair import mentions
from captioner.metrics.tokenize import token_strings
from captioner.model import CaptionModel
from captioner.neurons_page import Found, Reading
from captioner.search import Beam
from captioner.types import BOS, PAD, InputError

LENGTH = 5000  # characters of a document that are read
ROWS = 16  # documents that are read side by side
LEAST = 20  # places with, and without a property, for it to be scored


def read_texts(model: LanguageModel, some: Sequence[text.Document], most: int) -> list[Reading]:
    """Up to `most` documents, evenly spaced, each from its start, LENGTH characters at most."""
    model.eval()
    at = np.linspace(0, len(some) - 1, min(most, len(some))).astype(int)
    readings = []
    for part in np.array_split(at, -(-len(at) // ROWS)):
        documents = [some[i] for i in part]
        contents = [next(document.pieces())[:LENGTH] for document in documents]
        for document, content, state_TU in zip(documents, contents, _states(model, contents)):
            units = model.tokenizer.split(content)
            same = len(units) == len(content)  # properties are of characters
            values = properties.of_text(content, document.path.suffix == ".py") if same else {}
            readings.append(Reading(units, state_TU, values))
    return readings


def read_captions(model: CaptionModel, some: Sequence[records.Record]) -> list[Reading]:
    """The captions that it generates of these pictures."""
    model.eval()
    often: dict[str, int] = {}
    for record in some:
        for name in {n for said in token_strings(record.captions) for n in mentions(said)}:
            often[name] = often.get(name, 0) + 1
    objects = [n for n, count in often.items() if LEAST <= count <= len(some) - LEAST]
    assert isinstance(model.encoder, CNN)
    source = data.Pixels([record.image for record in some], model.encoder.preprocess)
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
            readings.append(Reading(units[: len(rows)], rows, own, some[number].image))
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
    order = rng.permutation(len(readings))
    halves = order[::2], order[1::2]
    found: list[tuple[float, Found]] = []
    for name in dict.fromkeys(name for reading in readings for name in reading.values):
        parts = [_gather([readings[i] for i in half], name) for half in halves]
        values = np.concatenate([value for _, value in parts])
        numeric = not set(np.unique(values)) <= {0.0, 1.0}
        if any(not _enough(value, numeric) for _, value in parts):
            continue
        (choose_PU, choose_P), (judge_PU, judge_P) = parts
        unit = int(np.abs(_scores(choose_PU, choose_P, numeric)).argmax())
        score = _scores(judge_PU[:, [unit]], judge_P, numeric)[0]
        other = int(np.abs(_scores(choose_PU, rng.permutation(choose_P), numeric)).argmax())
        control = _scores(judge_PU[:, [other]], rng.permutation(judge_P), numeric)[0]
        add = 0.0 if numeric else 0.5
        scores = float(score + add), float(control + add)
        found.append((abs(score), Found(name, unit, called[unit], *scores, numeric)))
    return [one for _, one in sorted(found, key=lambda pair: -pair[0])]


def _gather(readings: Sequence[Reading], name: str) -> tuple[np.ndarray, np.ndarray]:
    """state_PU and value_P of all places where the property says something."""
    states, values = [], []
    for reading in readings:
        if name in reading.values:
            real = ~np.isnan(reading.values[name])
            states.append(reading.state_TU[real])
            values.append(reading.values[name][real])
    if not states:
        return np.zeros((0, 1)), np.zeros(0)
    return np.concatenate(states), np.concatenate(values)


def _enough(value_P: np.ndarray, numeric: bool) -> bool:
    if numeric:
        return len(value_P) >= 2 * LEAST and bool(value_P.std() > 0)
    return min((value_P == 0).sum(), (value_P == 1).sum()) >= LEAST


def _scores(state_PU: np.ndarray, value_P: np.ndarray, numeric: bool) -> np.ndarray:
    """r of each unit with the value, or AUC - 0.5."""
    if numeric:
        x_PU, y_P = state_PU - state_PU.mean(0), value_P - value_P.mean()
        size_U = np.sqrt((x_PU**2).sum(0) * (y_P**2).sum())
        return (x_PU * y_P[:, None]).sum(0) / np.where(size_U > 0, size_U, 1)
    ranks_PU = state_PU.argsort(0).argsort(0) + 1
    ones = value_P == 1
    n1, n0 = int(ones.sum()), int((~ones).sum())
    return (ranks_PU[ones].sum(0) - n1 * (n1 + 1) / 2) / (n1 * n0) - 0.5


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns 0, or 2 for an error."""
    parser = argparse.ArgumentParser("captioner.neurons", description="Units that one can read.")
    parser.add_argument("model", metavar="MODEL", help="a model directory of a run")
    parser.add_argument(
        "data", metavar="DATA", help="for a language model, a text, a folder of texts, or python; "
        "for a captioner, a folder as data.root",
    )  # fmt: skip
    parser.add_argument("--pattern", default="*", help="of a folder's files")
    parser.add_argument("--val-share", type=float, default=0.1, help="as in training: held out")
    parser.add_argument("--split", default="val")
    parser.add_argument("--limit", type=int, default=200, help="documents or pictures (200)")
    parser.add_argument("--out", type=Path, default=Path("neurons.html"), help="the page")
    options = parser.parse_args(argv)
    try:
        model = saved.read(options.model)
        if isinstance(model, LanguageModel):
            some = text.documents(options.data, options.pattern)
            held_out = text.split(some, options.val_share)[1] if options.val_share else some
            readings = read_texts(model, held_out, options.limit)
        else:
            pictures = [r for r in records.read(Path(options.data), options.split) if r.captions]
            readings = read_captions(model, pictures[: options.limit])
        found = search(readings, labels(model))
        if not found:
            raise InputError(f"{options.data}: too little for any property: give more documents")
        files.make_folder(options.out.parent)
        files.write(options.out, neurons_page.page(readings, found))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for one in found:
        what = "r" if one.numeric else "AUC"
        print(f"{one.name:32} {one.label:9} {what} {one.score:6.3f}   by chance {one.control:6.3f}")
    print(f"the page is {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
