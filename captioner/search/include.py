"""Words and phrases that captions must include, and the beam search that sees to it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from captioner.search.rules import Phrase, check
from captioner.types import EOS, PAD


class MustInclude:
    """Words and phrases that captions must include: not a rule, but a strategy's `must_include`.

    Those of all images, and `in_image` those of the image of that number besides; of the phrases
    `any_of` of an image one is enough. A phrase counts as a whole; one that is begun and left must
    begin again.
    """

    def __init__(
        self,
        *phrases: Phrase,
        in_image: Mapping[int, Iterable[Phrase]] | None = None,
        any_of: Mapping[int, Iterable[Phrase]] | None = None,
    ):
        in_image, any_of = in_image or {}, any_of or {}
        images = list(dict.fromkeys([*in_image, *any_of]))
        lists = [_tuples([*phrases, *in_image.get(image, ())]) for image in images]
        lists.append(_tuples(phrases))
        choices = [_tuples(any_of.get(image, ())) for image in images] + [[]]
        ids = [[*one, *more] for one, more in zip(lists, choices)]
        check(all(map(all, ids)), "must-include: a phrase without words")
        F = max(map(len, ids))
        L = max((len(phrase) for one in ids for phrase in one), default=1)
        self.image_S = torch.tensor(images, dtype=torch.long)
        self.phrase_SFL = torch.full((len(ids), F, L), PAD)  # the last row: all other images
        self.choice_SF = torch.zeros(len(ids), F, dtype=torch.bool)
        for s, one in enumerate(ids):
            self.choice_SF[s, len(lists[s]) : len(one)] = True
            for f, phrase in enumerate(one):
                self.phrase_SFL[s, f, : len(phrase)] = torch.tensor(phrase)

    def __call__(self, token_NT: Tensor, image_number_N: Tensor) -> tuple[Tensor, Tensor]:
        """met_N, how many of the words each prefix includes, and next_NC, the words that would add
        one: -1 if there are fewer than C, and everywhere once all are included."""
        match_NS = image_number_N[:, None] == self.image_S.to(image_number_N.device)
        other_N1 = ~match_NS.any(1, keepdim=True)
        row_N = torch.cat([match_NS, other_N1], dim=1).int().argmax(1)
        phrase_NFL = self.phrase_SFL.to(image_number_N.device)[row_N]
        choice_NF = self.choice_SF.to(image_number_N.device)[row_N]
        length_NF = (phrase_NFL != PAD).sum(2)
        N, T = token_NT.shape
        complete_NF = length_NF == 0
        begun_NF = torch.zeros_like(length_NF)
        for L in range(1, min(phrase_NFL.shape[2], T) + 1):
            same_NFW = (token_NT.unfold(1, L, 1)[:, None] == phrase_NFL[:, :, None, :L]).all(3)
            complete_NF = complete_NF | (same_NFW.any(2) & (length_NF == L))
            begun_NF = begun_NF.where(~same_NFW[:, :, -1], L)
        met_NF = length_NF * complete_NF
        met_N = met_NF.masked_fill(choice_NF, 0).sum(1)
        if phrase_NFL.shape[1]:
            met_N = met_N + met_NF.masked_fill(~choice_NF, 0).amax(1)
            chosen_N1 = (complete_NF & choice_NF).any(1, keepdim=True)
            complete_NF = complete_NF | (choice_NF & chosen_N1)
            met_N = met_N + begun_NF.masked_fill(complete_NF, 0).amax(1)
        next_NF = phrase_NFL.gather(2, begun_NF.clamp(max=phrase_NFL.shape[2] - 1)[..., None])
        return met_N, next_NF[..., 0].masked_fill(complete_NF, -1)


def _tuples(phrases: Iterable[Phrase]) -> list[tuple[int, ...]]:
    """Each phrase once."""
    return list(dict.fromkeys((p,) if isinstance(p, int) else tuple(p) for p in phrases))


@dataclass
class DynamicBeamAllocation:
    """The beam's candidates for captions that must include words (Post and Vilar 2018).

    Words that would include more are candidates too. Hypotheses that include equally many form a
    bank, and banks take turns in filling the beam. Until all words are included, END is forbidden,
    and so is stopping at the length limit. rows, max_length: those of the beam.
    """

    must_include: MustInclude
    rows: int
    max_length: int

    def __call__(self, log_prob_NV, live_NS, prefix_NT, image_number_N) -> tuple[Tensor, Tensor]:
        """The likeliest words, and all that include more; values: log-probability, rank."""
        N, t = prefix_NT.shape
        _, next_NX = self.must_include(prefix_NT, image_number_N)
        end_N = torch.full_like(image_number_N, PAD).masked_fill((next_NX >= 0).any(1), EOS)
        log_prob_NV = log_prob_NV.scatter(1, end_N[:, None], -torch.inf)
        best_NC, word_NC = log_prob_NV.topk(min(2 * self.rows, log_prob_NV.shape[1]), dim=1)
        new_NX = (next_NX >= 0) & ~(next_NX[..., None] == word_NC[:, None]).any(2)
        new_NX &= ~(next_NX[..., None] == next_NX[:, None]).tril(-1).any(2)
        next_NX = next_NX.where(new_NX, PAD)
        word_NC = torch.cat([word_NC, next_NX], dim=1)
        best_NC = torch.cat([best_NC, log_prob_NV.gather(1, next_NX)], dim=1)
        total_NC = live_NS[:, :1] + best_NC

        # Banks: by how many words are included, and by rank among those that include as many.
        C = word_NC.shape[1]
        grown = torch.cat([prefix_NT.repeat_interleave(C, 0), word_NC.view(-1, 1)], dim=1)
        met, next = self.must_include(grown, image_number_N.repeat_interleave(C))
        if t == self.max_length:
            total_NC = total_NC.masked_fill((next >= 0).any(1).view(N, C), -torch.inf)
        total_bX, met_bX = total_NC.view(-1, self.rows * C), met.view(-1, self.rows * C)
        best_bX = total_bX.argsort(dim=1, descending=True, stable=True)
        met_bX, order_bX = met_bX.gather(1, best_bX).sort(dim=1, stable=True)
        first_bX = torch.searchsorted(met_bX, met_bX)  # of each bank
        rank_bX = torch.arange(self.rows * C, device=best_bX.device) - first_bX
        key_bX = (met_bX - rank_bX * (met_bX.amax() + 1)).to(total_bX.dtype)
        key_bX = torch.empty_like(total_bX).scatter(1, best_bX.gather(1, order_bX), key_bX)
        key_bX = key_bX.masked_fill(total_bX == -torch.inf, -torch.inf)
        return torch.stack([total_NC, key_bX.view(N, C)], dim=2), word_NC
