"""Whatever is wrong with what a user gives: exit code, message, leftovers, and what is kept.

docs/reliability.md is the table: each row names a bad thing and gives a command, its exit code, all
of its message, in which `...` is what depends on versions, and what is kept. CASES make the bad
things, each in a folder of its own, unless the command alone is wrong. Every row is held to the
same law: the command ends as the row says, no file that was there has changed, and no file is new
but those that KEPT names for what the row says is kept.
"""

import fcntl
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import captioner
import eval as eval_command
import train as train_command
from captioner import tokenizers
from captioner.commands import caption as caption_command
from captioner.data.cache import FeatureCache
from captioner.encoders import Blind
from captioner.models import caption_model
from tests.helpers.forks import ROOT, python
from tests.helpers.pictures import PHOTO, ROWS, encode, png
from tests.helpers.runs import composed, run

PAGE = ROOT / "docs" / "reliability.md"


class Row(NamedTuple):
    """What the page says: a command, its exit code and message, and what is kept."""

    command: str
    code: int
    message: str
    kept: str


def read_rows() -> dict[str, Row]:
    """The rows of the page, by the name of what is given."""

    def text(cell: str) -> str:
        """The lines of a cell, each of which is a code span."""
        return cell.replace("`<br>`", "\n").strip("`")

    lines = re.findall(r"(?m)^\| ([\w ]+: .*) \|$", PAGE.read_text(encoding="utf-8"))
    cells = [line.split(" | ") for line in lines]
    return {name: Row(text(c), int(code), text(m), kept) for name, c, code, m, kept in cells}


TABLE = read_rows()


# The good things

WORDS = {"a": "a red dog runs", "b": "a dog sits", "c": "a red cat", "d": "a cat", "e": "a dog"}
BLIND = {"_target_": "captioner.encoders.Blind", "size": 8}
DECODER = {"_target_": "captioner.decoders.recurrent.Recurrent", "embed_size": 8, "hidden_size": 8}
TRAIN_FILE, VAL_FILE = "data/captions_train.json", "data/captions_val.json"
CONFIG, TOKENIZER, WEIGHTS = "model/config.json", "model/tokenizer.json", "model/model.safetensors"


def coco(letters: str) -> dict:
    """Caption files of one caption for each of these pictures, whose ids are 0, 1, 2 ..."""
    return {
        "images": [{"id": i, "file_name": f"{letter}.png"} for i, letter in enumerate(letters)],
        "annotations": [{"image_id": i, "caption": WORDS[x]} for i, x in enumerate(letters)],
    }


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """Two pictures, a data set and a model, all of them in order."""
    folder = tmp_path_factory.mktemp("good")
    (folder / "data/images").mkdir(parents=True)
    for name in ("good.png", "also.png"):
        PHOTO.save(folder / name)
    for i, letter in enumerate(WORDS):
        PHOTO.resize((8, 8 + i)).save(folder / f"data/images/{letter}.png")
    write(folder / TRAIN_FILE, coco("abc"))
    write(folder / VAL_FILE, coco("de"))
    tokenizer = tokenizers.train_tokenizer(WORDS.values())
    model = caption_model.build_captioner({"encoder": BLIND, "decoder": DECODER}, tokenizer)
    model.save(folder / "model")
    (folder / WEIGHTS).chmod(0o644)
    folder.chmod(0o755)
    return folder


# How to spoil them


def write(name: str | Path, content: bytes | str | dict | list) -> None:
    Path(name).parent.mkdir(exist_ok=True)
    if isinstance(content, dict | list):
        content = json.dumps(content, ensure_ascii=False)
    Path(name).write_bytes(content.encode() if isinstance(content, str) else content)


def edit(name: str, change: Callable[[Any], object]) -> None:
    """Change the content of a JSON file."""
    content = json.loads(Path(name).read_text())
    change(content)
    write(name, content)


def edit_bytes(name: str, change: Callable[[bytes], bytes]) -> None:
    write(name, change(Path(name).read_bytes()))


