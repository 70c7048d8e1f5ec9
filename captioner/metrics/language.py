"""The language of a set of captions, whatever the pictures show: length, faults, variety.

BLEU measures sameness here: the less the captions of a set resemble each other, the lower it is.
"""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from captioner.metrics.bleu import bleu_scores
from captioner.metrics.ngrams import LOW, NOTHING, ORDERS, Rows, count, distinct, sort_keys
from captioner.metrics.statistics import Statistics, shares

UNKNOWN = frozenset({"<unk>", "unk", "<unknown>"})
DANGLING = frozenset(
    """a an the of in on at to with and or by for from into onto over under near next behind beside
    between through while as that which who whose his her its their is are was were be being been
    has have 's very some this these those""".split()  # noqa: SIM905
)
"""Words that no sentence ends with: a caption ending with one was cut short."""


def language(
    captions: Sequence[str],
    training: Collection[str] | None = None,
    finished: Sequence[bool] | None = None,
) -> Statistics:
    """The statistics of metrics that are shares of, or means over, B captions (token strings).

    words: the mean number. bad_endings: ends with one of DANGLING, or is empty. repeated_words: a
    word follows itself. unknown_words: the share of UNKNOWN among the words. novel: equal to none
    of the `training` captions. unfinished: cut off before END.
    """
    split = [caption.split() for caption in captions]
    each = np.ones(len(split))
    length_B = np.array([len(words) for words in split])
    values: dict[str, tuple[Any, Any]] = {
        "words": (length_B, each),
        "bad_endings": ([not words or words[-1] in DANGLING for words in split], each),
        "repeated_words": ([any(map(str.__eq__, w, w[1:])) for w in split], each),
        "unknown_words": ([sum(map(UNKNOWN.__contains__, words)) for words in split], length_B),
    }
    if training is not None:
        known = {" ".join(caption.split()) for caption in training}
        values["novel"] = [" ".join(words) not in known for words in split], each
    if finished is not None:
        values["unfinished"] = np.logical_not(finished), each
    numerator_BM, denominator_BM = (np.column_stack(pair) for pair in zip(*values.values()))
    return shares(list(values), numerator_BM, denominator_BM)


def variety(captions: Sequence[str]) -> dict[str, float]:
    """The variety of a set of captions (token strings), which depends on their number.

    vocabulary: different words. distinct_1, distinct_2: different words and bigrams, as a share of
    all (Li et al. 2016). unique: different captions, as a share. self_BLEU: BLEU-4 of every caption
    against all the others (Zhu et al. 2018), counts summed.
    """
    rows, _ = count(captions, NOTHING)
    order_M = rows.gram_M & 3
    different = [len(distinct(rows.gram_M[order_M == n])[0]) for n in range(2)]
    all_words, all_pairs = (int(rows.count_M[order_M == n].sum()) for n in range(2))
    one_group = np.zeros(len(captions), np.int64)
    return {
        "vocabulary": different[0],
        "distinct_1": different[0] / max(1, all_words),
        "distinct_2": different[1] / max(1, all_pairs),
        "unique": len({tuple(caption.split()) for caption in captions}) / len(captions),
        "self_BLEU": float(bleu_scores(_others(captions, one_group)[0].sum(0))[-1]),
    }


def sameness(captions: Sequence[Sequence[str]]) -> list[Statistics]:
    """The statistics of mBLEU, div_1 and div_2 of several captions (token strings) per image.

    mBLEU: BLEU-4 of every caption against the others of its image (Shetty et al. 2017), counts
    summed. div_1, div_2: the different words and bigrams of an image's captions, as a share of all
    of them, averaged over images. Compare equal numbers of captions per image only.
    """
    group_N = np.repeat(np.arange(len(captions)), [len(several) for several in captions])
    flat = [caption for several in captions for caption in several]
    sums_NS, rows = _others(flat, group_N)
    key, _ = distinct(sort_keys(group_N[rows.text_M], rows.gram_M))
    place = (key >> LOW) * ORDERS + (key & 3)
    different_B4 = np.bincount(place, minlength=ORDERS * len(captions)).reshape(-1, ORDERS)
    all_N4 = rows.per_order(rows.count_M)
    all_B2, sums_BS = (
        np.stack([np.bincount(group_N, column, len(captions)) for column in columns.T], axis=1)
        for columns in (all_N4[:, :2], sums_NS)
    )
    div_B2 = different_B4[:, :2] / np.maximum(all_B2, 1)
    mbleu = Statistics(("mBLEU",), sums_BS, lambda sum_XS: bleu_scores(sum_XS)[..., -1:])
    return [mbleu, shares(["div_1", "div_2"], div_B2, np.ones_like(div_B2))]


def _others(captions: Sequence[str], group_N: np.ndarray) -> tuple[np.ndarray, Rows]:
    """BLEU's statistics (N, S) of each caption against all others of its group, and the n-grams.

    They are 0 if there are no others. An n-gram counts at most as often as in any other caption:
    the greatest count in the group or, for the caption that has it, the second greatest.
    """
    rows, _ = count(captions, NOTHING)
    key_M = sort_keys(group_N[rows.text_M], rows.gram_M)
    order = np.lexsort((rows.count_M, key_M))
    key, counts = key_M[order], rows.count_M[order]
    last = np.flatnonzero(np.diff(key, append=-1))
    size = np.diff(last, prepend=-1)
    second = np.where(size > 1, counts[last - 1], 0)
    first, second = np.repeat(counts[last], size), np.repeat(second, size)
    most_M = np.empty_like(counts)
    most_M[order] = np.where(counts == first, second, first)
    correct_N4 = rows.per_order(np.minimum(rows.count_M, most_M))

    length_N = rows.length_N
    by_length = np.lexsort((length_N, group_N))
    length, group = length_N[by_length], group_N[by_length]
    none = np.iinfo(np.int64).max // 2
    alike = group[1:] == group[:-1]
    shorter = np.concatenate([[none], np.where(alike, np.diff(length), none)])
    longer = np.concatenate([np.where(alike, np.diff(length), none), [none]])
    closest_N, alone_N = np.empty_like(length), np.empty(len(length), bool)
    closest_N[by_length] = np.where(shorter <= longer, length - shorter, length + longer)
    alone_N[by_length] = (shorter == none) & (longer == none)
    possible_N4 = rows.per_order(rows.count_M)
    sums_NS = np.column_stack([correct_N4, possible_N4, length_N, closest_N])
    sums_NS[alone_N] = 0
    return sums_NS, rows
