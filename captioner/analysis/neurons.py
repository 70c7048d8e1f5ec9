"""Units that track a property one can read.

One half of the documents chooses the unit that tells a property best, the other half scores it
(Karpathy, Johnson and Fei-Fei 2016): by the AUC for a property that holds or not, by Spearman's
rank correlation rho with a number. The control is the same search where each document has the
values of another one, moved around by a random distance: what the best unit reaches by chance.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from captioner.analysis.activations import LEAST_DOCUMENTS, LEAST_PLACES, Reading
from captioner.errors import InputError

PLACES = 10_000  # with, and without a property, evenly spaced, by which its unit is chosen


class Match(NamedTuple):
    """The best unit for a property, with its label, such as "c1[37]".

    score, control: AUC, or rho with a number, on documents that did not choose the unit.
    """

    name: str
    unit: int
    label: str
    score: float
    control: float
    measure: str


def find_units(readings: Sequence[Reading], labels: Sequence[str]) -> list[Match]:
    """The best unit for each property that enough places have, and enough lack; best first.

    labels: of all units. Raises InputError if there is too little data for any property.
    """
    rng = np.random.default_rng(0)
    order = rng.permutation(sorted({reading.document for reading in readings}))
    chosen = set(order[::2].tolist())
    halves = [[r for r in readings if (r.document in chosen) is first] for first in (True, False)]
    matches: list[tuple[float, Match]] = []
    for name in dict.fromkeys(name for reading in readings for name in reading.values):
        with_property = [[reading for reading in half if name in reading.values] for half in halves]
        values = [reading.values[name] for half in with_property for reading in half]
        numeric = any(bool((~np.isin(v[~np.isnan(v)], (0, 1))).any()) for v in values)
        if not all(_enough(half, name, numeric) for half in with_property):
            continue
        unit, score = _best_unit([_gather(half, name) for half in with_property], numeric)
        _, control = _best_unit([_gather(half, name, rng) for half in with_property], numeric)
        chance, measure = (0.0, "rho") if numeric else (0.5, "AUC")
        match = Match(name, unit, labels[unit], score + chance, control + chance, measure)
        matches.append((abs(score), match))
    if not matches:
        raise InputError("too little data for any property: give more text, or pictures")
    return [match for _, match in sorted(matches, key=lambda pair: -pair[0])]


Places = tuple[np.ndarray, np.ndarray]  # state_PU, and value_P of a property, at P places


def _best_unit(halves: Sequence[Places], numeric: bool) -> tuple[int, float]:
    """The unit that tells the values of one half best, and its score on the other."""
    state_PU, value_P = halves[0]
    kinds = [np.flatnonzero(value_P == 0), np.flatnonzero(value_P == 1)]
    kinds = [np.arange(len(value_P))] if numeric else kinds
    chosen = np.concatenate([places[:: 1 + len(places) // PLACES] for places in kinds])
    unit = int(np.abs(_scores(state_PU[chosen], value_P[chosen], numeric)).argmax())
    state_PU, value_P = halves[1]
    return unit, float(_scores(state_PU[:, [unit]], value_P, numeric)[0])


def _gather(
    readings: Sequence[Reading], name: str, rng: np.random.Generator | None = None
) -> Places:
    """All places where a property has a value.

    rng: for the control, in which a document has another one's values, moved around by a random
    distance: neighbours stay neighbours.
    """
    states, values = [], []
    for reading in readings:
        value_T = reading.values[name]
        if rng is not None:
            others = [other for other in readings if other.document != reading.document]
            other_T = others[rng.integers(len(others))].values[name]
            value_T = np.roll(other_T, rng.integers(max(1, len(other_T))))[: len(value_T)]
        real_T = ~np.isnan(value_T)
        states.append(reading.state_TU[: len(value_T)][real_T])
        values.append(value_T[real_T])
    return np.concatenate(states), np.concatenate(values)


def _enough(readings: Sequence[Reading], name: str, numeric: bool) -> bool:
    """Whether enough places and documents have a property, and enough lack it."""
    values = [reading.values[name] for reading in readings]
    if numeric:
        documents = {reading.document for reading in readings}
        return len(documents) >= LEAST_DOCUMENTS and float(np.nanstd(np.concatenate(values))) > 0
    for wanted in (0, 1):
        places = [int((value == wanted).sum()) for value in values]
        documents = {reading.document for reading, count in zip(readings, places) if count}
        if sum(places) < LEAST_PLACES or len(documents) < LEAST_DOCUMENTS:
            return False
    return True


def _scores(state_PU: np.ndarray, value_P: np.ndarray, numeric: bool) -> np.ndarray:
    """rho of each unit with a value, or AUC - 0.5, (U,): both from ranks alone.

    0 for a unit that never changes; NaN if all places have one value, as a control may.
    """
    rank_PU = stats.rankdata(state_PU, axis=0)
    if len(np.unique(value_P)) < 2:
        return np.full(state_PU.shape[1], np.nan)
    if not numeric:
        ones_P = value_P == 1
        return (rank_PU[ones_P].mean(0) - rank_PU[~ones_P].mean(0)) / len(value_P)
    rho_U = np.zeros(state_PU.shape[1])
    varies_U = np.ptp(rank_PU, axis=0) > 0
    rank_P = stats.rankdata(value_P)
    rho_U[varies_U] = stats.pearsonr(rank_PU[:, varies_U], rank_P[:, None], axis=0).statistic
    return rho_U
