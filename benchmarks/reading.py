"""Reading pictures ahead by threads, against torch's DataLoader and its forked processes.

    python benchmarks/reading.py FOLDER

Both sides read the same crops in the same batches, with as many workers, while the main thread
does something else: nothing, many small operations that each take the interpreter's lock, or the
forward and backward pass of a small CNN. That both give the same numbers is checked. They are timed
in turn, an epoch each, starting their workers included.
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from timing import spread, timed
from torch import nn
from torch.utils.data import DataLoader

from captioner import images
from captioner.data.batches import EvalBatches, Loader, PixelSource
from captioner.types import Batch

BATCH = 16


class Crops(PixelSource):
    """What training sees: a crop of each picture, known by its number."""

    def __call__(self, index, draw):
        return super().__call__(index, index)


def nothing(batch: Batch) -> None:
    pass


def small_operations(batch: Batch) -> None:
    x = torch.zeros(16, 16)
    for _ in range(10_000):
        x = torch.tanh(x)


CNN = nn.Sequential(nn.Conv2d(3, 32, 7, stride=4), nn.ReLU(), nn.Conv2d(32, 64, 5, stride=2))


def small_cnn(batch: Batch) -> None:
    CNN(batch.images).square().mean().backward()


def epoch(loader: Loader | DataLoader, work: Callable[[Batch], None]) -> tuple[float, float]:
    """Seconds, and the sum of all pixels."""

    def read() -> float:
        total = 0.0
        for batch in loader:
            total += batch.images.sum(dtype=torch.float64).item()
            work(batch)
        return total

    return timed(read)


def main() -> None:
    parser = argparse.ArgumentParser(description="Threads against processes as readers.")
    parser.add_argument("folder", type=Path, help="of JPEGs")
    parser.add_argument("--workers", type=int, default=2, help="of each side (default 2)")
    parser.add_argument("--rounds", type=int, default=5, help="epochs of each (default 5)")
    parser.add_argument("--limit", type=int, default=512, help="pictures (default 512)")
    options = parser.parse_args()
    paths = sorted(options.folder.glob("*.jpg"))[: options.limit]
    source = Crops(paths, images.Preprocess(size=288), images.Augment())
    batches = EvalBatches(source, [[]] * len(paths), BATCH, 1)
    print(f"{len(paths)} pictures, {options.workers} workers, {torch.get_num_threads()} of torch's")
    for work in (nothing, small_operations, small_cnn):
        ratios, speeds = [], []
        for round_ in range(options.rounds + 1):
            ours, total = epoch(Loader(batches, workers=options.workers), work)
            theirs, other = epoch(
                DataLoader(batches, batch_size=None, num_workers=options.workers), work
            )
            assert total == other
            if round_:  # the first warms up
                ratios.append(theirs / ours)
                speeds.append(len(paths) / ours)
        print(
            f"beside {work.__name__:17} {statistics.median(speeds):5.0f} pictures/s, ratio "
            f"{spread(ratios)}"
        )


if __name__ == "__main__":
    main()
