"""CIDEr and CIDEr-D (Vedantam et al. 2015), as the official code computes them."""

import io
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from captioner import files
from captioner.errors import InputError, naming_file, open_input, printable
from captioner.metrics import tokenize
from captioner.metrics.ngrams import ORDERS, Matches, Numbers, References

SIGMA = 6.0  # of the penalty for a different length, in words
MAX_RATIO = 20  # of a table to its file; COCO's is 5


@dataclass(eq=False)
class DocumentFrequencies:
    """The number of images in whose references each n-gram occurs: officially, the evaluated ones.

    Those of a larger corpus make scores of few images mean something. version: of the tokenizer
    whose tokens were counted (see tokenize.version_of).
    """

    images: int
    numbers: Numbers
    frequency_G: np.ndarray
    version: str = tokenize.VERSION

    @classmethod
    def from_references(
        cls, references: References, tokenizer: str = "ptb"
    ) -> "DocumentFrequencies":
        """Count in how many of these images each n-gram occurs. tokenizer: of the references."""
        gram = references.gram_E[references.groups]
        frequency_G = np.bincount(gram >> 2, minlength=references.numbers.size)
        version = tokenize.version_of(tokenizer)
        return cls(len(references), references.numbers, frequency_G, version)

    def check_tokenizer(self, tokenizer: str) -> None:
        """Raise InputError unless these are frequencies of this tokenizer's tokens."""
        if self.version != tokenize.version_of(tokenizer):
            theirs = self.version if self.version in tokenize.TOKENIZERS else "ptb"
            raise InputError(
                f"the document frequencies are of {theirs} tokens, not {tokenizer}: make others "
                f"with `captioner frequencies CAPTIONS TABLE.npz --tokenizer {tokenizer}`"
            )

    def idf(self, gram_M: np.ndarray) -> np.ndarray:
        """log(images / frequency) of n-grams; one that never occurs counts as if it did once."""
        number_M = gram_M >> 2
        frequency_M = np.ones(len(gram_M))
        known = number_M < len(self.frequency_G)
        frequency_M[known] = np.maximum(self.frequency_G[number_M[known]], 1)
        return np.log(self.images) - np.log(frequency_M)

    def save(self, path: Path) -> None:
        """Write a table of arrays, which `load` reads."""
        content = io.BytesIO()
        lines = "".join(f"{word}\n" for word in self.numbers.words)
        words = np.frombuffer(lines.encode(), np.uint8)
        arrays = {"words": words, "word_numbers": np.array(list(self.numbers.words.values()))}
        arrays |= {f"keys_{n}": keys for n, keys in enumerate(self.numbers.keys)}
        arrays |= {f"numbers_{n}": numbers for n, numbers in enumerate(self.numbers.numbers)}
        arrays |= {"images": np.array(self.images), "frequencies": self.frequency_G}
        arrays["tokenizer"] = np.array(self.version)
        np.savez_compressed(content, **arrays)  # type: ignore[arg-type]  # it is no option's name
        files.write_atomic(path, content.getvalue())

    @classmethod
    def load(cls, path: Path) -> "DocumentFrequencies":
        """Read what `save` wrote. Nothing in it is executed. Raises InputError naming the file."""
        with naming_file(path):
            try:
                with open_input(path) as file, zipfile.ZipFile(file) as members:
                    size = sum(member.file_size for member in members.infolist())
                    if size > max(MAX_RATIO * path.stat().st_size, 2**26):
                        raise ValueError(f"it unpacks to {size:,} bytes")
                    file.seek(0)
                    with np.load(file, allow_pickle=False) as table:
                        frequencies = cls._from_arrays(table)
            except InputError:
                raise
            except Exception as error:  # NumPy raises whatever a part of a header makes it
                raise InputError(
                    f"{printable(path)}: no table of document frequencies ({error}): make one with "
                    "`captioner frequencies CAPTIONS TABLE.npz`"
                ) from error
        return frequencies

    @classmethod
    def _from_arrays(cls, table: Mapping[str, np.ndarray]) -> "DocumentFrequencies":
        """Raises an exception if the arrays are missing or do not fit each other."""
        version = str(table["tokenizer"])
        if version not in map(tokenize.version_of, tokenize.TOKENIZERS):
            raise ValueError(f"it is of version {version} of the tokenizer, not {tokenize.VERSION}")
        images, frequency_G = int(table["images"]), table["frequencies"]
        words = table["words"].tobytes().decode().split("\n")[:-1]
        numbers = Numbers(
            len(frequency_G),
            dict(zip(words, table["word_numbers"].tolist(), strict=True)),
            [table[f"keys_{n}"] for n in range(ORDERS - 1)],
            [table[f"numbers_{n}"] for n in range(ORDERS - 1)],
        )
        for array in (frequency_G, *numbers.keys, *numbers.numbers):
            if array.dtype != np.int64 or array.ndim != 1:
                raise ValueError(f"an array is of {array.dtype} in {array.ndim} dimensions")
        number = np.sort(np.concatenate([list(numbers.words.values()), *numbers.numbers]))
        sizes = list(map(len, numbers.keys)) == list(map(len, numbers.numbers))
        rising = all((np.diff(keys) > 0).all() for keys in numbers.keys)
        if not (sizes and rising and np.array_equal(number, np.arange(numbers.size))):
            raise ValueError("its n-grams are not numbered")
        if images < 1 or (frequency_G < 0).any() or (frequency_G > images).any():
            raise ValueError("its frequencies are not of these images")
        return cls(images, numbers, frequency_G, version)


