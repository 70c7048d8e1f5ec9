"""Rewards of captions, from the code that also evaluates them."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from captioner.errors import InputError
from captioner.metrics.bleu import bleu
from captioner.metrics.cider import Cider, DocumentFrequencies
from captioner.metrics.ngrams import References
from captioner.metrics.rouge import rouge_l

END = "<eos>"
"""The end of a caption as a word: no caption contains it."""
METRICS = ("cider", "bleu", "rouge")

Reward = Mapping[str, float] | Callable[[Sequence[str], np.ndarray], np.ndarray]


class Rewards:
    """Computes the reward of any captions of I images, whose references are counted once.

    references: token strings, one or more for each image; CIDEr's document frequencies are theirs.
    reward: weights of `cider` (CIDEr-D, 0 to 10), `bleu` (BLEU-4) and `rouge` (ROUGE-L); or a
    function (token strings, image of each) -> rewards (N,). end: whether END counts as a word of
    references and of finished captions. tokenizer: whose tokens these are.
    """

    def __init__(
        self,
        references: Sequence[Sequence[str]],
        reward: Reward,
        end: bool = True,
        tokenizer: str = "ptb",
    ):
        if isinstance(reward, Mapping):
            option = f"objective.reward={dict(reward)}"
            if unknown := set(reward) - set(METRICS):
                names = ", ".join(map(str, unknown))
                raise InputError(f"{option}: {names} is none of {', '.join(METRICS)}")
            if not any(reward.values()):
                raise InputError(f"{option}: every weight is 0")
        self.reward, self.end = reward, end
        self.texts = [[self._ended(text) for text in texts] for texts in references]
        self.references = References(self.texts)
        frequencies = DocumentFrequencies.from_references(self.references, tokenizer)
        self.cider = Cider(self.references, frequencies)

    def _ended(self, text: str) -> str:
        return f"{text} {END}".lstrip() if self.end else text

    def __call__(
        self, captions: Sequence[str], finished: Sequence[bool], image_N: np.ndarray
    ) -> np.ndarray:
        """The rewards (N,) of token strings; finished: which of them ended with END."""
        if not isinstance(self.reward, Mapping):
            return np.asarray(self.reward(captions, image_N), np.float64)
        texts = [self._ended(text) if end else text for text, end in zip(captions, finished)]
        matches = self.references.match(texts, image_N)
        reward_N = np.zeros(len(texts))
        for name, weight in self.reward.items():
            if not weight:
                continue
            if name == "cider":
                value_N = self.cider(matches)
            elif name == "bleu":
                value_N = bleu(matches).per_image()[:, -1]
            else:
                references = [self.texts[image] for image in image_N]
                value_N = rouge_l(references, texts).per_image()[:, 0]
            reward_N += weight * value_N
        return reward_N
