"""Concepts: v' = [v; t], the image vector and how sure the encoder is of each of X words.

A CNN knows more than the pictures of one caption data set show: ImageNet's 1,000 classes. And text
knows more words. With t, a decoder learns from captions without pictures what to say of concepts,
since t can be read off a caption; and it learns from pictures how they look. The equations stay,
with W_ih v' (novel objects: Hendricks et al. 2016, Venugopalan et al. 2017; captions without
pictures: Feng et al. 2019).
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from captioner.errors import InputError
from captioner.types import Features

Words = Sequence[Sequence[str]]

CLASSES = Path(__file__).with_name("imagenet_words.tsv")
"""ImageNet's classes in their order: WordNet id, name, and caption words that hold for it.

Ids and names are WordNet 3.0's (Princeton University, WordNet licence), in the order of ILSVRC
2012; the words were chosen by hand from the class's hypernyms, among those that captions use.
"""
FORMS = Path(__file__).with_name("word_forms.txt")
"""Other forms of such a word, or words of the same meaning, after it."""
FUNCTION_WORDS = frozenset(
    "a about after an and another are around as at away be being both but by down each for from "
    "has have he her him his how in into is it its itself her of off on one or other out over she "
    "some something someone that the their them there they this three to two up very what which "
    "while who with 's across along against behind below beside between near next onto through "
    "toward towards under his it's not no all four five several many".split()
)


class Concepts(nn.Module):
    """v_BD -> [v; t], t the probabilities of X concepts, 0 below THRESHOLD, times a constant.

    words: the words of each concept (dog, dogs, puppy). size: D of v. t is the larger of two
    estimates of the share of human captions that say such a word: the probability of those of
    ImageNet's classes for which CLASSES names the concept's first word; and a linear probe of v,
    which `fit` learns from pictures with captions.

    A concept such as [<coco>] is a style, that of some of the captions without pictures: 1 in
    theirs and, if it is the `style` to caption pictures in, in those of pictures, otherwise 0.
    Raises InputError for other words than lists that begin differently, and for an unknown style.
    """

    THRESHOLD = 0.15
    PENALTY = 0.04  # of the probes' squared weights
    LEAST = 50  # pictures of a concept, for a probe
    LENGTH = 15.0  # of a sure concept, in standard deviations of v
    NEVER = -20.0  # the logit of a concept without a probe
    KEPT, WRONG = 0.6, 0.3  # of a caption's concepts, and on average besides: see `imagine`

    named_X2: Tensor
    mean_D: Tensor
    std: Tensor
    probe_XD: Tensor
    bias_X: Tensor

    def __init__(self, words: Words, size: int, style: str | None = None):
        super().__init__()
        if not words or not all(words) or len({forms[0] for forms in words}) < len(words):
            raise InputError("encoder.concepts: give lists of words that begin differently")
        X, D = len(words), size
        self.words = [list(forms) for forms in words]
        self.numbers: dict[str, list[int]] = {}  # of the concepts of a word
        for x, forms in enumerate(words):
            for word in forms:
                self.numbers.setdefault(word, []).append(x)
        first = {forms[0]: x for x, forms in enumerate(words)}
        self.styles = {word[1:-1]: x for word, x in first.items() if word[0] + word[-1] == "<>"}
        self.style = style
        named = [
            (k, first[word])
            for k, of_class in enumerate(class_words())
            for word in of_class
            if word in first
        ]  # pairs of a class and a concept
        named_X2 = torch.tensor(named, dtype=torch.long).view(-1, 2)
        self.register_buffer("named_X2", named_X2, persistent=False)
        self.register_buffer("mean_D", torch.zeros(D))
        self.register_buffer("std", torch.ones(()))
        self.register_buffer("probe_XD", torch.zeros(X, D))
        self.register_buffer("bias_X", torch.full((X,), self.NEVER))

    @property
    def style(self) -> str | None:
        """The style in which pictures are captioned; None: that of the captions of pictures."""
        return self._style

    @style.setter
    def style(self, style: str | None) -> None:
        if style is not None and style not in self.styles:
            known = f"one of {', '.join(self.styles)}, or none" if self.styles else "none"
            raise InputError(f"style={style}: this model has learned no such style: give {known}")
        self._style = style

    def forward(self, v_BD: Tensor, class_BK: Tensor) -> Tensor:
        """v_BD and the probabilities of ImageNet's K classes -> v'_BD', D' = D + X."""
        t_BX = self.probabilities(v_BD, class_BK)
        if self.style is not None:
            t_BX[:, self.styles[self.style]] = 1
        return torch.cat([v_BD, t_BX * self.LENGTH * self.std], dim=1)

    def read(self, image_BD: Tensor) -> Tensor:
        """t_BX of v'_BD', with 0 for all styles."""
        t_BX = image_BD[:, -len(self.words) :] / (self.LENGTH * self.std)
        styles_X = torch.tensor(list(self.styles.values()), dtype=torch.long, device=t_BX.device)
        return t_BX.index_fill(1, styles_X, 0)

    def probabilities(self, v_BD: Tensor, class_BK: Tensor) -> Tensor:
        """t_BX, from 0 to 1."""
        probed_BX = nn.functional.linear(self._standard(v_BD), self.probe_XD, self.bias_X)
        k_X, x_X = self.named_X2.unbind(1)
        named_BX = torch.zeros_like(probed_BX).index_add(1, x_X, class_BK[:, k_X])
        t_BX = torch.maximum(named_BX, probed_BX.sigmoid()).clamp(max=1)
        return t_BX * (t_BX > self.THRESHOLD)

    @torch.no_grad()
    def fit(self, v_BD: Tensor, captions: Sequence[Sequence[Sequence[str]]]) -> None:
        """Learn the probes: ridge logistic regressions of the share of a picture's captions, given
        as words, that say the concept. Those of fewer than LEAST pictures have none."""
        spoken = [[self.spoken(words) for words in of_picture] for of_picture in captions]
        share_BX = torch.zeros(len(captions), len(self.words))
        for b, of_picture in enumerate(spoken):
            for concepts in of_picture:
                share_BX[b, list(concepts)] += 1 / len(of_picture)
        v_BD = v_BD.to(self.mean_D)
        self.mean_D.copy_(v_BD.mean(0))
        self.std.copy_((v_BD - v_BD.mean(0)).square().mean().sqrt().clamp(min=1e-6))
        probed = ((share_BX > 0).sum(0) >= self.LEAST).nonzero()[:, 0].to(v_BD.device)
        if not len(probed):
            return
        share_BX = share_BX.to(v_BD)[:, probed]
        base_X = share_BX.mean(0).clamp(max=0.99).logit()
        weight_XD = torch.zeros(len(probed), v_BD.shape[1], device=v_BD.device)
        self.probe_XD[probed], self.bias_X[probed] = _logistic_regression(
            self._standard(v_BD), share_BX, weight_XD, base_X, self.PENALTY
        )

    def _standard(self, v_BD: Tensor) -> Tensor:
        return (v_BD - self.mean_D) / self.std

    def spoken(self, words: Iterable[str]) -> frozenset[int]:
        """The numbers of the concepts that these words name."""
        return frozenset(x for word in words for x in self.numbers.get(word, ()))

    def imagine(self, spoken: Sequence[Collection[int]], rng: np.random.Generator) -> Features:
        """Features for captions without pictures: v' = [mean v; t], with t as an encoder that errs
        would see the concepts that each caption names.

        A concept is seen with probability KEPT, and WRONG others are, on average.
        """
        t_BX = np.zeros((len(spoken), len(self.words)), np.float32)
        for t_X, concepts in zip(t_BX, spoken):
            seen = [x for x in sorted(concepts) if rng.random() < self.KEPT]
            t_X[seen] = rng.uniform(self.THRESHOLD, 1, len(seen))
            wrong = rng.integers(len(t_X), size=rng.poisson(self.WRONG))
            t_X[wrong] = np.maximum(t_X[wrong], rng.uniform(self.THRESHOLD, 0.6, len(wrong)))
            styles = list(self.styles.values())
            t_X[styles] = [x in concepts for x in styles]
        v_BD = self.mean_D.cpu().expand(len(spoken), -1)
        scaled_BX = torch.from_numpy(t_BX) * self.LENGTH * self.std.cpu()
        return Features(torch.cat([v_BD, scaled_BX], dim=1))


def choose_concepts(captions: Sequence[Sequence[Collection[str]]]) -> list[list[str]]:
    """The concepts of these pictures' captions, given as words: those of ImageNet's classes, and
    every other word of at least LEAST pictures that is not a function word."""
    forms = {first: [first, *others] for first, *others in map(str.split, _lines(FORMS))}
    names = dict.fromkeys(word for named in class_words() for word in named)
    words = [forms.get(name, [name]) for name in names]
    known = {word for named in words for word in named} | FUNCTION_WORDS
    pictures: Counter[str] = Counter()
    for of_picture in captions:
        pictures.update(set().union(*of_picture) - known)
    frequent = [word for word, count in pictures.items() if count >= Concepts.LEAST]
    return words + [[word] for word in sorted(frequent) if word.isalpha()]


def join_classifiers(heads: Sequence[nn.Linear]) -> nn.Linear:
    """One frozen classifier of several models' vectors side by side: the mean of their logits."""
    joined = nn.Linear(sum(head.in_features for head in heads), heads[0].out_features)
    with torch.no_grad():
        joined.weight.copy_(torch.cat([head.weight for head in heads], dim=1) / len(heads))
        joined.bias.copy_(torch.stack([head.bias for head in heads]).mean(0))
    return joined.requires_grad_(False)


@cache
def class_words() -> list[list[str]]:
    """The caption words of each of ImageNet's classes."""
    return [line.split("\t")[2].split() for line in _lines(CLASSES)]


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def _logistic_regression(
    x_BD: Tensor, y_BX: Tensor, weight_XD: Tensor, bias_X: Tensor, penalty: float
) -> tuple[Tensor, Tensor]:
    """The weights and biases that minimise the cross-entropy, summed over X, mean over B, and half
    the penalty times the squared weights; by L-BFGS from those given."""
    weight_XD.requires_grad_(), bias_X.requires_grad_()
    optimizer = torch.optim.LBFGS([weight_XD, bias_X], max_iter=50, line_search_fn="strong_wolfe")

    @torch.enable_grad()
    def closure() -> Tensor:
        optimizer.zero_grad()
        logit_BX = nn.functional.linear(x_BD, weight_XD, bias_X)
        loss = nn.functional.binary_cross_entropy_with_logits(logit_BX, y_BX, reduction="sum")
        loss = loss / len(x_BD) + penalty / 2 * weight_XD.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    return weight_XD.detach(), bias_X.detach()