def edit_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(WEIGHTS)
    change(tensors)
    with safe_open(WEIGHTS, "pt") as file:
        metadata = file.metadata()
    save_file(tensors, WEIGHTS, metadata)


def cut(name: str) -> None:
    """Leave the first half of a file."""
    os.truncate(name, Path(name).stat().st_size // 2)


def predict(*texts: str, ids=(0, 1, 2, 3)) -> None:
    """predictions.json for references.json, whose images are 0, 1, 2."""
    write("references.json", coco("abc"))
    write("predictions.json", [{"image_id": i, "caption": text} for i, text in zip(ids, texts)])


def set_caption(number: int, text: object) -> Callable[[dict], object]:
    return lambda c: c["annotations"][number].update(caption=text)


class Mischief:
    """Unpickled, it would make a file, and a new file is against the law of every case."""

    def __reduce__(self):
        return os.system, ("touch executed",)


def close_album() -> None:
    """A folder with a picture, and another one in a folder that nobody may enter."""
    Path("album/closed").mkdir(parents=True)
    shutil.copy("good.png", "album/good.png")
    shutil.copy("good.png", "album/closed/hidden.png")
    Path("album/closed").chmod(0)


def write_oddities() -> None:
    """Unusual, but all right."""
    exif = Image.Exif()
    exif[0x0112] = 6
    write("rotated.jpg", encode(PHOTO, "JPEG", exif=exif))
    write("cmyk.jpg", encode(PHOTO.convert("CMYK"), "JPEG"))
    write("deep.png", encode(Image.fromarray(np.full((4, 4), 40_000, np.uint16))))
    write("clear.png", encode(Image.new("RGBA", (4, 4), (255, 0, 0, 0))))
    write("moving.gif", encode(PHOTO, "GIF", save_all=True, append_images=[PHOTO.rotate(90)]))


def write_csv() -> None:
    """The data as a CSV file in which a caption has a comma."""
    Path(TRAIN_FILE).unlink()
    Path(VAL_FILE).unlink()
    write("data/all.csv", "image,caption,split\na.png,a dog, running,train\n")


def fill_album(files: dict[str, bytes]) -> None:
    """A picture, a text file, and these files; with more than one, also a link to a folder."""
    for name, content in {"good.png": encode(PHOTO), "notes.txt": b"", **files}.items():
        write(f"album/{name}", content)
    if len(files) > 1:
        write("elsewhere/d.png", encode(PHOTO))
        os.symlink("../elsewhere", "album/linked")


def spoil_two() -> None:
    write("data/images/b.png", "<html>")
    write("data/images/e.png", b"")


def predict_separated() -> None:
    """References with characters at which some break lines, and predictions that are right."""
    predict(*(WORDS[letter] for letter in "abc"))
    edit("references.json", set_caption(0, "a red\u2028dog\x85runs"))


def cache_two() -> None:
    """A cache that holds the features of two pictures, of 80,000 bytes each."""
    paths = [Path("data/images", f"{letter}.png") for letter in "ab"]
    FeatureCache("cache", Blind(40_000)).compute(paths, workers=0)


def cache_all(edit: Callable[[bytes], bytes], name: str = "*/pooled.f16") -> None:
    """A cache that holds the features of all pictures, and then one of its files is changed."""
    paths = sorted(Path("data/images").iterdir())
    FeatureCache("cache", Blind(8)).compute(paths, workers=0)
    (path,) = Path("cache").glob(name)
    path.write_bytes(edit(path.read_bytes()))


def replace_in_cache(make: Callable[[Path], None], name: str) -> None:
    """The same, and one of its files becomes something else."""
    cache_all(bytes, name)
    (path,) = Path("cache").glob(name)
    path.unlink()
    make(path)


def replace_cached_picture() -> None:
    """Two pictures of one size and time, and after their features are cached, one is the other."""
    old, new = Path("data/images/a.png"), Path("new.png")
    write(old, encode(Image.new("RGB", (8, 8), "red"), "BMP"))
    write(new, encode(Image.new("RGB", (8, 8), "blue"), "BMP"))
    os.utime(old, (1e9, 1e9)), os.utime(new, (1e9, 1e9))
    cache_all(bytes)
    shutil.copy2(new, old)


def begin_run(**files: bytes | str) -> None:
    """A run that has begun, with these checkpoints, or a manifest.json."""
    config = composed(*words("train.py data.root=data")[1:])
    write("run/config.yaml", OmegaConf.to_yaml(config, resolve=True))
    for name, content in files.items():
        ending = "json" if name == "manifest" else "ckpt"
        write(f"run/checkpoints/{name}.{ending}", content)


def hold_run() -> None:
    """Have the lock of the run directory, as another process would."""
    begin_run()
    write("run/lock", "process 12 on elsewhere\n")
    fcntl.flock(os.open("run/lock", os.O_RDWR), fcntl.LOCK_EX)  # until the tests end


def leave_out_blanks() -> None:
    """Captions as in a language that has none."""
    for file, texts in (TRAIN_FILE, "一只狗 一只猫 狗在跑".split()), (VAL_FILE, ["狗", "两只猫"]):
        for number, text in enumerate(texts):
            edit(file, set_caption(number, text))


def spoilt(kind: str, spoil: Callable, name: str, changes: dict[str, Any]) -> dict[str, Callable]:
    """The cases of one kind and file: its content, or what changes it, by the name of the case."""
    return {f"{kind}: {case}": partial(spoil, name, value) for case, value in changes.items()}


BIAS = "decoder.W_hy.bias"
EXECUTE = {"_target_": "os.system", "command": "touch executed"}
PNG = png(10, 10, 8, 2, ROWS)
NOT_A_NUMBER = encode(Image.fromarray(np.full((2, 2), np.nan, np.float32)), "TIFF")
PICTURES = {
    "HTML in disguise": b"<html>404</html>",
    "zero bytes": b"",
    "a format not on the list": encode(PHOTO, "ICO"),
    "wrong CRC": PNG[:-20] + bytes(4) + PNG[-16:],
    "a palette is missing": png(10, 10, 8, 3, b"\0" * 110),
    "a million pieces before its pixels": png(10, 10, 8, 2, ROWS, b"\0\0\0\0tEXt????" * 10**6),
    "short IDAT": png(10, 10, 8, 2, ROWS[:155]),
    "100 megapixels of 1 bit": png(10_000, 10_000, 1, 0, bytes(1251 * 10_000)),
    "900 megapixels": png(30_000, 30_000, 8, 2, b""),
    "a thread 60000 pixels wide": png(60_000, 2, 8, 2, b""),
}
ANNOTATIONS = {
    "an id twice": lambda c: c["images"][2].update(id=1),
    "a caption without its image": lambda c: c["annotations"].append(
        {"image_id": 99, "caption": "a dog"}
    ),
    "an image without a caption": lambda c: c["annotations"].pop(),
    "an empty caption": set_caption(1, " "),
    "a caption that is a number": set_caption(1, 3),
    "an id that is neither number nor text": lambda c: c["images"][0].update(id=True),
    "a picture outside the folder": lambda c: c["images"][0].update(file_name="../good.png"),
    "U+2028 in a caption": set_caption(0, "a dog\u2028jumps"),
    "a caption of 10,000 words": set_caption(0, "a dog " * 4999 + "at last"),
}
ANNOTATION_BYTES = {
    "JSON nested without end": lambda data: b"[" * 100_000,
    "a list where an object belongs": lambda data: b"[]",
    "Latin-1": lambda data: data.replace(b"red", b"r\xe9d"),
    "UTF-16": lambda data: data.decode().encode("utf-16"),
    "a name that is not UTF-8": lambda data: data.replace(b"b.png", b"b\\udce9.png"),
    "half a character": lambda data: data.replace(b"red dog", b"\\ud83d dog"),
    "a byte order mark": lambda data: b"\xef\xbb\xbf" + data,
}
CONFIGS = {
    "a number of 400 digits": lambda c: c["preprocess"].update(mean=[10**400, 0, 0]),
    "a picture of 100,000 pixels a side": lambda c: c["preprocess"].update(size=100_000),
    "far more weights than its file": lambda c: c["decoder"].update(hidden_size=20_000),
    "20,000 layers": lambda c: c["decoder"].update(layers=20_000),
    "a beam of a thousand": lambda c: c["search"].update(width=1000),
    "a base class": lambda c: c["encoder"].update(_target_="captioner.encoders.CNN", trunk=None),
    "names that are numbers": lambda c: c.update(
        encoder={"_target_": "captioner.encoders.Joined", "names": [5]}
    ),
    "a missing key": lambda c: c.pop("decoder"),
    "a wrong type": lambda c: c["decoder"].update(hidden_size="8"),
    "an unknown option": lambda c: c["decoder"].update(layer=2),
    "of another version": lambda c: c.update(format=9),
    "a class outside the allowlist": lambda c: c["decoder"].update(EXECUTE),
    "a class that would write to the terminal": lambda c: c["decoder"].update(_target_="\x1b[2J"),
}

CASES: dict[str, Callable[[], object]] = {
    **spoilt("picture", write, "bad.png", PICTURES),
    "picture: cut in half": lambda: write("bad.jpg", encode(PHOTO, "JPEG")[:600]),
    "picture: pixels that are no numbers": lambda: write("bad.tif", NOT_A_NUMBER),
    "picture: half a gigabyte": lambda: (write("bad.tif", b""), os.truncate("bad.tif", 2**29 + 1)),
    "picture: a FIFO": lambda: os.mkfifo("bad.png"),
    "picture: a directory in a list": lambda: (
        Path("bad.png").mkdir(),
        write("list.txt", "good.png\nbad.png\nalso.png\n"),
    ),
    "picture: a list that is not UTF-8": lambda: write(
        "list.txt", b"good.png\nb\xe9d.png\nalso.png\n"
    ),
    "picture: no permission": lambda: (write("bad.png", b""), os.chmod("bad.png", 0)),
    "picture: a folder without permission": close_album,
    "picture: none in the folder": lambda: write("album/notes.txt", "P1 is a note"),
    "picture: a list in UTF-16": lambda: write("list.txt", "good.png\n".encode("utf-16")),
    "picture: a list with CRLF, blank lines and a byte order mark": lambda: write(
        "list.txt", b"\xef\xbb\xbfgood.png\r\n\r\n  \nalso.png"
    ),
    "picture: only its ending promises one": lambda: fill_album({"bad.heic": b"<html>"}),
    "picture: without an ending, in linked folders, beside litter": lambda: fill_album(
        {"noending": encode(PHOTO), ".DS_Store": b"", "._good.png": b"\0\5\x16\7"}
    ),
    "picture: a newline in the path": lambda: write("new\nline.png", b""),
    "picture: a good one with a newline in its path": lambda: write("new\nline.png", encode(PHOTO)),
    "picture: rotated by EXIF, CMYK, 16 bits, transparent, animated": write_oddities,
    **spoilt("annotations", edit, TRAIN_FILE, ANNOTATIONS),
    **spoilt("annotations", edit_bytes, TRAIN_FILE, ANNOTATION_BYTES),
    "annotations: accents that the disk composes otherwise": lambda: (
        edit(TRAIN_FILE, lambda c: c["images"][0].update(file_name="\u00e9.png")),
        os.rename("data/images/a.png", "data/images/e\u0301.png"),
    ),
    "config: paths with signs that Hydra reads otherwise": lambda: os.rename("data", "d~[a],b=é"),
    "annotations: cut JSON": lambda: cut(TRAIN_FILE),
    "annotations: a missing picture": lambda: os.remove("data/images/b.png"),
    "annotations: a picture in train and val": lambda: write(VAL_FILE, coco("ad")),
    "annotations: a CSV with bare commas": write_csv,
    "annotations: a FIFO": lambda: (os.remove(TRAIN_FILE), os.mkfifo(TRAIN_FILE)),
    "annotations: a device without end": lambda: (
        os.remove(TRAIN_FILE),
        os.symlink("/dev/zero", TRAIN_FILE),
    ),
    "annotations: a folder": lambda: (os.remove(TRAIN_FILE), os.mkdir(TRAIN_FILE)),
    "annotations: an image folder that leads out of the root": lambda: (
        os.rename("data/images", "elsewhere"),
        os.symlink("../elsewhere", "data/images"),
    ),
    "annotations: U+2028 in a reference": predict_separated,
    "predictions: a FIFO": lambda: (
        write("references.json", coco("abc")),
        os.mkfifo("predictions.json"),
    ),
    "predictions: a table of frequencies that unpacks to 100 MB": lambda: (
        predict(*(WORDS[letter] for letter in "abc")),
        np.savez_compressed("table.npz", tokenizer=np.zeros(10**8, np.uint8)),
    ),
    "predictions: cut JSON": lambda: (predict("a dog"), cut("predictions.json")),
    "predictions: an entry without a caption": lambda: (
        predict("a dog"),
        edit("predictions.json", lambda p: p[0].pop("caption")),
    ),
    "predictions: an image twice": lambda: predict("a", "b", "c", "a", ids=(0, 1, 2, 0)),
    "predictions: an image left out": lambda: predict("a dog", "a cat"),
    "predictions: a foreign image": lambda: predict("a", "b", "c", "d"),
    "training: a bad picture, frozen encoder": lambda: write("data/images/b.png", "<html>"),
    "training: a bad picture, in evaluation": lambda: write("data/images/d.png", "<html>"),
    "training: bad pictures, trainable encoder": spoil_two,
    "training: bad pictures, told to go on": spoil_two,
    "vocabulary: a special token among the words": lambda: edit(
        TRAIN_FILE, set_caption(0, "a <unk> dog")
    ),
    "vocabulary: empty, without blanks": lambda: leave_out_blanks(),
    "annotations: no blanks between words": lambda: leave_out_blanks(),
    "predictions: no blanks between words": lambda: (
        predict(*"狗在跑 猫在睡 一只狗".split()),
        [
            edit("references.json", set_caption(i, t))
            for i, t in enumerate("狗在跑 猫在睡 一只狗".split())
        ],
    ),
    "vocabulary: smaller than the beam": lambda: [
        edit(TRAIN_FILE, set_caption(number, "dog")) for number in range(3)
    ],
    "vocabulary: too small for the weights": lambda: edit(TOKENIZER, lambda t: t["units"].pop()),
    "config: encoder weights that would execute something": lambda: torch.save(
        {"a": Mischief()}, "weights.pth"
    ),
    "config: a run directory in use": lambda: write("run/config.yaml", "seed: 0"),
    "config: results without their run": lambda: (write("run/metrics.csv", ""), predict()),
    "config: a run that is going on": lambda: hold_run(),
    "run: a configuration that is cut": lambda: write("run/config.yaml", "data: {root: da"),
    "run: a configuration without its data": lambda: write("run/config.yaml", "seed: 0"),
    "run: a folder with the name of a file": lambda: Path("run/config.yaml").mkdir(parents=True),
    "run: no checkpoint is whole": lambda: begin_run(**{"00001": b"cut", "manifest": "[]"}),
    "run: a checkpoint that is lost": lambda: begin_run(
        manifest=json.dumps([{"number": 1, "file": "00001.ckpt", "size": 9, "sha256": "0" * 64}])
    ),
    "config: an evaluation that is going on": lambda: (hold_run(), predict()),
    "model directory: an integer of 5,000 digits": lambda: edit_bytes(
        CONFIG, lambda data: data.replace(b"8", b"1" * 5000)
    ),
    "model directory: weights of another type": lambda: edit_weights(
        lambda t: t.update({BIAS: t[BIAS].to(torch.float8_e4m3fn)})
    ),
    "model directory: half a character in the tokenizer": lambda: edit_bytes(
        TOKENIZER, lambda data: data.replace(b'"cat"', b'"\\ud800"')
    ),
    "model directory: a header without end": lambda: edit_bytes(
        WEIGHTS, lambda data: (2**40).to_bytes(8, "little") + data[8:]
    ),
    "model directory: not there": lambda: shutil.rmtree("model"),
    "model directory: a missing file": lambda: os.remove(TOKENIZER),
    "model directory: cut weights": lambda: cut(WEIGHTS),
    "model directory: a pickle in disguise": lambda: torch.save(Mischief(), WEIGHTS),
    "model directory: wrong shapes": lambda: edit_weights(
        lambda t: t.update({BIAS: torch.ones(2)})
    ),
    "model directory: a missing weight": lambda: edit_weights(lambda t: t.pop(BIAS)),
    "model directory: weights that are no numbers": lambda: edit_weights(
        lambda t: t[BIAS].fill_(np.nan)
    ),
    "model directory: a foreign tokenizer": lambda: edit(TOKENIZER, lambda t: t["units"].reverse()),
    "model directory: a tokenizer of another kind": lambda: edit(
        TOKENIZER, lambda t: t.update(kind="bpe")
    ),
    "model directory: a tokenizer that may not be read": lambda: os.chmod(TOKENIZER, 0),
    "model directory: cut config": lambda: cut(CONFIG),
    "model directory: a config nested without end": lambda: write(CONFIG, "[" * 100_000),
    **spoilt("model directory", edit, CONFIG, CONFIGS),
    "cache: a flipped bit": lambda: cache_all(lambda data: data[:20] + b"1" + data[21:]),
    "cache: data that were lost": lambda: cache_all(lambda data: data[:32]),
    "cache: lines of other kinds": lambda: cache_all(
        lambda data: b'null\n{}\n[[]]\n\xff\n["a.png", 1, 2, "ab"]\n', "hashes.jsonl"
    ),
    "cache: another picture of the same size and time": replace_cached_picture,
    "cache: a folder with the name of a file": lambda: replace_in_cache(Path.mkdir, "*/rows.txt"),
    "cache: a FIFO with the name of a file": lambda: replace_in_cache(os.mkfifo, "hashes.jsonl"),
    "disk full: cache": cache_two,  # two rows of 80,000 bytes are there
    "disk full: predictions": lambda: predict(*["a dog " * 20_000] * 3),
}
"""What makes the bad things, in the current folder, where good.png, also.png, data/ and model/ are,
by the names of the rows. The command itself is wrong in a row without one."""

HOW: dict[str, str | int] = {
    "picture: no permission": "nobody",
    "picture: a folder without permission": "nobody",
    "model directory: a tokenizer that may not be read": "nobody",
    "config: a typo": "process",
    "config: paths with signs that Hydra reads otherwise": "process",
    "config: an option of a list": "process",
    "disk full: captions": "full",
    "disk full: cache": 200_000,
    "disk full: checkpoint": 1_000_000,
    "disk full: predictions": 200_000,
}
"""Commands that run in a process of their own: as a user without permissions ("nobody"), onto a
full disk, or with so many bytes for each file."""


# What must hold

CACHE = ("cache/*.f16", "cache/*.json", "cache/*/lock", "cache/*/rows.txt", "cache/hashes.jsonl")
RUN_ALONE = ("run/*.json", "run/*.yaml", "run/*.csv", "run/model/*", "run/checkpoints/*")
RUN_ALONE += ("run/tensorboard/*",)
RUN = (*RUN_ALONE, *CACHE)
BEGUN = ("run/*.yaml", "run/tokenizer.json", "run/tensorboard/*", *CACHE)


class Kept(NamedTuple):
    new: tuple[str, ...] = ()  # patterns of the files that are new
    names: tuple[str, ...] = ()  # of the pictures that have a caption each, on a line each
    learned: str = ""  # words that the model has learned
    cached: int | None = None  # rows in the cache
    again: int | None = None  # and how many when the command is repeated, with room on the disk
    scored: bool = False  # every image has been, against its own references


KEPT = {
    "all files as they were; no new one": Kept(),
    "the captions of the good ones": Kept(names=("good.png", "also.png")),
    "the captions of the others": Kept(names=("good.png", "album/good.png")),
    "the caption of the good one": Kept(names=("album/good.png",)),
    "the captions of album": Kept(names=("album/good.png", "album/linked/d.png", "album/noending")),
    "the captions of all": Kept(
        names=("rotated.jpg", "cmyk.jpg", "deep.png", "clear.png", "moving.gif")
    ),
    "a line for each": Kept(names=("good.png", "'new\\nline.png'", "also.png")),
    "the features of the good ones, in the cache; no run": Kept(CACHE, cached=4),
    "the features of the good ones, in the cache; no scores": Kept(CACHE, cached=1),
    "that the good ones are whole; no run": Kept(("cache/hashes.jsonl",)),
    "the features, in the cache; no checkpoint": Kept(BEGUN, cached=5),
    "the rows that were there; run again, it goes on from them": Kept(cached=2, again=5),
    "the run; in the cache, the rows again": Kept(RUN_ALONE, cached=5),
    "the run; in the cache, a row for the damaged one": Kept(RUN_ALONE, cached=6),
    "the run; in the cache, a row for the other picture": Kept(RUN_ALONE, cached=6),
    "the predictions that were given; run again, it scores them": Kept(again=0),
    "each image's score, from its own references": Kept(
        ("run/predictions.json", "run/scores.json"), scored=True
    ),
    "the run, with every caption": Kept(RUN, learned="a red dog runs sits cat"),
    "the run, with the whole caption": Kept(RUN, learned="a dog jumps"),
    "the run, with the caption cut, as said": Kept(RUN, learned="at last"),
    "the run, each sentence one word, as said": Kept(RUN, learned="一只狗 一只猫 狗在跑"),
    "the run: it can say one word, and says it": Kept(RUN, learned="dog"),
    "the run, by the good ones; skipped.txt with the others": Kept(
        (*RUN, "run/skipped.txt"), learned="a red dog"
    ),
}


def cached_rows() -> int:
    return sum(len(rows.read_text().splitlines()) for rows in Path("cache").glob("*/rows.txt"))


# How the commands are given


TRAIN = {"data": "folder", "data.workers": "0", "data.cache": "cache", "data.batch_size": "2"}
TRAIN |= {"encoder": "blind", "encoder.size": "8", "decoder.hidden_size": "8"}
TRAIN |= {"decoder.embed_size": "8", "tokenizer.min_count": "1", "search": "greedy"}
TRAIN |= {"debug": "fast", "run_dir": "run"}
EVALUATE = {key: TRAIN[key] for key in ("data", "data.workers", "data.cache", "run_dir")}

SPECIAL = {"nobody": """
import os, sys, captioner.commands.caption
try:
    captioner.load("model").caption(["good.png"])  # what is imported late is imported now
except captioner.InputError:
    pass
try:
    if os.geteuid() == 0:
        os.setgroups([]), os.setgid(65534), os.setuid(65534)
except OSError:
    sys.exit(77)
sys.exit(captioner.commands.caption.main(sys.argv[1:]))
""", "full": """
import os, sys, captioner.commands.caption
if not os.path.exists("/dev/full"):
    sys.exit(77)
os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
sys.exit(captioner.commands.caption.main(sys.argv[1:]))
"""}  # fmt: skip
LIMITED = """
import resource, runpy, sys
_, limit, *sys.argv = sys.argv
resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def words(command: str) -> list[str]:
    """The command line, with what makes it small and keeps it in this folder."""
    name, *given = shlex.split(command)
    if name == "caption":
        return [name, "--model", "model", *given]
    keys = {option.split("=")[0] for option in given}
    if "encoder" in keys:
        keys.add("encoder.size")
    defaults = {"train.py": TRAIN, "eval.py": EVALUATE}[name]
    return [name, *(f"{key}={value}" for key, value in defaults.items() if key not in keys), *given]


def here(command: list[str], hydra: bool, patch: pytest.MonkeyPatch) -> int:
    """Run a command in this process, perhaps with Hydra's own errors -> exit code."""
    name, *given = command
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice; not what we say ourselves
        warnings.filterwarnings("always", ".*(captions are cut|no blanks)")
        patch.setattr(warnings, "showwarning", lambda text, kind, *place: print(
            f"{kind.__name__}: {text}", file=sys.stderr
        ))  # fmt: skip
        try:
            if name == "caption" and "<" in given:
                with open(given[-1], encoding="utf-8") as file:
                    patch.setattr(sys, "stdin", file)
                    return caption_command.main(given[:-2])
            if name == "caption":
                return caption_command.main(given)
            if hydra:
                patch.setattr(sys, "argv", command)
                runpy.run_path(str(ROOT / name), run_name="__main__")
            else:
                run({"train.py": train_command, "eval.py": eval_command}[name], *given)
        except SystemExit as stop:
            return stop.code
    return 0


def spawn(command: list[str], how: str | int) -> tuple[int, str, str]:
    """The same in a process of its own -> exit code, stdout, stderr."""
    name, *given = command
    program = ["-m", "captioner"] if name == "caption" else [str(ROOT / name)]
    if isinstance(how, int):
        program = ["-c", LIMITED, str(how), *program]
    elif how in SPECIAL:
        program = ["-c", SPECIAL[how]]
    done = subprocess.run(
        [python(), *program, *given],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=120,
    )
    if done.returncode == 77:
        pytest.skip("this process cannot become an unprivileged one, or there is no /dev/full")
    # what Lightning says before is not ours
    start = done.stderr.rfind("error: ") if isinstance(how, int) else 0
    return done.returncode, done.stdout, done.stderr[max(0, start) :]


def files() -> dict[str, tuple[int, int]]:
    """Each file in this folder, with its size and time."""
    paths = [Path(folder, name) for folder, _, names in os.walk(".") for name in names]
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in paths}


