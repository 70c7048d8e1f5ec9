"""From a decoder's `step` to captions: greedy, sampling, beam. Knows nothing of any model.

Each strategy is a small frozen object, called with the decoder's `step` and with the memory and
state that `start` returned for B * rows rows; all images and hypotheses are searched at once.

    captions = Beam(width=5)(decoder.step, memory, state)

`image_numbers` identify the images, for rules and for random draws, so that an image's samples do
not depend on its batch. The default is 0, 1, 2 ...  `rules`: see captioner/search/rules.py.
`must_include`, `guide`: see captioner/search/include.py.
"""

from captioner.search.base import SCORES, Captions, Strategy
from captioner.search.beam import Beam, Guided, StochasticBeam
from captioner.search.consensus import Consensus
from captioner.search.sampling import Greedy, Sample

STRATEGIES = (Greedy, Sample, Beam, Guided, StochasticBeam, Consensus)
__all__ = [
    "SCORES",
    "STRATEGIES",
    "Beam",
    "Captions",
    "Consensus",
    "Greedy",
    "Guided",
    "Sample",
    "StochasticBeam",
    "Strategy",
]