class Uniform(DocumentFrequencies):
    """Weighs every n-gram 1, for want of a corpus."""

    def __init__(self, numbers: Numbers):
        super().__init__(0, numbers, np.zeros(numbers.size, np.int64))

    def idf(self, gram_M: np.ndarray) -> np.ndarray:
        return np.ones(len(gram_M))


class Cider:
    """CIDEr-D of captions, (N,), in 0..10: Cider(references)(references.match(captions)).

    10 / 4 sum_n mean_j exp(-(l - l_j)^2 / (2 sigma^2)) min(g, g_j) . g_j / (|g| |g_j|) over the
    references j, where g is the vector of count times idf of a text's n-grams and l its length.

    frequencies: by default those of `references`, else `references` must have been counted with
        their numbers.
    plain: the first CIDEr of the paper, without min(), length penalty and (as officially) stemming.
    """

    def __init__(
        self,
        references: References,
        frequencies: DocumentFrequencies | None = None,
        plain: bool = False,
    ):
        self.frequencies = frequencies or DocumentFrequencies.from_references(references)
        numbers = self.frequencies.numbers
        if numbers is not references.known and numbers is not references.numbers:
            raise ValueError("count the references with the numbers of these frequencies")
        self.plain = plain
        rows, order_E = references.rows, references.gram_E & 3
        idf_M = self.frequencies.idf(rows.gram_M)
        if not idf_M.any() and not isinstance(self.frequencies, Uniform):
            one = self.frequencies.images == 1
            fault = "of one image" if one else "since the references of all images are alike"
            reason = f"CIDEr weighs n-grams by how few of the images use them: {fault} it is 0"
            remedy = "Score more images together, or give the document frequencies of a corpus."
            warnings.warn(f"{reason}, whatever the caption. {remedy}", stacklevel=2)
        norm_R4 = np.sqrt(rows.per_order((rows.count_M * idf_M) ** 2))
        norm_E = norm_R4[references.reference_E, order_E]
        idf_E = self.frequencies.idf(references.gram_E)
        self.weight_E = references.count_E * idf_E**2 / np.where(norm_E > 0, norm_E, 1)

    def __call__(self, matches: Matches) -> np.ndarray:
        """The score of each of the N captions, matched with the same references."""
        references, rows = matches.references, matches.rows
        row_P, entry_P = matches.pairs
        count_P = rows.count_M[row_P]
        reference_P = references.reference_E[entry_P]
        if not self.plain:
            count_P = np.minimum(count_P, references.count_E[entry_P])
        value_P = count_P * self.weight_E[entry_P]
        if not self.plain:
            length_N = np.maximum(rows.length_N - 1, 0)  # officially, the number of bigrams
            length_R = np.maximum(references.rows.length_N - 1, 0)
            difference_P = length_N[rows.text_M[row_P]] - length_R[reference_P]
            value_P *= np.exp(-(difference_P**2) / (2 * SIGMA**2))
        norm_N4 = np.sqrt(rows.per_order((rows.count_M * self.frequencies.idf(rows.gram_M)) ** 2))
        product_N4 = rows.per_order(value_P, row_P) / np.where(norm_N4 > 0, norm_N4, 1)
        return 10 / ORDERS * product_N4.sum(1) / references.per_image_I[matches.image_N]
