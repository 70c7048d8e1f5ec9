"""Several decoders as one: an ensemble is itself a decoder."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from captioner.decoders.base import Decoder
from captioner.errors import InputError
from captioner.types import Memory, PerMember, State

AVERAGES = ("log_prob", "prob")


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

    def start(self, features: PerMember | None, rows: int) -> tuple[Memory, State]:  # type: ignore[override]
        memory: Memory = {}
        state: State = {}
        for k, member in enumerate(self.members):
            of_memory, of_state = member.start(None if features is None else features[k], rows)
            memory |= {f"{k}.{name}": tensor for name, tensor in of_memory.items()}
            state |= {f"{k}.{name}": tensor for name, tensor in of_state.items()}
        return memory, state

    def step(self, token_N: Tensor, memory: Memory, state: State) -> tuple[Tensor, State]:
        logits = []
        after: State = {}
        for k, member in enumerate(self.members):
            logits_NV, state_k = member.step(token_N, _of(k, memory), _of(k, state))
            logits.append(logits_NV)
            after |= {f"{k}.{name}": tensor for name, tensor in state_k.items()}
        return self._mean(logits), after

    def forward(
        self,
        token_NT: Tensor,
        length_N: Tensor,
        memory: Memory,
        state: State,
        keep: Sequence[str] = (),
    ) -> tuple[Tensor, State, dict[str, Tensor]]:
        """`keep`: the members' names, prefixed like their state's."""
        logits = []
        after: State = {}
        kept: dict[str, Tensor] = {}
        for k, member in enumerate(self.members):
            wanted = [name.removeprefix(f"{k}.") for name in keep if name.startswith(f"{k}.")]
            logits_PV, state_k, traces = member(
                token_NT, length_N, _of(k, memory), _of(k, state), wanted
            )
            logits.append(logits_PV)
            after |= {f"{k}.{name}": tensor for name, tensor in state_k.items()}
            kept |= {f"{k}.{name}": tensor for name, tensor in traces.items()}
        self.check_keep(keep, kept)
        return self._mean(logits), after, kept

    def _mean(self, logits: Sequence[Tensor]) -> Tensor:
        log_probs = torch.stack([logits_NV.log_softmax(1) for logits_NV in logits])
        if self.average == "log_prob":
            return log_probs.mean(0)
        return log_probs.logsumexp(0) - math.log(len(log_probs))


def _of(k: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    prefix = f"{k}."
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
