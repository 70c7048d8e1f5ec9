"""Mutated files of every kind that is read: a result or an InputError, in time and memory.

Each entry of TARGETS is a kind of file. The suite tries `count` mutations of each; more, or one
that failed, are tried by

    python -m tests.test_fuzz COUNT [NAME ...]
    python -m tests.test_fuzz 1 NAME SEED
"""

import csv
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import captioner
from captioner.data.records import read_references
from captioner.evaluation.frequencies import read_frequencies
from tests.helpers import captions
from tests.helpers.fuzz import (
    Target,
    attack,
    mutate_bytes,
    mutate_json,
    mutate_npz,
    mutate_safetensors,
)
from tests.helpers.models import tiny_captioner
from tests.helpers.pictures import PHOTO

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
