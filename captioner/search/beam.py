"""The strategies of the beam engine (captioner/search/engine.py)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from captioner.search import base
from captioner.search.base import Captions, Inputs, Strategy
from captioner.search.engine import Policy, beam_search
from captioner.search.include import DynamicBeamAllocation
from captioner.search.rules import check


@dataclass(frozen=True)
class Beam(Strategy):
    """The `n` best of the hypotheses that a beam of `width` meets.

    score: of a hypothesis Y with log-probability L, END counted in |Y|, and a = length_penalty:
        power   L / |Y|^a                  (a = 0: the sum; a = 1: the mean)
        wu      L / ((5 + |Y|) / 6)^a      (Wu et al. 2016)
        reward  L + a |Y|
    groups, diversity: diverse beam search (Vijayakumar et al. 2018): `width / groups` hypotheses a
        group; at each step a group chooses by L minus `diversity` for every hypothesis of earlier
        groups that goes on with the same word at this step (Hamming diversity).

    Per image and group there are `width / groups` live hypotheses, ranked by L, and as many
    finished ones, ranked by score; one that ends among the best `width / groups` of a step moves
    over, and at `max_length` tokens, END included, the live ones enter as unfinished. A group is
    done when no live hypothesis can still beat its n-th finished one; an image, when its groups
    are. Then it leaves the batch.

    It supports `must_include` (see `DynamicBeamAllocation`), with one group.
    """

    width: int = 5
    length_penalty: float = 0.8
    n: int = 1
    max_length: int = 30
    score: str = "power"
    groups: int = 1
    diversity: float = 0.5

    supports_must_include = True

    def __post_init__(self):
        super().__post_init__()
        width = f"search.width={self.width}"
        check(self.n <= self.width, f"search.n={self.n}: give 1 to {width}")
        divides = self.width % self.groups == 0
        check(divides, f"search.groups={self.groups}: does not divide {width}")

    @property
    def rows(self) -> int:
        return self.width

    def search(self, inputs: Inputs) -> Captions:
        sizes = self.width, self.n, self.max_length
        policy = Policy(
            *sizes, self._candidates, self._score_of, groups=self.groups, diversity=self.diversity
        )
        if inputs.must_include is not None:
            check(self.groups == 1, "words that captions must include need search.groups=1")
            allocation = DynamicBeamAllocation(inputs.must_include, self.width, self.max_length)
            policy = policy._replace(candidates=allocation, values=2)
        return beam_search(policy, inputs).best(self.n)

    def _candidates(self, log_prob_NV, live_NS, prefix_NT, image_number_N) -> tuple[Tensor, Tensor]:
        """The likeliest words: with at most width - width / groups of them less likely by
        `diversity`, the best 2 width / groups of a group are among them."""
        best_NC, word_NC = base.top(log_prob_NV, self.width + self.width // self.groups)
        return live_NS[:, None] + best_NC[..., None], word_NC

    def _score_of(self, value_XS: Tensor, length: int) -> Tensor:
        """The score of hypotheses of that length; no live one can get more than at max_length."""
        return base.length_normalised(value_XS[..., 0], length, self.score, self.length_penalty)


@dataclass(frozen=True)
class Guided(Beam):
    """A beam whose captions name what the encoder is sure of (Anderson et al. 2017).

    If none of an image's captions includes what `guide` wants, such as one of the words dog, dogs
    and puppy, the image is searched again, among captions that do. threshold: the probability from
    which on the encoder counts as sure of a concept.
    """

    threshold: float = 0.5

    def search(self, inputs: Inputs) -> Captions:
        captions = super().search(inputs)
        images, guide = len(captions.error_B), inputs.guide
        if guide is None:
            return captions._replace(forced_B=[False] * images)
        token_NT, _ = captions.framed()
        number_N = torch.tensor(inputs.image_numbers, device=token_NT.device)
        number_N = number_N.repeat_interleave(len(token_NT) // images)
        wanted_NF = guide(token_NT, number_N)[1] >= 0
        unmet_B = wanted_NF.any(1).view(images, -1).all(1)
        if not unmet_B.any():
            return captions._replace(forced_B=unmet_B.tolist())
        again = super().search(
            inputs.of_images(unmet_B.nonzero()[:, 0])._replace(must_include=guide)
        )
        return captions.replaced(unmet_B, again)._replace(forced_B=unmet_B.tolist())


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

    @property
    def rows(self) -> int:
        return self.n

    def search(self, inputs: Inputs) -> Captions:
        sizes = self.n, self.n, self.max_length
        policy = Policy(*sizes, self._candidates, _perturbed, values=3)
        captions = beam_search(policy, inputs)
        return captions.ranked(captions.log_prob_BK)

    def _candidates(self, log_prob_NV, live_NS, prefix_NT, image_number_N) -> tuple[Tensor, Tensor]:
        """The words whose perturbed log-probability G is greatest (Kool's algorithm 1).

        Values: log-probability; G; log-probability of being drawn, which is another one if the
        temperature is not 1 or words are forbidden.
        """
        drawn_NV = live_NS[:, 2:] + (log_prob_NV / self.temperature).log_softmax(1)
        drawn_NV = drawn_NV.masked_fill(log_prob_NV == -torch.inf, -torch.inf)
        t, numbers = prefix_NT.shape[1], image_number_N[:: self.n].tolist()
        uniform_NV = base.uniforms(self.n, log_prob_NV.shape[1], self.seed, numbers, t)
        noise_NV = -(-uniform_NV.log()).log()  # in float32 a number could be rounded to 1
        gumbel_NV = drawn_NV + noise_NV.to(drawn_NV.dtype).to(drawn_NV.device)
        # Shifted so that the greatest of a row is its parent's G: -log(e^-G - e^-best + e^-gumbel).
        below_NV = gumbel_NV - gumbel_NV.amax(1, keepdim=True)
        v_NV = live_NS[:, 1:2] - gumbel_NV + torch.log1p(-below_NV.exp())
        key_NV = live_NS[:, 1:2] - v_NV.clamp(min=0) - torch.log1p((-v_NV.abs()).exp())
        key_NV = key_NV.masked_fill(drawn_NV == -torch.inf, -torch.inf)
        key_NC, word_NC = base.top(key_NV, 2 * self.n)
        true_NC = live_NS[:, :1] + log_prob_NV.gather(1, word_NC)
        return torch.stack([true_NC, key_NC, drawn_NV.gather(1, word_NC)], dim=2), word_NC


def _perturbed(value_XS: Tensor, length: int) -> Tensor:
    """G, by which hypotheses are ranked: it does not rise as a hypothesis grows."""
    return value_XS[..., 1]
