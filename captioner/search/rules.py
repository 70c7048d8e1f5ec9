"""Rules on words: what a caption must not say, whichever strategy searches for it.

A rule is a pure function of the prefix, `rule(token_NT, log_prob_NV, image_N) -> log_prob_NV`,
which forbids words by -inf and changes nothing else. `token_NT` begins with bos; `image_N` are the
numbers of the images. Rules combine in any order. They do not renormalise: a score is always the
model's own log-probability. Words are ids here, a phrase is a sequence of them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from captioner.errors import InputError
from captioner.types import EOS, PAD

Rule = Callable[[Tensor, Tensor, Tensor], Tensor]
Phrase = int | Sequence[int]


def min_length(words: int) -> Rule:
    """A caption does not end before it has so many words."""

    def rule(token_NT: Tensor, log_prob_NV: Tensor, image_N: Tensor) -> Tensor:
        ends_too_soon = token_NT.shape[1] <= words  # bos is in the prefix
        return _without(log_prob_NV, EOS) if ends_too_soon else log_prob_NV

    return _named(rule, f"min_length({words})")


def max_length(words: int) -> Rule:
    """A caption ends when it has so many words."""
    check(words >= 1, f"max_length({words}): give 1 or more")

    def rule(token_NT: Tensor, log_prob_NV: Tensor, image_N: Tensor) -> Tensor:
        if token_NT.shape[1] <= words:
            return log_prob_NV
        only_NV = torch.full_like(log_prob_NV, -torch.inf)
        only_NV[:, EOS] = log_prob_NV[:, EOS]
        return only_NV

    return _named(rule, f"max_length({words})")


def forbid(*phrases: Phrase, in_image: Mapping[int, Iterable[Phrase]] | None = None) -> Rule:
    """These words and phrases are not said; `in_image`: nor those in the image of that number."""
    always: list[int] = []  # words that are never said
    of_length: dict[int, list[tuple[int, tuple[int, ...]]]] = {}
    owned = [(image, phrase) for image, own in (in_image or {}).items() for phrase in own]
    check(all(image >= 0 for image, _ in owned), "forbid: numbers of images are 0 or more")
    for image, phrase in [(-1, phrase) for phrase in phrases] + owned:  # -1: in every image
        words = (phrase,) if isinstance(phrase, int) else tuple(phrase)
        check(len(words) > 0, "forbid: a phrase without words")
        check(min(words) >= 0, f"forbid({min(words)}): words are 0 or more")
        if len(words) == 1 and image == -1:
            always.append(words[0])
        else:
            of_length.setdefault(len(words), []).append((image, words))
    always_F = torch.tensor(always, dtype=torch.long)
    tables = [
        (torch.tensor([image for image, _ in some]), torch.tensor([words for _, words in some]))
        for some in of_length.values()
    ]

    def rule(token_NT: Tensor, log_prob_NV: Tensor, image_N: Tensor) -> Tensor:
        if always:
            log_prob_NV = log_prob_NV.index_fill(1, always_F.to(image_N.device), -torch.inf)
        for image_F, phrase_FL in tables:
            image_F, phrase_FL = image_F.to(image_N.device), phrase_FL.to(image_N.device)
            L = phrase_FL.shape[1]
            if L > token_NT.shape[1]:
                continue
            here_NF = (image_F == -1) | (image_F == image_N[:, None])
            if L > 1:
                said_N1L = token_NT[:, None, 1 - L :]
                here_NF = here_NF & (said_N1L == phrase_FL[:, :-1]).all(2)
            log_prob_NV = _strike(log_prob_NV, phrase_FL[:, -1].expand_as(here_NF), here_NF)
        return log_prob_NV

    shown = [*map(str, phrases[:3]), *(["..."] if len(phrases) > 3 else [])]
    shown += ["in_image"] if in_image else []
    return _named(rule, f"forbid({', '.join(shown)})")


def no_repeat() -> Rule:
    """No word twice in a row."""

    def rule(token_NT: Tensor, log_prob_NV: Tensor, image_N: Tensor) -> Tensor:
        return log_prob_NV.scatter(1, token_NT[:, -1:], -torch.inf)

    return _named(rule, "no_repeat")


def no_repeated_ngram(n: int) -> Rule:
    """No n words in a row that were said before."""
    check(n >= 1, f"no_repeated_ngram({n}): give 1 or more")

    def rule(token_NT: Tensor, log_prob_NV: Tensor, image_N: Tensor) -> Tensor:
        if token_NT.shape[1] < n:
            return log_prob_NV
        ngram_NWn = token_NT.unfold(1, n, 1)
        last_N1n = token_NT[:, None, token_NT.shape[1] - n + 1 :]
        again_NW = (ngram_NWn[:, :, :-1] == last_N1n).all(2)
        return _strike(log_prob_NV, ngram_NWn[:, :, -1], again_NW)

    return _named(rule, f"no_repeated_ngram({n})")


def no_ending(*words: int) -> Rule:
    """A caption does not end after one of these words (a, the, of, with ...).

    One that is cut off at the strategy's `max_length` has no END, and can stop anywhere; with
    `max_length` as a rule beside this one, none is cut off.
    """
    check(len(words) > 0, "no_ending: no words are given")

    def rule(token_NT: Tensor, log_prob_NV: Tensor, image_N: Tensor) -> Tensor:
        bad_N = torch.isin(token_NT[:, -1], torch.tensor(words, device=token_NT.device))
        end_N1 = torch.full_like(token_NT[:, :1], EOS)
        return _strike(log_prob_NV, end_N1, bad_N[:, None])

    return _named(rule, f"no_ending({', '.join(map(str, words))})")


def begin(*words: int) -> Rule:
    """A caption begins with these words, and goes on from there."""

    def rule(token_NT: Tensor, log_prob_NV: Tensor, image_N: Tensor) -> Tensor:
        at = token_NT.shape[1] - 1
        if at >= len(words):
            return log_prob_NV
        only_NV = torch.full_like(log_prob_NV, -torch.inf)
        only_NV[:, words[at]] = log_prob_NV[:, words[at]]
        return only_NV

    return _named(rule, f"begin({', '.join(map(str, words))})")


class Include:
    """Words and phrases that captions must say: not a rule, but beam search's `progress`.

    Those of all images, and `in_image` of the image of that number besides. Called as
    `progress(token_NT, image_N) -> met_N, next_NC`: how many of their words the prefix has said,
    and which would say more (-1 where there are fewer than C), none once all is said. A phrase is
    said as a whole; one that is begun and left must begin again.
    """

    def __init__(self, *phrases: Phrase, in_image: Mapping[int, Iterable[Phrase]] | None = None):
        wanted = [[*phrases, *own] for own in (in_image or {}).values()] + [[*phrases]]
        each = [
            list(dict.fromkeys((p,) if isinstance(p, int) else tuple(p) for p in own))
            for own in wanted
        ]
        check(all(map(all, each)), "must-include: a phrase without words")
        F = max(map(len, each))
        L = max((len(phrase) for own in each for phrase in own), default=1)
        self.image_S = torch.tensor(list(in_image or {}), dtype=torch.long)
        self.phrase_SFL = torch.full((len(each), F, L), PAD)  # the last row: all other images
        for s, own in enumerate(each):
            for f, phrase in enumerate(own):
                self.phrase_SFL[s, f, : len(phrase)] = torch.tensor(phrase)

    def __call__(self, token_NT: Tensor, image_N: Tensor) -> tuple[Tensor, Tensor]:
        own_NS = image_N[:, None] == self.image_S.to(image_N.device)
        none_N1 = ~own_NS.any(1, keepdim=True)
        row_N = torch.cat([own_NS, none_N1], dim=1).int().argmax(1)
        phrase_NFL = self.phrase_SFL.to(image_N.device)[row_N]
        length_NF = (phrase_NFL != PAD).sum(2)
        N, T = token_NT.shape
        said_NF = length_NF == 0
        begun_NF = torch.zeros_like(length_NF)
        for L in range(1, min(phrase_NFL.shape[2], T) + 1):
            same_NFW = (token_NT.unfold(1, L, 1)[:, None] == phrase_NFL[:, :, None, :L]).all(3)
            said_NF = said_NF | (same_NFW.any(2) & (length_NF == L))
            begun_NF = begun_NF.where(~same_NFW[:, :, -1], L)
        next_NF = phrase_NFL.gather(2, begun_NF.clamp(max=phrase_NFL.shape[2] - 1)[..., None])
        next_NF = next_NF[..., 0].masked_fill(said_NF, -1)
        met_N = (length_NF * said_NF).sum(1)
        if phrase_NFL.shape[1]:
            met_N = met_N + begun_NF.masked_fill(said_NF, 0).amax(1)
        return met_N, next_NF


def _strike(log_prob_NV: Tensor, word_NX: Tensor, which_NX: Tensor) -> Tensor:
    """-inf at those of the words for which it is True. (pad is -inf anyway.)"""
    return log_prob_NV.scatter(1, word_NX.where(which_NX, PAD), -torch.inf)


def _without(log_prob_NV: Tensor, word: int) -> Tensor:
    return log_prob_NV.index_fill(1, torch.tensor(word, device=log_prob_NV.device), -torch.inf)


def check(holds: bool, message: str) -> None:
    if not holds:
        raise InputError(message)


def _named(rule: Rule, name: str) -> Rule:
    rule.__name__ = name
    return rule
