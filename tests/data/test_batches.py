"""Batches are pure functions of (seed, epoch, number), and nothing is lost or counted twice."""

import numpy as np
import pytest
import torch

from captioner import images
from captioner.data import batches as module
from captioner.data import records
from captioner.data.batches import (
    CaptionText,
    EvalBatches,
    Loader,
    MixedBatches,
    TrainBatches,
    make_batch,
)
from captioner.types import BOS, EOS, PAD, Features


class Numbers:
    """A source whose features say which picture and which draw were asked for."""

    def __call__(self, index, draw):
        draw = [-1] * len(index) if draw is None else draw
        return Features(torch.tensor([list(index), list(draw)]).T.double())


def captions(images=50, seed=0):
    """1 to 7 captions of 3 to 19 words and END for each picture; word = 10 * image + k."""
    rng = np.random.default_rng(seed)
    return [
        [[10 * i + 4 + k] * rng.integers(3, 20) + [EOS] for k in range(rng.integers(1, 8))]
        for i in range(images)
    ]


def epoch(seed=0, number=0, rank=0, world=1, ids=None):
    batches = TrainBatches(Numbers(), ids or captions(), 8, 5, rank, world, seed, number)
    return [batches[b] for b in range(len(batches))]


def test_an_epoch_holds_every_picture_once_and_c_rows_of_each():
    ids = captions()
    seen = []
    for batch in epoch(ids=ids):
        B = len(batch.index_B)
        assert len(batch.token_NT) == len(batch.length_N) == 5 * B
        for b, i in enumerate(batch.index_B.tolist()):
            assert batch.images.pooled_BD[b, 0] == i
            rows = batch.token_NT[5 * b : 5 * b + 5]
            lengths = batch.length_N[5 * b : 5 * b + 5]
            assert (lengths > 0).sum() == min(5, len(ids[i]))
            for row, length in zip(rows.tolist(), lengths.tolist()):
                if length:
                    assert row[0] == BOS and row[length] == EOS
                    assert row[1 : length + 1] in ids[i]
                assert set(row[length + 1 if length else 0 :]) <= {PAD}
        seen += batch.index_B.tolist()
    assert sorted(seen) == list(range(50))


def same(a, b):
    return len(a) == len(b) and all(
        torch.equal(x.token_NT, y.token_NT) and torch.equal(x.images.pooled_BD, y.images.pooled_BD)
        for x, y in zip(a, b)
    )


def test_order_draws_and_captions_depend_on_seed_and_epoch_alone():
    torch.manual_seed(1)
    first = epoch()
    torch.manual_seed(2)
    np.random.seed(3)
    assert same(first, epoch())
    assert not same(first, epoch(number=1))
    assert not same(first, epoch(seed=1))


def test_going_on_is_skipping_to_a_batch_number():
    batches = TrainBatches(Numbers(), captions(), 8, 5, epoch=3)
    assert same([batches[4]], epoch(number=3)[4:5])  # without those before
    for workers in (0, 2):
        loader = Loader(batches, 4, workers)
        assert same(list(loader), epoch(number=3)[4:])
        assert len(loader) == 7  # of the whole epoch


def test_more_captions_than_rows_are_drawn_anew_each_epoch():
    ids = [[[4 + k] for k in range(12)]]
    words = [set(epoch(number=e, ids=ids)[0].token_NT[:, 1].tolist()) for e in range(40)]
    assert all(len(drawn) == 5 for drawn in words)
    assert set.union(*words) == set(range(4, 16))


def test_batches_hold_captions_of_similar_length():
    ids = captions(500)
    lengths = [batch.length_N[batch.length_N > 0].double() for batch in epoch(ids=ids)]
    assert np.mean([length_N.var() for length_N in lengths]) < 0.9 * torch.cat(lengths).var()


