"""Mutated files of every kind that is read: a result or an InputError, in time and memory.

Each entry of TARGETS is a kind of file. The suite tries `count` mutations of each; more, or one
that failed, are tried by

    python -m tests.test_fuzz COUNT [NAME ...]
    python -m tests.test_fuzz 1 NAME SEED
"""

import csv
import io
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

import captioner
from captioner.data.cache import FeatureCache
from captioner.data.records import read_references
from captioner.encoders import CNN
from captioner.evaluation.frequencies import read_frequencies
from captioner.experiment import runs
from captioner.experiment.run_dir import RunDir
from captioner.images import Preprocess, read_image
from captioner.training import checkpoints
from tests.helpers import captions
from tests.helpers.fuzz import (
    Target,
    attack,
    mutate_bytes,
    mutate_json,
    mutate_npz,
    mutate_picture,
    mutate_safetensors,
)
from tests.helpers.models import tiny_captioner
from tests.helpers.pictures import PHOTO, encode, png
from tests.helpers.runs import composed

IMAGES = [(1, "a.jpg", "train", ["a red dog", "a dog"]), (2, "b.jpg", "val", ["a cat's hat"])]
ROWS = [
    {"image": name, "caption": text, "split": split}
    for _, name, split, texts in IMAGES
    for text in texts
]


def model_file(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        tiny_captioner(["a red dog runs", "a cat"]).save(folder)
        return folder / name

    return make


def caption_with(path: Path) -> object:
    return captioner.load(path.parent, device="cpu").caption(PHOTO)


def frequencies(folder: Path) -> Path:
    text(".jsonl", jsonl())(folder)
    path = folder / "table.npz"
    read_frequencies(folder / "captions.jsonl").save(path)
    return path


def text(ending: str, content: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / f"captions{ending}"
        path.write_text(content)
        return path

    return make


def jsonl() -> str:
    return "".join(json.dumps(row) + "\n" for row in ROWS)


def table() -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, ROWS[0])
    writer.writeheader()
    writer.writerows(ROWS)
    return buffer.getvalue()


def tokens() -> str:
    return "".join(f"{row['image']}#{i}\t{row['caption']}\n" for i, row in enumerate(ROWS))


SMALL = PHOTO.resize((20, 14))
PALETTE, GREY = SMALL.convert("P", palette=Image.Palette.ADAPTIVE), SMALL.convert("L")
DEEP = Image.fromarray(np.arange(280, dtype=np.uint16).reshape(14, 20) * 200)
FLOAT = Image.fromarray(np.linspace(0, 1, 280, dtype=np.float32).reshape(14, 20))
EXIF = Image.Exif()
EXIF[0x0112] = 6
FRAMES: dict = {"save_all": True, "append_images": [SMALL.rotate(90), SMALL.rotate(10)]}
PICTURES = {
    "JPEG": [
        encode(SMALL, "JPEG", exif=EXIF), encode(SMALL, "JPEG", progressive=True, comment=b"a"),
        encode(SMALL.convert("CMYK"), "JPEG"), encode(GREY, "JPEG", restart_marker_blocks=1),
        encode(SMALL, "MPO", save_all=True, append_images=[SMALL]),
    ],
    "PNG": [
        encode(SMALL, exif=EXIF, dpi=(72, 72)), encode(PALETTE, transparency=3), encode(DEEP),
        encode(SMALL.convert("1")), encode(SMALL.convert("LA")), encode(SMALL, "PNG", **FRAMES),
        png(8, 1, 8, 0, b"\0a\0b\0cc\0dddd", interlaced=1),
    ],
    "GIF": [encode(PALETTE, "GIF", transparency=2), encode(SMALL, "GIF", comment=b"a", **FRAMES)],
    "BMP": [encode(image, "BMP") for image in (SMALL, PALETTE, SMALL.convert("RGBA"))],
    "WEBP": [
        encode(SMALL, "WEBP", exif=EXIF), encode(SMALL, "WEBP", lossless=True),
        encode(SMALL, "WEBP", **FRAMES),
    ],
    "PPM": [
        *(encode(image, "PPM") for image in (SMALL, GREY, DEEP, FLOAT, SMALL.convert("1"))),
        b"P3 # a\n1 2 255\n1 2 3 4 5 6", b"P2\n2 2 65535\n1 2 3 65535", b"P1\n3 2\n101010",
    ],
    "TIFF": [
        *(encode(image, "TIFF") for image in (FLOAT, DEEP, PALETTE, SMALL.convert("CMYK"))),
        encode(SMALL, "TIFF", **FRAMES), encode(SMALL, "TIFF", big_tiff=True, exif=EXIF),
        encode(SMALL.convert("1"), "TIFF", compression="group4"),
        *(
            encode(SMALL, "TIFF", compression=name, strip_size=300)
            for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "lzma", "zstd")
        ),
    ],
}  # fmt: skip
"""Whole pictures of each format, in the ways that it has of coding one."""


def picture(data: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "picture").write_bytes(data)
        return folder / "picture"

    return make


def read_picture(path: Path) -> None:
    Preprocess(size=8)(read_image(path))


