"""Rules on words: what a caption must not contain, whichever strategy searches for it.

A rule is a pure function of the prefix, `rule(token_NT, log_prob_NV, image_N) -> log_prob_NV`,
which forbids words by -inf and changes nothing else. `token_NT` begins with bos; `image_N` are
the numbers of the rows' images. Rules combine in any order. They do not renormalise: a score is
always the model's own log-probability. Words are ids here, a phrase is a sequence of them.
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
        if token_NT.shape[1] > words:  # bos is in the prefix
            return log_prob_NV
        return log_prob_NV.index_fill(1, torch.tensor(EOS, device=log_prob_NV.device), -torch.inf)

    return _named(rule, f"min_length({words})")


def max_length(words: int) -> Rule:
    """A caption ends when it has so many words."""
    check(words >= 1, f"max_length({words}): give 1 or more")

    def rule(token_NT: Tensor, log_prob_NV: Tensor, image_N: Tensor) -> Tensor:
        return log_prob_NV if token_NT.shape[1] <= words else _only(log_prob_NV, EOS)

    return _named(rule, f"max_length({words})")


def forbid(*phrases: Phrase, in_image: Mapping[int, Iterable[Phrase]] | None = None) -> Rule:
    """Without these words and phrases; `in_image`: nor those for the image of that number."""
    always: list[int] = []  # words that no caption contains
    of_length: dict[int, list[tuple[int, tuple[int, ...]]]] = {}
    pairs = [(image, phrase) for image, more in (in_image or {}).items() for phrase in more]
    check(all(image >= 0 for image, _ in pairs), "forbid: image numbers are 0 or more")
    for image, phrase in [(-1, phrase) for phrase in phrases] + pairs:  # -1: in every image
        words = (phrase,) if isinstance(phrase, int) else tuple(phrase)
        check(len(words) > 0, "forbid: a phrase without words")
        check(min(words) >= 0, f"forbid({min(words)}): words are 0 or more")
        if len(words) == 1 and image == -1:
            always.append(words[0])
        else:
            of_length.setdefault(len(words), []).append((image, words))
    always_F = torch.tensor(always, dtype=torch.long)
    tables = [
        (torch.tensor([image for image, _ in pairs]), torch.tensor([words for _, words in pairs]))
        for pairs in of_length.values()
    ]

    def rule(token_NT: Tensor, log_prob_NV: Tensor, image_N: Tensor) -> Tensor:
        if always:
            log_prob_NV = log_prob_NV.index_fill(1, always_F.to(image_N.device), -torch.inf)
        for image_F, phrase_FL in tables:
            image_F, phrase_FL = image_F.to(image_N.device), phrase_FL.to(image_N.device)
            L = phrase_FL.shape[1]
            if L > token_NT.shape[1]:
                continue
            match_NF = (image_F == -1) | (image_F == image_N[:, None])
            if L > 1:
                last_N1L = token_NT[:, None, 1 - L :]
                match_NF = match_NF & (last_N1L == phrase_FL[:, :-1]).all(2)
            log_prob_NV = _strike(log_prob_NV, phrase_FL[:, -1].expand_as(match_NF), match_NF)
        return log_prob_NV

    names = [*map(str, phrases[:3]), *(["..."] if len(phrases) > 3 else [])]
    names += ["in_image"] if in_image else []
    return _named(rule, f"forbid({', '.join(names)})")


def no_repeat() -> Rule:
    """No word twice in a row."""

    def rule(token_NT: Tensor, log_prob_NV: Tensor, image_N: Tensor) -> Tensor:
        return log_prob_NV.scatter(1, token_NT[:, -1:], -torch.inf)

    return _named(rule, "no_repeat")


def no_repeated_ngram(n: int) -> Rule:
    """No n words in a row that stand in the caption before."""
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
        bad_N1 = torch.isin(token_NT[:, -1:], torch.tensor(words, device=token_NT.device))
        return _strike(log_prob_NV, torch.full_like(token_NT[:, :1], EOS), bad_N1)

    return _named(rule, f"no_ending({', '.join(map(str, words))})")


def begin(*words: int) -> Rule:
    """A caption begins with these words, and goes on from there."""

    def rule(token_NT: Tensor, log_prob_NV: Tensor, image_N: Tensor) -> Tensor:
        t = token_NT.shape[1] - 1
        return log_prob_NV if t >= len(words) else _only(log_prob_NV, words[t])

    return _named(rule, f"begin({', '.join(map(str, words))})")


def _strike(log_prob_NV: Tensor, word_NX: Tensor, which_NX: Tensor) -> Tensor:
    """-inf at those of the words for which `which_NX` is True. (pad is -inf anyway.)"""
    return log_prob_NV.scatter(1, word_NX.where(which_NX, PAD), -torch.inf)


def _only(log_prob_NV: Tensor, word: int) -> Tensor:
    """-inf at every other word."""
    only_NV = torch.full_like(log_prob_NV, -torch.inf)
    only_NV[:, word] = log_prob_NV[:, word]
    return only_NV


def check(holds: bool, message: str) -> None:
    """Raises InputError with this message unless it holds."""
    if not holds:
        raise InputError(message)


def _named(rule: Rule, name: str) -> Rule:
    rule.__name__ = name
    return rule
