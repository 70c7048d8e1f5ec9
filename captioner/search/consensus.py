"""The hypothesis that agrees most with samples of the same image."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from captioner.metrics.cider import Cider, Uniform
from captioner.metrics.ngrams import References
from captioner.search.base import Captions, Inputs, Strategy
from captioner.search.beam import Beam
from captioner.search.sampling import Sample
from captioner.types import EOS, PAD


@dataclass(frozen=True)
class Consensus(Strategy):
    """The `n` hypotheses of a beam whose expected CIDEr-D is greatest: minimum Bayes risk (Kumar
    and Byrne 2004; Eikema and Aziz 2022). Samples of the same image stand for its references.

    width, length_penalty: of the beam. samples, temperature, seed: of what is drawn (see `Sample`);
    the default is cooler than 1, which is better (LOG.md). Every n-gram weighs the same in CIDEr-D,
    so that it needs no corpus. The score of a caption is this mean, 0 to 10. `must_include` is for
    the beam. At most `max_length` tokens, END included.
    """

    width: int = 5
    length_penalty: float = 0.8
    samples: int = 100
    temperature: float = 0.7
    n: int = 1
    seed: int = 0
    max_length: int = 30

    supports_must_include = True

    def __post_init__(self):
        super().__post_init__()
        Beam(self.width, n=self.n)  # it checks that n is not above the width

    @property
    def rows(self) -> int:
        return max(self.width, self.samples)

    def search(self, inputs: Inputs) -> Captions:
        beam = Beam(self.width, self.length_penalty, self.width, self.max_length)
        sample = Sample(
            self.temperature, n=self.samples, seed=self.seed, max_length=self.max_length
        )
        hypotheses = beam.search(inputs.first_rows(self.width))
        samples = sample.search(inputs.first_rows(self.samples))
        return hypotheses.ranked(agreement(hypotheses, samples)).best(self.n)


def agreement(captions: Captions, samples: Captions) -> Tensor:
    """(B, K): the mean CIDEr-D of each caption with the samples of its image; 0 without any."""
    text_BK = [_texts(rows) for rows in captions.token_BKT.tolist()]
    references = References([_texts(rows) for rows in samples.token_BKT.tolist()])
    image_N = np.repeat(np.arange(len(text_BK)), captions.token_BKT.shape[1])
    matches = references.match([text for texts in text_BK for text in texts], image_N)
    value_N = Cider(references, Uniform(references.numbers))(matches)
    score_BK = captions.score_BK
    return torch.from_numpy(value_N).to(score_BK.dtype).to(score_BK.device).view_as(score_BK)


def _texts(rows: Sequence[Sequence[int]]) -> list[str]:
    """Token ids as the words of a text, END left out: all that n-grams need."""
    return [" ".join(str(i) for i in row if i not in (EOS, PAD)) for row in rows]
