"""What a model makes of captions that people wrote: perplexity, and which picture they fit."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from captioner import distributed
from captioner.data.batches import EvalBatches, Source
from captioner.data.loader import Loader
from captioner.data.records import Record
from captioner.decoders.base import token_log_probs
from captioner.errors import InputError
from captioner.metrics.statistics import Statistics, shares
from captioner.metrics.tokenize import tokenize
from captioner.models.caption_model import CaptionModel
from captioner.types import BOS, EOS, PAD, UNK, Features, PerMember

RANKS = (1, 5, 10)
ROWS = 256  # of a product of images and captions


def perplexity(
    model: CaptionModel,
    records: Sequence[Record],
    source: Source,
    batch_size: int = 32,
    workers: int = 0,
) -> Statistics:
    """Perplexity a word, and bits a character, of all captions of B images.

    Comparable across tokenizers, since what divides does not depend on them: the words that the
    metrics' tokenizer finds, or the characters of the caption as it stands, and one END. A word
    that the model does not know is spelled: besides the unknown word's own probability it costs
    log(letters) for each of its letters and their end, `letters` being all those of the captions.
    (A Word model is not asked for capitals and punctuation, which a Char model has to say too.)
    """
    tokenizer = model.tokenizer
    texts = [text for record in records for text in record.captions]
    letters = math.log(len(set("".join(texts))) + 1)
    sums_BS = np.zeros((len(records), 3))
    ids = []
    for b, record in enumerate(records):
        ids.append([[*tokenizer.encode(text), EOS] for text in record.captions])
        for text, row in zip(record.captions, ids[-1]):
            unknown = [len(unit) + 1 for unit, i in zip(tokenizer.split(text), row) if i == UNK]
            sums_BS[b] += letters * sum(unknown), len(tokenize(text)) + 1, len(text.strip()) + 1
    own_B = np.zeros(len(records))
    most = max(len(record.captions) for record in records)
    rank, world = distributed.rank(), distributed.world()
    loader = Loader(EvalBatches(source, ids, batch_size, most, rank, world), workers=workers)
    model.eval()
    for batch in tqdm(loader, "perplexity", unit=" batches", disable=rank > 0):
        log_prob_N = _log_prob(model, batch.images, batch.token_NT, batch.length_N)
        np.subtract.at(own_B, batch.index_B.numpy(), log_prob_N.view(-1, most).sum(1).numpy())
    sums_BS[:, 0] += np.sum(distributed.gather(own_B), axis=0)

    def of(sums_XS: np.ndarray) -> np.ndarray:
        nats, words, characters = np.moveaxis(sums_XS, -1, 0)
        return np.stack([np.exp(nats / words), nats / characters / math.log(2)], axis=-1)

    return Statistics(("perplexity", "bits_per_character"), sums_BS, of)


def retrieval(
    model: CaptionModel, records: Sequence[Record], source: Source
) -> tuple[Statistics, dict[str, float]]:
    """How well a caption finds its picture: the images are ranked by log p(caption | image).

    The first caption of each of B images is asked for, among all B: R@1, R@5, R@10 are the shares
    of captions whose own image is among the first, and `median_rank` is of 1 to B. An image ranks
    after half of those that are as probable. It takes B * B captions' worth of time.
    """
    tokenizer, images = model.tokenizer, len(records)
    ids = [[BOS, *tokenizer.encode(record.captions[0]), EOS] for record in records]
    by_length = np.argsort([len(row) for row in ids], kind="stable")
    chunks = np.array_split(by_length, -(-images // 16))
    blocks = np.array_split(np.arange(images), -(-images // (ROWS // 16)))
    log_prob_NB = np.full((images, images), -np.inf)
    rank, world = distributed.rank(), distributed.world()
    model.eval()
    for block in tqdm(blocks[rank::world], "retrieval", unit=" blocks", disable=rank > 0):
        features = model.encode(source(block.tolist(), None))
        for chunk in chunks:
            length_N = torch.tensor([len(ids[n]) - 1 for n in chunk])
            token_NT = torch.full((len(chunk), int(length_N.max()) + 1), PAD)
            for row, n in enumerate(chunk):
                token_NT[row, : len(ids[n])] = torch.tensor(ids[n])
            every = len(block), 1
            found = _log_prob(model, features, token_NT.repeat(*every), length_N.repeat(len(block)))
            log_prob_NB[np.ix_(chunk, block)] = found.view(len(block), -1).T.numpy()
    log_prob_NB = np.max(distributed.gather(log_prob_NB), axis=0)
    if np.isnan(log_prob_NB).any():
        raise InputError("the model gives NaN: its training has diverged; take another checkpoint")
    own_N1 = np.diag(log_prob_NB)[:, None]
    ties_N = (log_prob_NB == own_N1).sum(1) - 1
    rank_N = 1 + (log_prob_NB > own_N1).sum(1) + ties_N / 2
    hit_NK = rank_N[:, None] <= np.array(RANKS)
    return (
        shares([f"R@{k}" for k in RANKS], hit_NK, np.ones_like(hit_NK)),
        {"median_rank": float(np.median(rank_N))},
    )


def _log_prob(
    model: CaptionModel, images: Tensor | Features | PerMember, token_NT: Tensor, length_N: Tensor
) -> Tensor:
    """(N,) of captions, END included, N / B of each image; on the CPU, in float64."""
    with torch.inference_mode():
        device = next(model.decoder.parameters()).device
        scored = token_log_probs(
            model.decoder, model.encode(images), token_NT.to(device), length_N.to(device)
        )
        return scored.log_prob_NT.sum(1).cpu().double()