# The law


@pytest.mark.parametrize("name", TABLE)
def test_it_ends_as_the_page_says(name, good, tmp_path, monkeypatch, capsys):
    row = TABLE[name]
    kept = KEPT[row.kept]
    tmp_path.chmod(0o755)
    shutil.copytree(good, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    CASES.get(name, lambda: None)()
    before = files()
    command = words(row.command)
    if how := HOW.get(name):
        code, out, message = spawn(command, how)
    else:
        code = here(command, row.code == 1, monkeypatch)
        out, message = capsys.readouterr()
    after = files()
    message = re.sub(r"\r[^\n]*\n?", "", message).strip()  # progress bars
    assert "Traceback" not in message
    assert code == row.code, message
    pattern = ".*".join(map(re.escape, row.message.split("...")))
    assert re.fullmatch(pattern, message, re.DOTALL), message
    new = after.keys() - before.keys()
    assert [n for n in before if after.get(n) != before[n] and not n.startswith("cache/")] == []
    assert [n for n in new if not any(fnmatch(n, pattern) for pattern in kept.new)] == []
    assert [pattern for pattern in kept.new if not any(fnmatch(n, pattern) for n in new)] == []
    if row.command.startswith("caption"):
        lines = [line.rpartition(": ") for line in out.splitlines()]
        assert all(text for _, _, text in lines)
        assert tuple(name for name, _, _ in lines) == kept.names
    if kept.learned:
        units = json.loads(Path("run/tokenizer.json").read_text())["units"]
        assert set(kept.learned.split()) <= set(units)
        assert captioner.load("run/model").caption(["good.png"])[0].caption
    if kept.cached is not None:
        assert cached_rows() == kept.cached
    if kept.again is not None:
        code, _, message = spawn(command, "process")
        assert (code, cached_rows()) == (0, kept.again), message
    if kept.scored:
        scores = json.loads(Path("run/scores.json").read_text())["per_image"]
        assert [scores[key]["Bleu_1"] for key in "012"] == pytest.approx([1, 1, 1])


def test_each_case_has_a_row_and_the_table_is_long():
    assert CASES.keys() | HOW.keys() <= TABLE.keys() and len(TABLE) >= 95