class FewFeatures(CNN):
    """Cheap to compute, and different for different pictures."""

    def __init__(self) -> None:
        trunk = torch.nn.Conv2d(3, 4, 8, 8)
        torch.nn.init.constant_(trunk.weight, 0.01)
        torch.nn.init.constant_(trunk.bias, 0.5)
        super().__init__(trunk, 4, [], Preprocess(size=16), "none")


def features(cache: Path, pictures: Path) -> list[torch.Tensor]:
    """What a cache in that folder gives for the pictures in the other."""
    it = FeatureCache(cache, FewFeatures(), grid=True)
    rows = it.compute(sorted(pictures.glob("*.ppm")), workers=0)
    return [tensor.clone() for tensor in it[rows[:, 0]][:2]]


def cache_file(pattern: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        for i in range(5):
            (folder / f"{i}.ppm").write_bytes(encode(SMALL.rotate(i), "PPM"))
        features(folder / "cache", folder)
        return next((folder / "cache").glob(pattern))

    return make


def read_cache(path: Path) -> None:
    """The features are those of an empty cache, twice: whatever was wrong has been mended."""
    cache = path.parent if path.parent.name == "cache" else path.parent.parent
    with tempfile.TemporaryDirectory() as name:
        copy = Path(shutil.copytree(cache, Path(name, "cache")))
        expected = features(Path(name, "empty"), cache.parent)
        for _ in range(2):
            assert all(map(torch.equal, features(copy, cache.parent), expected))


def run_file(name: str) -> Callable[[Path], Path]:
    """A file of a small run that has ended."""

    def make(folder: Path) -> Path:
        for number in range(3):
            checkpoints.save(folder / "checkpoints", {"epoch": number, "a": torch.ones(9)})
        contents = {
            "config.yaml": OmegaConf.to_yaml(composed("data.root=d"), resolve=True),
            "metrics.csv": "step,train/loss,val/nll,val/CIDEr\n1,2.5,,\n1,,2.0,0.5\n2,,1.9,0.6\n",
            "scores.json": json.dumps({"corpus": {"CIDEr": 0.6, "Bleu_4": 0.1}, "per_image": {}}),
            "run.json": json.dumps({"parameters": 9, "seconds": 1.5}),
        }
        for file, content in contents.items():
            (folder / file).write_text(content)
        return folder / name

    return make


def read_run(path: Path) -> None:
    """What `captioner runs` and a resumed run do with the files of a run, on a copy."""
    folder = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    with tempfile.TemporaryDirectory() as name:
        run = RunDir(shutil.copytree(folder, Path(name, "run")))
        if newest := checkpoints.newest(run.checkpoints):
            checkpoints.load(newest)
        checkpoints.save(run.checkpoints, {"epoch": 9})
        runs.markdown({"a": run.results()})
        run.resumed_config()
        run.add_time(1.0, 9)


TARGETS = {
    "config.json": Target(model_file("config.json"), caption_with, mutate_json, 700),
    "tokenizer.json": Target(model_file("tokenizer.json"), caption_with, mutate_json, 400),
    "model.safetensors": Target(
        model_file("model.safetensors"), caption_with, mutate_safetensors, 500
    ),
    "frequencies.npz": Target(frequencies, read_frequencies, mutate_npz, 600),
    "captions: coco": Target(
        text(".json", json.dumps(captions.coco(*IMAGES))), read_references, mutate_json, 800
    ),
    "captions: karpathy": Target(
        text(".json", json.dumps(captions.karpathy(*IMAGES))),
        read_references, mutate_json, 800,
    ),
    **{
        f"captions: {ending}": Target(text(ending, content), read_references, mutate_bytes, 800)
        for ending, content in ((".token", tokens()), (".jsonl", jsonl()), (".csv", table()))
    },
    **{
        f"picture: {kind} {i}": Target(picture(data), read_picture, mutate_picture, 20)
        for kind, pictures in PICTURES.items()
        for i, data in enumerate(pictures)
    },
    **{
        f"cache: {name}": Target(cache_file(name), read_cache, mutate_bytes, 15)
        for name in ("hashes.jsonl", "*/rows.txt", "*/pooled.f16", "*/grid.f16", "*/encoder.json")
    },
    **{
        f"run: {name}": Target(run_file(name), read_run, mutate, 15)
        for name, mutate in {
            "config.yaml": mutate_bytes, "metrics.csv": mutate_bytes, "scores.json": mutate_json,
            "run.json": mutate_json, "checkpoints/manifest.json": mutate_json,
            "checkpoints/00003.ckpt": mutate_bytes,
        }.items()
    },
}  # fmt: skip


@pytest.mark.parametrize("name", TARGETS)
def test_a_mutated_file_gives_a_result_or_an_input_error(name, tmp_path):
    assert attack(TARGETS[name], tmp_path, range(TARGETS[name].count)) == []


if __name__ == "__main__":
    count, *names = sys.argv[1:]
    seed = int(names.pop()) if names and names[-1].isdigit() else 0
    for name in names or TARGETS:
        begun = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            for line in attack(TARGETS[name], Path(folder), range(seed, seed + int(count))):
                print(f"{name}: {line}", flush=True)
        print(f"{name}: {count} in {time.monotonic() - begun:.0f} s", flush=True)