@pytest.mark.parametrize("images", [50, 17, 8])
def test_processes_share_an_epoch(images):
    ids = captions(images)
    parts = [epoch(ids=ids, rank=rank, world=3) for rank in range(3)]
    assert len({len(part) for part in parts}) == 1  # nobody waits for a batch that does not come
    seen = [i for part in parts for batch in part for i in batch.index_B.tolist()]
    assert set(seen) == set(range(images))
    alone = epoch(ids=ids)
    for number, batch in enumerate(alone):
        assert same([batch], [parts[number % 3][number // 3]])


@pytest.mark.parametrize("images", [50, 15, 2, 1])
@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_evaluation_counts_every_picture_once(world, images):
    """All processes get as many batches; pictures that stand in have no captions."""
    ids, seen, counts = captions(images), [], []
    for rank in range(world):
        batches = EvalBatches(Numbers(), ids, 7, 5, rank, world)
        counts.append(len(batches))
        for b in range(len(batches)):
            batch = batches[b]
            assert (batch.images.pooled_BD[:, 1] == -1).all()  # no augmentation
            real = batch.length_N.view(len(batch.index_B), 5).any(1)
            seen += batch.index_B[real].tolist()
    assert sorted(seen) == list(range(images))
    assert len(set(counts)) == 1


def test_pixels_are_views_seeded_by_the_draw(scenes_dir):
    pictures = records.read_records(scenes_dir, "val")[:3]
    preprocess = images.Preprocess(32)
    source = module.PixelSource([r.image for r in pictures], preprocess, images.Augment())
    plain = torch.stack([preprocess(images.read_image(r.image)) for r in pictures])
    assert torch.equal(source([0, 1, 2], None), plain)
    drawn = source([0, 1, 2], [7, 8, 9])
    assert torch.equal(drawn, source([0, 1, 2], [7, 8, 9]))
    assert not torch.equal(drawn, source([0, 1, 2], [7, 8, 10])) and not torch.equal(drawn, plain)


@pytest.mark.parametrize("pictures, most", [(130, 2000), (1, 10), (1000, 100), (64, 64)])
def test_image_vectors_are_those_of_pictures_spread_evenly(pictures, most):
    seen = module.image_vectors(Numbers(), module.evenly_spaced(pictures, most))
    assert (seen[:, 1] == -1).all()  # the pictures as they are
    steps = seen[:, 0].diff()
    assert len(seen) == min(pictures, most) and seen[0, 0] == 0 and seen[-1, 0] == pictures - 1
    assert pictures == 1 or steps.min() > 0 and steps.max() - steps.min() <= 1


def test_a_row_without_caption_has_length_zero():
    batch = make_batch(Numbers(), [3], None, [[[5, 6, EOS]]], captions=3)
    assert batch.length_N.tolist() == [3, 0, 0]
    assert batch.token_NT.tolist() == [[BOS, 5, 6, EOS], [PAD] * 4, [PAD] * 4]


def imagine(spoken, rng):
    """What the caption says, and a draw."""
    return Features(torch.tensor([[max(c), rng.random()] for c in spoken], dtype=torch.float64))


def mixed(number=0, share=0.5, rank=0, world=1):
    text = CaptionText([[5, EOS], [6, 7, EOS], [8, EOS]], [{5}, {6}, {8}], imagine, share)
    pictures = TrainBatches(Numbers(), captions(), 8, 5, rank, world, epoch=number)
    batches = MixedBatches(pictures, [text], rows=40)
    return [batches[b] for b in range(len(batches))]


@pytest.mark.parametrize("share, count", [(0.5, 7), (0.75, 21)])
def test_captions_without_pictures_stand_between_the_pictures(share, count):
    batches = mixed(share=share)
    assert same(batches, mixed(share=share)) and not same(batches, mixed(1, share))
    text = [batch for batch in batches if not len(batch.index_B)]
    pictures = [batch for batch in batches if len(batch.index_B)]
    key = lambda batch: min(batch.index_B.tolist())  # noqa: E731
    assert same(sorted(pictures, key=key), sorted(epoch(), key=key))
    assert len(text) == count and not same(batches[-count:], text)
    assert len({float(batch.images.pooled_BD[0, 1]) for batch in text}) == count
    for batch in text:
        assert len(batch.token_NT) == len(batch.images.pooled_BD) == 40
        assert batch.token_NT[:, 1].tolist() == batch.images.pooled_BD[:, 0].int().tolist()
        assert (batch.length_N == (batch.token_NT > PAD).sum(1) - 1).all()


def test_processes_draw_other_captions_without_pictures():
    one, two = ([b for b in mixed(rank=r, world=2) if not len(b.index_B)] for r in (0, 1))
    assert len(one) == len(two) and not same(one, two)
