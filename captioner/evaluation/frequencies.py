"""Document frequencies of a corpus, with which CIDEr weighs n-grams."""

from pathlib import Path

from captioner.data import records
from captioner.metrics import score
from captioner.metrics.cider import DocumentFrequencies
from captioner.metrics.ngrams import References


def read_frequencies(
    path: Path, split: str | None = None, tokenizer: str = "ptb"
) -> DocumentFrequencies:
    """The document frequencies in a saved table (.npz), or those of a caption file.

    split: take only the images of this split from a caption file that holds several. tokenizer: of
    the metrics; each caption is tokenized alone. Raises InputError naming the file.
    """
    if path.suffix == ".npz":
        return DocumentFrequencies.load(path)
    corpus = records.read_references(path, split)
    texts = score.tokens([record.captions for record in corpus], [], tokenizer=tokenizer)
    return DocumentFrequencies.from_references(References(texts.references), tokenizer)
