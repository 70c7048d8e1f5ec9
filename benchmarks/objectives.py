"""What a step of self-critical training is made of.

    python benchmarks/objectives.py CAPTIONS.json        # Flickr8k's training captions, say
    python benchmarks/objectives.py                      # captions of rendered scenes

NIC (LSTM 512) on cached features (random ones here: the time is the same), 20 images x 5 samples,
CIDEr-D as reward, the greedy baseline, so that it has all parts. The decoder learns the captions by
cross-entropy first, so that its samples are about as long as captions.
"""

import argparse
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from captioner import scenes, tokenizers
from captioner.data import records
from captioner.data.batches import TrainBatches
from captioner.data.records import Record
from captioner.decoders.recurrent import Recurrent
from captioner.encoders import Blind
from captioner.models.caption_model import CaptionModel
from captioner.objectives import self_critical
from captioner.objectives.cross_entropy import CrossEntropy
from captioner.objectives.self_critical import SelfCritical
from captioner.types import Features

IMAGES, SAMPLES, D = 20, 5, 1280


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("captions", type=Path, nargs="?")
    parser.add_argument("--warmup", type=int, default=300, help="steps of cross-entropy before")
    parser.add_argument("--steps", type=int, default=30)
    options = parser.parse_args()
    torch.manual_seed(0)
    if options.captions:
        train = records.read_references(options.captions)
    else:
        drawn = [scenes.scene(0, "train", i) for i in range(6000)]
        texts = [scenes.captions(scene, random.Random(i)) for i, scene in enumerate(drawn)]
        train = [Record(i, Path("x"), tuple(five), "train") for i, five in enumerate(texts)]
    tokenizer = tokenizers.train_tokenizer(
        (t for r in train for t in r.captions), min_count=3, max_length=30
    )
    decoder = Recurrent(len(tokenizer), D, inject="pre")
    model = CaptionModel(Blind(D), decoder, tokenizer, {})
    features = torch.randn(len(train), D)
    ids = [[tokenizer.targets(text) for text in record.captions] for record in train]
    batches = TrainBatches(lambda index, _: Features(features[list(index)]), ids, IMAGES, SAMPLES)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=2e-3, fused=True)
    for number in range(options.warmup):
        loss, logs, _ = CrossEntropy(0.1)(model, batches[number % len(batches)], number)
        (loss / logs["count"]).backward()
        optimizer.step()
        optimizer.zero_grad()

    objective = SelfCritical(SAMPLES, "greedy")
    objective.prepare(train)
    took: dict[str, list[float]] = defaultdict(list)
    spent: dict[str, float] = defaultdict(float)

    def timed(name: str | Callable[..., str], function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            begun = time.perf_counter()
            result = function(*args)
            key = name if isinstance(name, str) else name(*args)
            spent[key] += time.perf_counter() - begun
            return result

        return run

    def of_strategy(*args: Any) -> str:
        return "sampling" if args[-1].rows == SAMPLES else "baseline"

    self_critical._generate = timed(of_strategy, self_critical._generate)
    self_critical._log_prob = timed("forward", self_critical._log_prob)
    objective._reward = timed("reward", objective._reward)  # type: ignore[method-assign]
    words = []
    for number in range(options.steps + 3):
        spent.clear()
        begun = time.perf_counter()
        loss, logs, _ = objective(model, batches[number % len(batches)], number)
        called = time.perf_counter()
        spent["other"] = called - begun - sum(spent.values())
        (loss / logs["count"]).backward()
        backward = time.perf_counter()
        spent["backward"] = backward - called
        nn.utils.clip_grad_norm_(decoder.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad()
        spent["update"] = time.perf_counter() - backward
        if number >= 3:  # after the first allocations
            words.append(float(logs["length"] / logs["count"]))
            for name, seconds in spent.items():
                took[name].append(seconds)
    total = statistics.median(map(sum, zip(*took.values())))
    references = sum(len(record.captions) for record in train)
    print(
        f"NIC, {IMAGES} images x {SAMPLES} samples of {statistics.mean(words):.1f} tokens, V = "
        f"{len(tokenizer):,}, {references:,} references: {1e3 * total:.0f} ms a step"
    )
    for name in ("sampling", "reward", "baseline", "forward", "backward", "update", "other"):
        share = statistics.median(took[name]) / total
        print(f"  {name:9} {1e3 * statistics.median(took[name]):6.1f} ms  {100 * share:4.1f} %")


if __name__ == "__main__":
    main()
