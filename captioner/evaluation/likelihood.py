"""The likelihood of people's captions under a model: perplexity, and retrieval of pictures."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from captioner import distributed
from captioner.data.batches import EvalBatches, Loader, Source
from captioner.data.records import Record
from captioner.decoders.base import token_log_probs
from captioner.errors import InputError
from captioner.metrics import tokenize
from captioner.metrics.statistics import Statistics, shares
from captioner.models.caption_model import CaptionModel
from captioner.progress import with_progress
from captioner.tokenizers import frame
from captioner.types import EOS, UNK, Features, PerMember

RANKS = (1, 5, 10)
ROWS = 256  # of a product of images and captions
BATCH = 32  # images, with all their captions


def perplexity(
    model: CaptionModel,
    records: Sequence[Record],
    source: Source,
    metrics_tokenizer: str = "ptb",
) -> Statistics:
    """The statistics of perplexity per word and bits per character, over all captions of B images.

    They compare across tokenizers, since the denominators do not depend on them: the words of the
    metrics' tokenizer, or the characters of the raw caption, each with one END. A word unknown to
    the model is spelled: besides the probability of the unknown word it costs log(letters) for each
    of its letters and their end. (A Word model need not predict capitals and punctuation.)
    """
    tokenizer, words_of = model.tokenizer, tokenize.TOKENIZERS[metrics_tokenizer]
    same = tokenizer.kind == "word" and metrics_tokenizer == "ptb"  # no need to split twice
    texts = [text for record in records for text in record.captions]
    letters = math.log(len(set("".join(texts))) + 1)
    sum_BS = np.zeros((len(records), 3))
    ids: list[list[list[int]]] = [[] for _ in records]
    for b, record in enumerate(records):
        for text in record.captions:
            units = tokenizer.split(text)
            ids[b].append([*(tokenizer.ids.get(unit, UNK) for unit in units), EOS])
            unknown = sum(len(unit) + 1 for unit, i in zip(units, ids[b][-1]) if i == UNK)
            words = units if same else words_of(text)
            sum_BS[b] += letters * unknown, len(words) + 1, len(text.strip()) + 1
    nats_B, most = np.zeros(len(records)), max(map(len, ids))
    rank, world = distributed.rank(), distributed.world()
    loader = Loader(EvalBatches(source, ids, BATCH, most, rank, world))
    model.eval()
    for batch in with_progress(loader, "perplexity", len(loader), "batches", rank == 0):
        log_prob_N = _log_prob(model, batch.images, batch.token_NT, batch.length_N)
        np.subtract.at(nats_B, batch.index_B.numpy(), log_prob_N.view(-1, most).sum(1).numpy())
    sum_BS[:, 0] += np.sum(distributed.gather(nats_B), axis=0)

    def score(sum_XS: np.ndarray) -> np.ndarray:
        nats, words, characters = np.moveaxis(sum_XS, -1, 0)
        return np.stack([np.exp(nats / words), nats / characters / math.log(2)], axis=-1)

    return Statistics(("perplexity", "bits_per_character"), sum_BS, score)


def retrieval(
    model: CaptionModel, records: Sequence[Record], source: Source
) -> tuple[Statistics, dict[str, float]]:
    """How well captions retrieve their pictures: images are ranked by log p(caption | image).

    The query is the first caption of each of B images. R@1, R@5, R@10: the shares of captions whose
    image is among the first 1, 5, 10; `median_rank`: 1 to B. Of images with equal probability, half
    rank before the right one. The time is that of B * B captions.
    """
    tokenizer, images = model.tokenizer, len(records)
    ids = [[*tokenizer.encode(record.captions[0]), EOS] for record in records]
    by_length = np.argsort([len(row) for row in ids], kind="stable")
    chunks = np.array_split(by_length, -(-images // 16))
    blocks = np.array_split(np.arange(images), -(-images // (ROWS // 16)))
    log_prob_NB = np.full((images, images), -np.inf)
    rank, world = distributed.rank(), distributed.world()
    model.eval()
    mine = blocks[rank::world]
    for block in with_progress(mine, "retrieval", len(mine), "blocks", rank == 0):
        features = model.encode(source(block.tolist(), None))
        for chunk in chunks:
            token_NT, length_N = frame([ids[n] for n in chunk])
            repeated = token_NT.repeat(len(block), 1), length_N.repeat(len(block))
            log_prob_N = _log_prob(model, features, *repeated)
            log_prob_NB[np.ix_(chunk, block)] = log_prob_N.view(len(block), -1).T.numpy()
    log_prob_NB = np.max(distributed.gather(log_prob_NB), axis=0)
    if np.isnan(log_prob_NB).any():
        raise InputError("the model gives NaN: its training has diverged; take another checkpoint")
    right_N1 = np.diag(log_prob_NB)[:, None]
    ties_N = (log_prob_NB == right_N1).sum(1) - 1
    rank_N = 1 + (log_prob_NB > right_N1).sum(1) + ties_N / 2
    hit_NK = rank_N[:, None] <= np.array(RANKS)
    recall = shares([f"R@{k}" for k in RANKS], hit_NK, np.ones_like(hit_NK))
    return recall, {"median_rank": float(np.median(rank_N))}


def _log_prob(
    model: CaptionModel, images: Tensor | Features | PerMember, token_NT: Tensor, length_N: Tensor
) -> Tensor:
    """The log-probability (N,) of captions with END, N / B per image; on the CPU, in float64."""
    device = next(model.decoder.parameters()).device
    tokens = token_NT.to(device), length_N.to(device)
    with torch.inference_mode():
        scored = token_log_probs(model.decoder, model.encode(images), *tokens)
        return scored.log_prob_NT.sum(1).cpu().double()
