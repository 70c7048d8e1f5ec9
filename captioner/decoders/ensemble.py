"""Several decoders as one: an ensemble is itself a decoder."""

import math
from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from captioner.decoders.base import Decoder
from captioner.errors import InputError

AVERAGES = ("log_prob", "prob")
T = TypeVar("T")


class Ensemble(Decoder):
    """The members' distributions over one vocabulary, averaged at each step:

    log_prob   y = mean_k log p_k     (a geometric mean; what the literature mostly does)
    prob       y = log mean_k p_k

    Memory and state are the members', their names prefixed by "k.". Features are PerMember, one
    entry for each. Raises InputError if the vocabularies differ in size.
    """

    def __init__(self, members: Sequence[Decoder], average: str = "log_prob"):
        super().__init__()
        if average not in AVERAGES:
            raise InputError(f"average={average}: give one of {', '.join(AVERAGES)}")
        if len({member.vocab_size for member in members}) != 1:
            sizes = ", ".join(str(member.vocab_size) for member in members)
            raise InputError(f"an ensemble needs one vocabulary; these have {sizes} words")
        self.members: Sequence[Decoder] = nn.ModuleList(members)  # type: ignore[assignment]
        self.average, self.vocab_size = average, members[0].vocab_size
        self.uses_grid = tuple(m.uses_grid for m in members)  # type: ignore[assignment]

    def start(self, features, rows):
        of_member = [None] * len(self.members) if features is None else features
        starts = [member.start(v, rows) for member, v in zip(self.members, of_member)]
        memories, states = zip(*starts)
        return _prefixed(memories), _prefixed(states)

    def step(self, token_N, memory, state):
        steps = [m.step(token_N, _of(k, memory), _of(k, state)) for k, m in enumerate(self.members)]
        logits, states = zip(*steps)
        return self._mean(logits), _prefixed(states)

    def forward(self, token_NT, length_N, memory, state, keep=()):
        """`keep`: the members' names, prefixed like their state's."""
        names = dict.fromkeys(keep)
        forwards = [
            member(token_NT, length_N, _of(k, memory), _of(k, state), list(_of(k, names)))
            for k, member in enumerate(self.members)
        ]
        logits, states, traces = zip(*forwards)
        kept = _prefixed(traces)
        self.check_keep(keep, kept)
        return self._mean(logits), _prefixed(states), kept

    def _mean(self, logits: Sequence[Tensor]) -> Tensor:
        log_probs = torch.stack([logits_NV.log_softmax(1) for logits_NV in logits])
        if self.average == "log_prob":
            return log_probs.mean(0)
        return log_probs.logsumexp(0) - math.log(len(log_probs))


def _prefixed(of_member: Iterable[dict[str, T]]) -> dict[str, T]:
    return {f"{k}.{name}": x for k, entries in enumerate(of_member) for name, x in entries.items()}


def _of(k: int, entries: dict[str, T]) -> dict[str, T]:
    """The k-th member's entries."""
    prefix = f"{k}."
    return {n.removeprefix(prefix): x for n, x in entries.items() if n.startswith(prefix)}
