"""How well is a text foretold? A language model beside a 5-gram, gzip and xz, on the same split.

    python benchmarks/compression.py RUN/model [--path FILE_OR_FOLDER] [--order 5]

All in bits per character of the held-out text. The n-gram is interpolated Kneser-Ney with three
discounts an order (Chen and Goodman 1999); like the model it reads each document from its start and
says where it ends. gzip and xz compress the held-out text alone, and after the training text (the
difference of both sizes).
"""

import argparse
import gzip
import lzma
import math
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from captioner.data import text
from captioner.models import language_model, loading
from captioner.training.language_training import bits

BITS = 12  # of a symbol in a packed n-gram


def packed(ids_T: np.ndarray, order: int) -> np.ndarray:
    """The n-gram that ends at each place, as one number; before a document's start stands 0."""
    gram_T = np.zeros(len(ids_T), np.int64)
    start_T = np.maximum.accumulate(np.where(ids_T == 1, np.arange(len(ids_T)), 0))
    for back in reversed(range(order)):
        at_T = np.arange(len(ids_T)) - back
        inside_T = at_T >= start_T
        gram_T = gram_T << BITS | np.where(inside_T, ids_T[np.maximum(at_T, 0)], 0)
    return gram_T


class KneserNey:
    """p_n(w | c) = max(count - D, 0) / total + sum of D / total * p_{n-1}(w | c less its first)."""

    def __init__(self, ids_T: np.ndarray, order: int, vocabulary: int):
        self.order, self.vocabulary = order, vocabulary
        token_T = ids_T != 1
        self.tables = []
        grams, counts = np.unique(packed(ids_T, order)[token_T], return_counts=True)
        for n in range(order, 0, -1):
            # D1, D2, D3+ of counts 1, 2, 3 and more
            many = [int((counts == k).sum()) for k in (1, 2, 3, 4)]
            D = np.array([0.0, 0.5, 0.5, 0.5])  # where there are too few to tell
            if all(many):
                y = many[0] / (many[0] + 2 * many[1])
                D[1:] = [k - (k + 1) * y * many[k] / many[k - 1] for k in (1, 2, 3)]
                D = D.clip(0, [0, 1, 2, 3])
            taken = D[np.minimum(counts, 3)]
            contexts, place = np.unique(grams >> BITS, return_inverse=True)
            total = np.bincount(place, counts)
            mass = np.bincount(place, taken) / total
            self.tables.append((grams, (counts - taken) / total[place], contexts, mass))
            # Lower orders count in how many contexts, not how often.
            grams, counts = np.unique(grams & ((1 << BITS * (n - 1)) - 1), return_counts=True)

    def bits(self, ids_T: np.ndarray) -> float:
        """Of all that is said."""
        gram_T = packed(ids_T, self.order)[ids_T != 1]
        p_T = np.full(len(gram_T), 1 / self.vocabulary)
        for n, (grams, share, contexts, mass) in zip(range(1, self.order + 1), self.tables[::-1]):
            now_T = gram_T & ((1 << BITS * n) - 1)
            known_T, at_T = lookup(now_T >> BITS, contexts)
            p_T = np.where(known_T, mass[at_T] * p_T, p_T)
            seen_T, at_T = lookup(now_T, grams)
            p_T += np.where(seen_T, share[at_T], 0)
        return float(-np.log2(p_T).sum())


def lookup(key_T: np.ndarray, among: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    at_T = np.minimum(np.searchsorted(among, key_T), len(among) - 1)
    return among[at_T] == key_T, at_T


def main() -> None:
    parser = argparse.ArgumentParser(description="Bits per character, beside other ways.")
    parser.add_argument("model", help="of a run on this text, with this --val-share")
    parser.add_argument("--path", default="python")
    parser.add_argument("--pattern", default="*")
    parser.add_argument("--val-share", type=float, default=0.1)
    parser.add_argument("--order", type=int, default=5)
    options = parser.parse_args()
    model = loading.read_model(options.model)
    assert isinstance(model, language_model.LanguageModel) and len(model.tokenizer) < 1 << BITS
    assert options.order * BITS <= 62
    train, val = text.split(text.documents(options.path, options.pattern), options.val_share)
    with tempfile.TemporaryDirectory() as folder:
        corpora = [
            text.Corpus(records_, model.tokenizer, Path(folder)) for records_ in (train, val)
        ]
        ids, test_texts = (np.array(corpus.ids).astype(np.int64) for corpus in corpora)
        characters = corpora[1].units
        print(f"{len(ids):,} characters to learn from, {characters:,} held out")
        rows = {"the model": bits(model, corpora[1], 32, 100)}
    ngram = KneserNey(ids, options.order, len(model.tokenizer) - 2)
    rows[f"{options.order}-gram, Kneser-Ney"] = ngram.bits(test_texts) / characters
    learned, unseen = (
        "".join(p for d in records_ for p in d.pieces()).encode() for records_ in (train, val)
    )
    ways: dict[str, Callable[[bytes], bytes]] = {
        "gzip": lambda x: gzip.compress(x, 9),
        "xz": lambda x: lzma.compress(x, preset=9 | lzma.PRESET_EXTREME),
    }
    for name, compress in ways.items():
        rows[f"{name}, alone"] = 8 * len(compress(unseen)) / characters
        after = len(compress(learned + unseen)) - len(compress(learned))
        rows[f"{name}, after the training text"] = 8 * after / characters
    for name, value in rows.items():
        print(f"{name:30} {value:.3f}")
    assert not any(map(math.isnan, rows.values()))


if __name__ == "__main__":
    main()
