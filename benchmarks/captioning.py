"""Captioning speed, from the paths of JPEGs to lines, and where the time goes.

    python benchmarks/captioning.py FOLDER [--model DIR]

FOLDER holds JPEGs. Without a model, one is made: the default encoder, and the default decoder with
random weights and 9,487 words. Timed in turn, greedy and beam 5: the whole, as `caption` does it,
and its parts alone: opening the pictures (by as many threads), the CNN, the search. The CNN is
timed against timm's own model as it comes (no_grad, its usual memory format); the features must be
equal.
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from timing import ratio, timed

import captioner
from captioner import tokenizers
from captioner.models import caption_model
from captioner.prefetch import prefetch
from captioner.search import Beam, Greedy
from captioner.types import EOS, Features

BATCH = 16


def random_model() -> caption_model.CaptionModel:
    """As a fresh training run would begin; END comes after about 10 words."""
    torch.manual_seed(0)
    encoder = {"_target_": "captioner.encoders.Timm", "weights": "pip"}
    decoder = {"_target_": "captioner.decoders.recurrent.Recurrent"}
    tokenizer = tokenizers.Word([f"w{n}" for n in range(9483)], 30)
    model = caption_model.build_captioner(
        {"encoder": encoder, "decoder": decoder}, tokenizer
    ).eval()
    model.encoder.fuse()
    model.decoder.W_hy.weight.data *= 8
    model.decoder.W_hy.bias.data[EOS] = 10.0
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description="Captioning speed.")
    parser.add_argument("folder", type=Path, help="of JPEGs")
    parser.add_argument("--model", type=Path, help="a model directory (default: a random model)")
    parser.add_argument("--limit", type=int, default=256, help="pictures (default 256)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each (default 3)")
    options = parser.parse_args()
    paths = [str(path) for path in sorted(options.folder.glob("*.jpg"))[: options.limit]]
    model = captioner.load(options.model, device="cpu") if options.model else random_model()
    trunk: Any = model.encoder.trunk
    print(f"{len(paths)} pictures, batches of {BATCH}, {torch.get_num_threads()} threads")

    def open_all() -> torch.Tensor:
        return torch.stack([p for _, p in prefetch(model._open, paths, caption_model.READERS)])  # type: ignore

    def encode() -> Features:
        with torch.inference_mode():
            batches = [model.encode(part) for part in pixels.split(BATCH)]
        columns = zip(*batches)
        return Features(*(torch.cat(part) if part[0] is not None else None for part in columns))

    def eager() -> torch.Tensor:
        with torch.no_grad():
            maps = [trunk.forward_features(part) for part in pixels.split(BATCH)]
        return torch.cat([part.mean(dim=(2, 3)) for part in maps])

    def search(strategy: Any) -> list[str]:
        captions: list[str] = []
        for begin in range(0, len(paths), BATCH):
            part = Features(*(x if x is None else x[begin : begin + BATCH] for x in features))
            captions += [best[0].caption for best in model.texts(model.generate(part, strategy))]
        return captions

    seconds: dict[str, list[float]] = {}

    def note(name: str, work: Callable[[], Any]) -> Any:
        spent, result = timed(work)
        seconds.setdefault(name, []).append(spent)
        return result

    strategies = {"greedy": Greedy(), "beam 5": Beam()}
    for round_ in range(options.rounds + 1):
        if round_ == 1:
            seconds.clear()  # the first warms up
        pixels = note("open", open_all)
        features = note("CNN", encode)
        torch.testing.assert_close(features.pooled_BD, note("eager timm", eager), atol=1e-3, rtol=0)
        for name, strategy in strategies.items():
            alone = note(f"search, {name}", lambda s=strategy: search(s))
            results = note(f"whole, {name}", lambda s=strategy: model.caption(paths, s, BATCH))
            assert [result.caption for result in results] == alone

    middle = {name: statistics.median(times) / len(paths) for name, times in seconds.items()}
    print(f"CNN: {1000 * middle['CNN']:.1f} ms a picture", end=", ")
    print(f"{ratio(seconds['eager timm'], seconds['CNN'])} x eager timm")
    for name in strategies:
        names = ("open", "CNN", f"search, {name}")
        sums = [sum(parts) for parts in zip(*(seconds[part] for part in names))]
        split = ", ".join(f"{part} {1000 * middle[part]:.1f} ms" for part in names)
        print(
            f"{name}: {1 / middle[f'whole, {name}']:.1f} pictures/s ({split}); the whole takes "
            f"{ratio(seconds[f'whole, {name}'], sums)} of the sum"
        )


if __name__ == "__main__":
    main()
