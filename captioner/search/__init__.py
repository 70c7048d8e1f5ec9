"""From a decoder's `step` to captions: greedy, sampling, beam. Knows nothing of any model.

Each strategy is a small frozen object, called with the decoder's `step` and what `start` gave for
B * rows rows; images and hypotheses are searched all at once, as tensors.

    captions = Beam(width=5)(decoder.step, memory, state)

`numbers` says which images these are, for rules and for what is drawn at random: an image's samples
do not depend on its batch. By default 0, 1, 2 ...  `rules`: see captioner/search/rules.py.
"""

from captioner.search.base import SCORES, Strategy
from captioner.search.beam import Beam, StochasticBeam
from captioner.search.consensus import Consensus
from captioner.search.engine import Captions
from captioner.search.sampling import Greedy, Sample

STRATEGIES = (Greedy, Sample, Beam, StochasticBeam, Consensus)
__all__ = [
    "SCORES",
    "STRATEGIES",
    "Beam",
    "Captions",
    "Consensus",
    "Greedy",
    "Sample",
    "StochasticBeam",
    "Strategy",
]
