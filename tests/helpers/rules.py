"""Rules of search, each with what it allows said of a whole hypothesis."""

from captioner.search import rules as on_words
from captioner.types import EOS, UNK


def words(hypothesis):
    return [word for word in hypothesis if word != EOS]


def ngrams(hypothesis, n):
    return [tuple(words(hypothesis)[i : i + n]) for i in range(len(words(hypothesis)) - n + 1)]


RULES = {
    "a word": (on_words.forbid(UNK), lambda h, b: UNK not in h),
    "phrases": (
        on_words.forbid((4, 5), [5, 5, 5]),
        lambda h, b: (4, 5) not in ngrams(h, 2) and (5, 5, 5) not in ngrams(h, 3),
    ),
    "END after a word": (on_words.forbid((4, EOS)), lambda h, b: h[-2:] != (4, EOS)),
    "in one image": (
        on_words.forbid(in_image={1: [4, (5, UNK)]}),
        lambda h, b: b == 0 or 4 not in h and (5, UNK) not in ngrams(h, 2),
    ),
    "min_length": (on_words.min_length(2), lambda h, b: len(words(h)) >= 2),
    "max_length": (on_words.max_length(2), lambda h, b: len(words(h)) <= 2),
    "no_repeat": (on_words.no_repeat(), lambda h, b: all(x != y for x, y in ngrams(h, 2))),
    "no word again": (
        on_words.no_repeated_ngram(1), lambda h, b: len(set(words(h))) == len(words(h)),
    ),
    "no bigram again": (
        on_words.no_repeated_ngram(2), lambda h, b: len(set(ngrams(h, 2))) == len(ngrams(h, 2)),
    ),
    "no_ending": (
        on_words.no_ending(4, 5), lambda h, b: h[-1] != EOS or h[-2:-1] not in [(4,), (5,)],
    ),
    "begin": (on_words.begin(5, 4), lambda h, b: h[:2] == (5, 4)),
}  # fmt: skip
