"""The hypothesis that agrees most with everything else that might be said."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from captioner.metrics.cider import Cider, Uniform
from captioner.metrics.ngrams import References
from captioner.search.base import Strategy, check_count
from captioner.search.beam import Beam
from captioner.search.engine import Captions, Progress, count, device_of, rows_of
from captioner.search.rules import check
from captioner.search.sampling import Sample
from captioner.types import EOS, PAD


@dataclass(frozen=True)
class Consensus(Strategy):
    """The `n` hypotheses of a beam whose expected CIDEr-D is greatest: minimum Bayes risk (Kumar
    and Byrne 2004; Eikema and Aziz 2022). Samples of the same image stand for its references.

    width, length_penalty: of the beam. samples, temperature, seed: of what is drawn (see `Sample`);
    by default cooler than 1, which is better (LOG.md). Every n-gram weighs the same in CIDEr-D, so
    that it takes no corpus. The score of a caption is this mean, 0 to 10. What captions must say
    the beam sees to. At most `max_length` tokens, END included.
    """

    width: int = 5
    length_penalty: float = 0.8
    samples: int = 100
    temperature: float = 0.7
    n: int = 1
    seed: int = 0
    max_length: int = 30

    can_include = True

    def __post_init__(self):
        check_count(self, "samples")
        self._beam, self._sample  # noqa: B018  # they check the rest
        check(self.n <= self.width, f"search.n={self.n}: give 1 to search.width={self.width}")

    @property
    def _beam(self) -> Beam:
        return Beam(self.width, self.length_penalty, self.width, self.max_length)

    @property
    def _sample(self) -> Sample:
        return Sample(self.temperature, n=self.samples, seed=self.seed, max_length=self.max_length)

    @property
    def rows(self) -> int:  # type: ignore[override]
        return max(self.width, self.samples)

    def find(self, step, memory, state, rules, numbers, progress):
        first_B = torch.arange(0, count(state), self.rows, device=device_of(state))

        def by(strategy: Strategy, progress: Progress | None = None) -> Captions:
            row_BK = first_B[:, None] + torch.arange(strategy.rows, device=first_B.device)
            some = rows_of(state, row_BK.flatten())
            return strategy(step, memory, some, rules, numbers, progress)

        found = by(self._beam, progress)
        found = found.ranked(agreement(found, by(self._sample)))
        tokens, scores, log_probs, errors = found
        return Captions(tokens[:, : self.n], scores[:, : self.n], log_probs[:, : self.n], errors)


def agreement(captions: Captions, samples: Captions) -> Tensor:
    """(B, K): the mean CIDEr-D of each caption with the samples of its image; 0 without any."""
    text_BK = [_texts(rows) for rows in captions.token_BKT.tolist()]
    references = References([_texts(rows) for rows in samples.token_BKT.tolist()])
    image_N = np.repeat(np.arange(len(text_BK)), captions.token_BKT.shape[1])
    matches = references.match([text for texts in text_BK for text in texts], image_N)
    value_N = Cider(references, Uniform(references.numbers))(matches)
    return torch.from_numpy(value_N).to(captions.score_BK).view(captions.score_BK.shape)


def _texts(rows: Sequence[Sequence[int]]) -> list[str]:
    """Token ids as the words of a text, END left out: all that n-grams ask for."""
    return [" ".join(str(i) for i in row if i not in (EOS, PAD)) for row in rows]
