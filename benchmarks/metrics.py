"""The metrics against the official package (`pip install captioner[java]`), equal results.

    python benchmarks/metrics.py                                 # on captions of rendered scenes
    python benchmarks/metrics.py REFS.json PREDICTIONS.json [--corpus CAPTIONS.json]

    all      tokenizer, BLEU, ROUGE-L and CIDEr-D of all captions, from raw text, as COCOEvalCap
             does it (two Java processes, then three scorers)
    cider    CIDEr-D as a reward: 5 candidates of each of 50 images against their references, by
             document frequencies of the corpus (30,000 captions or more). Ours has the references
             counted, as a training run would; the official scorer takes them anew with every
             candidate, as self-critical training with it does. Also against merely counting the
             candidates' n-grams, in plain Python.
    bleu     BLEU-4 as a reward, the same candidates

Without files: 6,500 scenes, five captions of each as references, a caption of another one as its
prediction. The sides are timed in turn; a ratio is the median of the turns.
"""

import argparse
import contextlib
import io
import random
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider as OfficialCider
from pycocoevalcap.cider.cider_scorer import CiderScorer
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
from timing import ratio, timed

from captioner import scenes
from captioner.data import records
from captioner.evaluation import predictions
from captioner.metrics import score
from captioner.metrics.bleu import bleu
from captioner.metrics.cider import Cider
from captioner.metrics.ngrams import References

Texts = dict[int, list[str]]


class Counted(list):
    """References of some images, which say that they are of all the corpus.

    The official scorer takes the logarithm of how many there are for that of the corpus.
    """

    def __init__(self, refs: Sequence[Any], images: int):
        super().__init__(refs)
        self.images = images

    def __len__(self) -> int:
        return self.images


def official(references: Texts, captions: Texts) -> dict[str, float]:
    tokenizer = PTBTokenizer()
    gts = tokenizer.tokenize({i: [{"caption": t} for t in ts] for i, ts in references.items()})
    res = tokenizer.tokenize({i: [{"caption": t} for t in ts] for i, ts in captions.items()})
    values, _ = Bleu(4).compute_score(gts, res, verbose=0)
    results = {f"Bleu_{n}": value for n, value in enumerate(values, 1)}
    results["ROUGE_L"], _ = Rouge().compute_score(gts, res)
    results["CIDEr"], _ = OfficialCider().compute_score(gts, res)
    return results


def ours(references: Texts, captions: Texts) -> dict[str, float]:
    return score.score(references, {i: texts[0] for i, texts in captions.items()})["corpus"]


def count(captions: Sequence[str]) -> None:
    """The n-grams of each, in plain Python: what any way has to do at least."""
    for caption in captions:
        words, counts = caption.split(), defaultdict(int)
        for n in range(1, 5):
            for i in range(len(words) - n + 1):
                counts[tuple(words[i : i + n])] += 1


def turns(sides: dict[str, Callable[[], Any]], times: int) -> dict[str, Any]:
    """Times of each side, in turn; equal results, or nothing is printed."""
    took: dict[str, list[float]] = {name: [] for name in sides}
    results = {}
    for _ in range(times):
        for name, side in sides.items():
            elapsed, results[name] = timed(side)
            took[name].append(elapsed)
    return {"found": results, **took}


def show(title: str, took: dict[str, Any], than: str) -> None:
    times = f"{statistics.median(took[than]):.4g} and {statistics.median(took['ours']):.4g} s"
    print(f"{title}: x {ratio(took[than], took['ours'])}; {times}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("references", type=Path, nargs="?")
    parser.add_argument("predictions", type=Path, nargs="?")
    parser.add_argument("--corpus", type=Path, help="captions of 30,000 or more (default: REFS)")
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    if options.references:
        references = {r.id: list(r.captions) for r in records.read_references(options.references)}
        captions = {
            p["image_id"]: [p["caption"]] for p in predictions.read_predictions(options.predictions)
        }
    else:
        drawn = [scenes.scene(0, "train", i) for i in range(6500)]
        references = {i: scenes.captions(s, random.Random(i)) for i, s in enumerate(drawn)}
        captions = {i: [references[(i + 1) % len(drawn)][0]] for i in references}
    corpus = list(references.values())
    if options.corpus:
        corpus = [list(r.captions) for r in records.read_references(options.corpus)]

    sides = {
        "official": lambda: official(references, captions),
        "ours": lambda: ours(references, captions),
    }
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        took = turns(sides, options.turns)
    for name, value in took["found"]["official"].items():
        assert abs(value - took["found"]["ours"][name]) < 1e-4, (name, took["found"])
    sizes = f"{len(references)} images, {sum(map(len, references.values()))} references"
    show(f"tokenizer, BLEU, ROUGE-L, CIDEr-D of {sizes}", took, "official")

    texts = score.tokens(corpus, [])
    counted = References(texts.references)
    cider = Cider(counted)
    image_N = np.repeat(np.arange(50), 5)
    candidates = [texts.references[50 + i % 45][i % 5] for i in range(250)]
    references_of = [texts.references[i] for i in image_N]
    scorer = CiderScorer()
    for image in texts.references:
        scorer += (None, image)
    scorer.compute_doc_freq()
    frequency = scorer.document_frequency

    def official_cider() -> np.ndarray:
        scorer = CiderScorer(n=4, sigma=6.0)
        for candidate, refs in zip(candidates, references_of):
            scorer += (candidate, refs)
        scorer.document_frequency = frequency
        scorer.crefs = Counted(scorer.crefs, len(texts.references))
        return np.array(scorer.compute_cider())

    def official_bleu() -> np.ndarray:
        refs = dict(enumerate(references_of))
        captions = {i: [candidate] for i, candidate in enumerate(candidates)}
        return np.array(Bleu(4).compute_score(refs, captions, verbose=0)[1][3])

    rewards = {
        "CIDEr-D": (official_cider, lambda: cider(counted.match(candidates, image_N))),
        "BLEU-4": (
            official_bleu,
            lambda: bleu(counted.match(candidates, image_N)).per_image()[:, 3],
        ),
    }
    for name, (theirs, our_time) in rewards.items():
        sides = {"official": theirs, "ours": our_time, "counting": lambda: count(candidates)}
        took = turns(sides, 10 * options.turns)
        results = took["found"]
        difference = abs(results["official"] - results["ours"]).max()
        assert difference < 1e-10 and results["ours"].any(), difference
        title = f"{name} of 250 candidates, corpus of {sum(map(len, corpus))} captions"
        show(title, took, "official")
        show("  against merely counting their n-grams", took, "counting")


if __name__ == "__main__":
    main()
