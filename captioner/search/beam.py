"""The strategies of the beam's engine (captioner/search/engine.py)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from captioner.search.base import Strategy, check_count, check_draw, check_score, grade, uniforms
from captioner.search.engine import Captions, Including, beam_search, top
from captioner.search.rules import check


@dataclass(frozen=True)
class Beam(Strategy):
    """The `n` best of the hypotheses that a beam of `width` meets.

    score: of a hypothesis Y with log-probability L, END counted in |Y|, and a = length_penalty:
        power   L / |Y|^a                  (a = 0: the sum; a = 1: the mean)
        wu      L / ((5 + |Y|) / 6)^a      (Wu et al. 2016)
        reward  L + a |Y|
    groups, diversity: diverse beam search (Vijayakumar et al. 2018): `width / groups` hypotheses a
        group; at each step a group chooses by L minus `diversity` for every hypothesis of the
        groups before it that goes on with the same word now (Hamming diversity).

    Per image and group there are `width / groups` live hypotheses, ranked by L, and as many
    finished ones, ranked by score; one that ends among the best `width / groups` of a step moves
    over, and at `max_length` tokens, END included, the live ones enter as unfinished. A group is
    done when no live hypothesis can still beat its n-th finished one; an image, when its groups
    are. Then it leaves the batch.

    `progress` is what captions must say (see `Including`).
    """

    width: int = 5
    length_penalty: float = 0.8
    n: int = 1
    max_length: int = 30
    score: str = "power"
    groups: int = 1
    diversity: float = 0.5

    can_include = True

    def __post_init__(self):
        for name in ("width", "max_length", "n", "groups"):
            check_count(self, name)
        check(self.n <= self.width, f"search.n={self.n}: give 1 to search.width={self.width}")
        check_score(self)
        check(
            self.width % self.groups == 0,
            f"search.groups={self.groups}: does not divide search.width={self.width}",
        )
        check(0 <= self.diversity <= 1e6, f"search.diversity={self.diversity}: give 0 to 1e6")

    @property
    def rows(self) -> int:  # type: ignore[override]
        return self.width

    def find(self, step, memory, state, rules, numbers, progress):
        check(progress is None or self.groups == 1, "what captions must say: needs search.groups=1")
        policy = self if progress is None else Including(self, progress)
        tokens, scores, log_probs, errors = beam_search(policy, step, memory, state, rules, numbers)
        return Captions(tokens[:, : self.n], scores[:, : self.n], log_probs[:, : self.n], errors)

    values = 1

    def candidates(self, log_prob_NV, live_NS, prefix_NT, number_N):
        """The likeliest words: with at most width - width / groups of them less likely by
        `diversity`, the best 2 width / groups of a group are among them."""
        best_NC, word_NC = top(log_prob_NV, self.width + self.width // self.groups)
        return live_NS[:, None] + best_NC[..., None], word_NC

    def grade(self, value_XS: Tensor, length: int) -> Tensor:
        """The score of hypotheses of that length; no live one can get more than at max_length."""
        return grade(self, value_XS[..., 0], length)


@dataclass(frozen=True)
class StochasticBeam(Strategy):
    """`n` different captions an image, drawn without replacement (Kool, van Hoof, Welling 2019).

    Ordered by Gumbel-perturbed log-probability, the first is a sample, the second a sample of what
    is then left, and so on. They are returned ranked by log-probability under the model itself.
    temperature, seed, max_length: as for `Sample`.
    """

    n: int = 5
    temperature: float = 1.0
    seed: int = 0
    max_length: int = 30

    def __post_init__(self):
        for name in ("n", "max_length"):
            check_count(self, name)
        check_draw(self)

    @property
    def rows(self) -> int:  # type: ignore[override]
        return self.n

    def find(self, step, memory, state, rules, numbers, progress):
        found = beam_search(self, step, memory, state, rules, numbers)
        return found.ranked(found.log_prob_BK)

    groups, diversity, values = 1, 0.0, 3

    def candidates(self, log_prob_NV, live_NS, prefix_NT, number_N):
        """The words whose perturbed log-probability G is greatest (Kool's algorithm 1).

        Values: log-probability; G; log-probability of being drawn, which is another one where the
        temperature is not 1 or words are forbidden.
        """
        drawn_NV = live_NS[:, 2:] + (log_prob_NV / self.temperature).log_softmax(1)
        drawn_NV = drawn_NV.masked_fill(log_prob_NV == -torch.inf, -torch.inf)
        t = prefix_NT.shape[1]
        uniform_NV = torch.cat(
            [
                uniforms(self.n, log_prob_NV.shape[1], self.seed, number, t)
                for number in number_N[:: self.n].tolist()
            ]
        )
        noise_NV = -(-uniform_NV.log()).log()  # in float32 a number could be rounded to 1
        gumbel_NV = drawn_NV + noise_NV.to(drawn_NV)
        # Shifted so that the greatest of a row is its parent's G: -log(e^-G - e^-best + e^-gumbel).
        below_NV = gumbel_NV - gumbel_NV.amax(1, keepdim=True)
        v_NV = live_NS[:, 1:2] - gumbel_NV + torch.log1p(-below_NV.exp())
        key_NV = live_NS[:, 1:2] - v_NV.clamp(min=0) - torch.log1p((-v_NV.abs()).exp())
        key_NV = key_NV.masked_fill(drawn_NV == -torch.inf, -torch.inf)
        key_NC, word_NC = top(key_NV, 2 * self.n)
        true_NC = live_NS[:, :1] + log_prob_NV.gather(1, word_NC)
        return torch.stack([true_NC, key_NC, drawn_NV.gather(1, word_NC)], dim=2), word_NC

    def grade(self, value_XS: Tensor, length: int) -> Tensor:
        """G: that of what a hypothesis may become is never greater."""
        return value_XS[..., 1]
