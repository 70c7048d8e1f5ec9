"""METEOR 1.5 (Denkowski and Lavie 2014), aligned by the official jar."""

from collections.abc import Sequence

import numpy as np

from captioner.errors import Unavailable
from captioner.metrics import java
from captioner.metrics.statistics import Statistics

# Of METEOR 1.5 for English.
ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
STAGE_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])  # exact, stem, synonym, paraphrase
OPTIONS = ("-", "-", "-stdio", "-l", "en", "-norm")
STATISTICS = 23


# Seconds for the start and for each text, after which Java is ended; 10 s and 0.5 ms are usual.
START, EACH = 300.0, 0.1


def meteor(references: Sequence[Sequence[str]], captions: Sequence[str]) -> Statistics:
    """The statistics of METEOR (0 to 1), which add up exactly over images.

    With P and R the weighted shares of matched words in caption and reference, ch the chunks and m
    the matched words: METEOR = (1 - gamma (ch / m)^beta) / ((1 - alpha) / P + alpha / R). Words
    match by form, stem, synonym or paraphrase; a function word weighs 1 - delta, another delta.
    Each image gives the counts of its best reference; a corpus sums them first, as officially.

    references, captions: token strings, one caption and at least one reference per image.
    Raises Unavailable without Java or the jar, or if they fail; InputError for missing texts.
    """
    references, captions = java.one_line_each(references, captions)
    timeout = START + EACH * sum(len(texts) + 1 for texts in references)
    answers = _ask_jar([_question(*image) for image in zip(references, captions)], timeout)
    counts = [answer.split() for answer in answers]
    if [len(row) for row in counts] != [STATISTICS] * len(captions):
        wrong = [answer for answer, row in zip(answers, counts) if len(row) != STATISTICS][:3]
        raise Unavailable(f"METEOR: {len(answers)} answers for {len(captions)} captions: {wrong}")
    return Statistics(("METEOR",), _weighted(np.array(counts, float)), _meteor)


def _question(references: Sequence[str], caption: str) -> str:
    """The texts as the jar reads them, without `|||` inside, as in the official wrapper."""
    texts = (text.replace("|||", "").replace("  ", " ") for text in (*references, caption))
    return " ||| ".join(["SCORE", *texts])


def _ask_jar(questions: Sequence[str], timeout: float) -> list[str]:
    package, install = "pycocoevalcap", "pip install pycocoevalcap"
    jar = java.find_file("METEOR", package, "meteor/meteor-1.5.jar", install)
    # Named, since the jar does not find it in a folder with a space or a foreign letter.
    table = java.find_file("METEOR", package, "meteor/data/paraphrase-en.gz", install)
    stdin = "".join(f"{question}\n" for question in questions).encode(errors="replace")
    # 2 GB as officially: the table fills more than half of that.
    command = ["-Xmx2G", "-jar", str(jar), *OPTIONS, "-a", str(table)]
    return java.run("METEOR", command, stdin, timeout).splitlines()


def _weighted(count_BX: np.ndarray) -> np.ndarray:
    """Weighted matches and lengths (a pair of caption and reference each), chunks, matched words.

    (B, 6). The jar counts content and function words of each of the four stages.
    """
    length_B2, function_B2, match_B422 = np.split(count_BX[:, :20], [2, 4], axis=1)
    match_B422 = match_B422.reshape(-1, 4, 2, 2)
    chunks_B, words_B = count_BX[:, 20], count_BX[:, 21:].mean(1)
    # The same words in the same order are not fragmented, and add no chunk to those of a corpus.
    identical_B = (match_B422.sum((1, 2)) == length_B2).all(1) & (chunks_B == 1)
    weight_42 = STAGE_WEIGHTS[:, None] * [DELTA, 1 - DELTA]
    match_B2 = (match_B422 * weight_42[..., None]).sum((1, 2))
    weighted_B2 = DELTA * (length_B2 - function_B2) + (1 - DELTA) * function_B2
    return np.column_stack([match_B2, weighted_B2, np.where(identical_B, 0, chunks_B), words_B])


def _meteor(sums_X6: np.ndarray) -> np.ndarray:
    """METEOR of the corpus (1,), or of each image."""
    match_X2, length_X2 = sums_X6[..., 0:2], sums_X6[..., 2:4]
    with np.errstate(invalid="ignore", divide="ignore"):
        precision_X, recall_X = np.moveaxis(match_X2 / length_X2, -1, 0)
        mean_X = 1 / ((1 - ALPHA) / precision_X + ALPHA / recall_X)
        penalty_X = GAMMA * (sums_X6[..., 4] / sums_X6[..., 5]) ** BETA
        score_X = mean_X * (1 - penalty_X)
    return np.nan_to_num(score_X)[..., None]  # no match, or no word at all: 0
