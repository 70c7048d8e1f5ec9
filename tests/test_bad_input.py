"""Whatever is wrong with what a user gives: exit code, message, leftovers, and what is kept.

docs/reliability.md is the table: each row names a bad thing and gives a command, its exit code and
all of its message, in which `...` is what depends on versions. CASES make the bad things, each in a
folder of its own, unless the command alone is wrong. Every row is held to the same law: the command
ends as the row says, no file that was there has changed, and no file is new but those that the case
names.
"""

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
from typing import NamedTuple

import numpy as np
import pytest
import torch
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
from tests.helpers.runs import run

PAGE = ROOT / "docs" / "reliability.md"


class Row(NamedTuple):
    """What the page says: the exit code and the message of a command."""

    command: str
    code: int
    message: str


class Case(NamedTuple):
    """make: makes the bad thing, in the current folder, where good.png, also.png, data/ and model/
    are. holds: checks what is kept, from stdout. new: patterns of the files that may be new, each
    of which is.
    how: "here"; "hydra", here and with Hydra's own errors; or in a process of its own: "process",
    "nobody" (without permissions), "full" (onto a full disk), or the bytes that a file can have.
    """

    make: Callable[[], object]
    holds: Callable[[str], object] | None = None
    new: tuple[str, ...] = ()
    how: str | int = "here"


def read_rows() -> dict[str, Row]:
    """The rows of the page, by the name of what is given."""

    def text(cell: str) -> str:
        """The lines of a cell, each of which is a code span."""
        return cell.replace("`<br>`", "\n").strip("`")

    lines = PAGE.read_text(encoding="utf-8").splitlines()
    cells = [line.strip("| ").split(" | ") for line in lines if re.match(r"\| [\w ]+: ", line)]
    return {name: Row(text(c), int(code), text(message)) for name, c, code, message, _ in cells}


TABLE = read_rows()


# The good things


WORDS = {"a": "a red dog runs", "b": "a dog sits", "c": "a red cat", "d": "a cat", "e": "a dog"}
BLIND = {"_target_": "captioner.encoders.Blind", "size": 8}
DECODER = {"_target_": "captioner.decoders.recurrent.Recurrent", "embed_size": 8, "hidden_size": 8}
TRAIN_FILE, VAL_FILE = "data/captions_train.json", "data/captions_val.json"
CONFIG, TOKENIZER, WEIGHTS = "model/config.json", "model/tokenizer.json", "model/model.safetensors"


def coco(letters: str) -> dict:
    """Caption files of one caption for each of these pictures, whose ids are 0, 1, 2 ..."""
    ids = {letter: number for number, letter in enumerate(letters)}
    return {
        "images": [{"id": i, "file_name": f"{letter}.png"} for letter, i in ids.items()],
        "annotations": [{"image_id": i, "caption": WORDS[letter]} for letter, i in ids.items()],
    }


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """Two pictures, a data set and a model, all of them in order."""
    folder = tmp_path_factory.mktemp("good")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("data/images").mkdir(parents=True)
        for name in ("good.png", "also.png"):
            PHOTO.save(name)
        for i, letter in enumerate(WORDS):
            PHOTO.resize((8, 8 + i)).save(f"data/images/{letter}.png")
        write(TRAIN_FILE, coco("abc"))
        write(VAL_FILE, coco("de"))
        tokenizer = tokenizers.train_tokenizer(WORDS.values())
        model = caption_model.build_captioner({"encoder": BLIND, "decoder": DECODER}, tokenizer)
        model.save("model")
        Path(WEIGHTS).chmod(0o644)
    folder.chmod(0o755)
    return folder


# How to spoil them


def write(name: str, content: bytes | str | dict | list) -> None:
    if isinstance(content, dict | list):
        content = json.dumps(content, ensure_ascii=False)
    Path(name).write_bytes(content.encode() if isinstance(content, str) else content)


def edit(name: str, change: Callable[[dict], object]) -> None:
    content = json.loads(Path(name).read_text())
    change(content)
    write(name, content)


edit_captions, edit_config = partial(edit, TRAIN_FILE), partial(edit, CONFIG)
edit_tokenizer = partial(edit, TOKENIZER)


def set_caption(number: int, text: object) -> None:
    """Give training picture `number` this caption."""
    edit_captions(lambda c: c["annotations"][number].update(caption=text))


def cut(name: str) -> None:
    """Leave the first half of a file."""
    os.truncate(name, Path(name).stat().st_size // 2)


def edit_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(WEIGHTS)
    change(tensors)
    with safe_open(WEIGHTS, "pt") as file:
        metadata = file.metadata()
    save_file(tensors, WEIGHTS, metadata)


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


def spoil_two() -> None:
    write("data/images/b.png", "<html>")
    write("data/images/e.png", b"")


def predict(*texts: str) -> None:
    """predictions.json for references.json, whose images are 0, 1, 2."""
    write("references.json", coco("abc"))
    write("predictions.json", [{"image_id": i, "caption": text} for i, text in enumerate(texts)])


def predict_separated() -> None:
    """References with characters at which some break lines, and predictions that are right."""
    predict(*(WORDS[letter] for letter in "abc"))
    edit("references.json", lambda c: c["annotations"][0].update(caption="a red\u2028dog\x85runs"))


def cache_two() -> None:
    """A cache that holds the features of two pictures, of 80,000 bytes each."""
    paths = [Path("data/images", f"{letter}.png") for letter in "ab"]
    FeatureCache("cache", Blind(40_000)).compute(paths, workers=0)


# What must hold


def captions(*names: str) -> Callable[[str], object]:
    """These pictures have a caption each, on a line each, and nothing else has."""

    def holds(out: str) -> None:
        lines = [line.rpartition(": ") for line in out.splitlines()]
        assert [name for name, _, _ in lines] == list(names)
        assert all(text for _, _, text in lines)

    return holds


def trained_on(*words: str) -> Callable[[str], object]:
    """The model learned these words, and captions."""

    def holds(out: str) -> None:
        assert set(words) <= set(json.loads(Path("run/tokenizer.json").read_text())["units"])
        assert captioner.load("run/model").caption(["good.png"])[0].caption

    return holds


def scores_are_1(out: str) -> None:
    """Every image is scored against its own references."""
    scores = json.loads(Path("run/scores.json").read_text())["per_image"]
    assert [scores[key]["Bleu_1"] for key in "012"] == pytest.approx([1, 1, 1])


def cached(count: int) -> Callable[[str], object]:
    """The cache holds so many rows."""

    def holds(out: str) -> None:
        (rows,) = Path("cache").glob("*/rows.txt")
        assert len(rows.read_text().splitlines()) == count

    return holds


def rerun(name: str) -> None:
    """With room on the disk the command of the row ends well."""
    code, _, message = spawn(words(TABLE[name].command), "process")
    assert code == 0, message


def cache_goes_on(out: str) -> None:
    cached(2)(out)
    rerun("disk full: cache")
    cached(5)(out)


# The cases, by the names of the rows; a row without one is wrong by its command alone


def bad(data: bytes, name: str = "bad.png") -> Case:
    """A picture, bad or not, between two good ones."""
    return Case(partial(write, name, data), captions("good.png", "also.png"))


def nothing() -> None:
    """The command itself is wrong."""


BIAS = "decoder.W_hy.bias"
EXECUTE = {"_target_": "os.system", "command": "touch executed"}
PNG = png(10, 10, 8, 2, ROWS)
BETWEEN = captions("good.png", "also.png")
ODD = captions("rotated.jpg", "cmyk.jpg", "deep.png", "clear.png", "moving.gif")
CACHE = ("cache/*.f16", "cache/*.json", "cache/*/lock", "cache/*/rows.txt", "cache/hashes.jsonl")
RUN = ("run/*.json", "run/*.yaml", "run/*.csv", "run/model/*", "run/checkpoints/*")
RUN += ("run/tensorboard/*", *CACHE)

CASES: dict[str, Callable[[], object] | Case] = {
    "picture: HTML in disguise": bad(b"<html>404</html>"),
    "picture: zero bytes": bad(b""),
    "picture: a format not on the list": bad(encode(PHOTO, "ICO")),
    "picture: cut in half": bad(encode(PHOTO, "JPEG")[:600], "bad.jpg"),
    "picture: wrong CRC": bad(PNG[:-20] + bytes(4) + PNG[-16:]),
    "picture: short IDAT": bad(png(10, 10, 8, 2, ROWS[:155])),
    "picture: 100 megapixels of 1 bit": bad(png(10_000, 10_000, 1, 0, bytes(1251 * 10_000))),
    "picture: 900 megapixels": bad(png(30_000, 30_000, 8, 2, b"")),
    "picture: a thread 60000 pixels wide": bad(png(60_000, 2, 8, 2, b"")),
    "picture: pixels that are no numbers": bad(
        encode(Image.fromarray(np.full((2, 2), np.nan, np.float32)), "TIFF"), "bad.tif"
    ),
    "picture: half a gigabyte": Case(
        lambda: (Path("bad.tif").touch(), os.truncate("bad.tif", 2**29 + 1)), BETWEEN
    ),
    "picture: not there": Case(nothing, BETWEEN),
    "picture: an empty name": Case(nothing, BETWEEN),
    "picture: a FIFO": Case(lambda: os.mkfifo("bad.png"), BETWEEN),
    "picture: a directory in a list": Case(
        lambda: (Path("bad.png").mkdir(), write("list.txt", "good.png\nbad.png\nalso.png\n")),
        BETWEEN,
    ),
    "picture: a list that is not UTF-8": Case(
        partial(write, "list.txt", b"good.png\nb\xe9d.png\nalso.png\n"), BETWEEN
    ),
    "picture: no permission": Case(
        lambda: (write("bad.png", b""), os.chmod("bad.png", 0)), BETWEEN, how="nobody"
    ),
    "picture: a folder without permission": Case(
        close_album, captions("good.png", "album/good.png"), how="nobody"
    ),
    "picture: none in the folder": Case(lambda: Path("album").mkdir()),
    "picture: a newline in the path": bad(b"", "new\nline.png"),
    "picture: a good one with a newline in its path": Case(
        partial(write, "new\nline.png", encode(PHOTO)),
        captions("good.png", "'new\\nline.png'", "also.png"),
    ),
    "picture: rotated by EXIF, CMYK, 16 bits, transparent, animated": Case(write_oddities, ODD),
    "annotations: cut JSON": partial(cut, TRAIN_FILE),
    "annotations: JSON nested without end": partial(write, TRAIN_FILE, "[" * 100_000),
    "annotations: an id twice": partial(edit_captions, lambda c: c["images"][2].update(id=1)),
    "annotations: a caption without its image": partial(
        edit_captions, lambda c: c["annotations"].append({"image_id": 99, "caption": "a dog"})
    ),
    "annotations: an image without a caption": partial(
        edit_captions, lambda c: c["annotations"].pop()
    ),
    "annotations: an empty caption": partial(set_caption, 1, " "),
    "annotations: a caption that is a number": partial(set_caption, 1, 3),
    "annotations: an id that is neither number nor text": partial(
        edit_captions, lambda c: c["images"][0].update(id=True)
    ),
    "annotations: a list where an object belongs": partial(write, TRAIN_FILE, []),
    "annotations: Latin-1": lambda: write(
        TRAIN_FILE, Path(TRAIN_FILE).read_bytes().replace(b"red", b"r\xe9d")
    ),
    "annotations: UTF-16": lambda: write(TRAIN_FILE, Path(TRAIN_FILE).read_text().encode("utf-16")),
    "annotations: half a character": lambda: write(
        TRAIN_FILE, Path(TRAIN_FILE).read_text().replace("red dog", "\\ud83d dog")
    ),
    "annotations: a missing picture": lambda: Path("data/images/b.png").unlink(),
    "annotations: a picture outside the folder": partial(
        edit_captions, lambda c: c["images"][0].update(file_name="../good.png")
    ),
    "annotations: a picture in train and val": partial(write, VAL_FILE, coco("ad")),
    "annotations: a CSV with bare commas": write_csv,
    "annotations: a byte order mark": Case(
        lambda: write(TRAIN_FILE, b"\xef\xbb\xbf" + Path(TRAIN_FILE).read_bytes()),
        trained_on("a", "red", "dog", "runs", "sits", "cat"),
        RUN,
    ),
    "annotations: U+2028 in a caption": Case(
        partial(set_caption, 0, "a dog\u2028jumps"), trained_on("a", "dog", "jumps"), RUN
    ),
    "annotations: a caption of 10,000 words": Case(
        partial(set_caption, 0, "a dog " * 4999 + "at last"), trained_on("at", "last"), RUN
    ),
    "annotations: U+2028 in a reference": Case(
        predict_separated, scores_are_1, ("run/predictions.json", "run/scores.json")
    ),
    "predictions: cut JSON": lambda: (predict("a dog"), cut("predictions.json")),
    "predictions: an entry without a caption": lambda: (
        predict("a dog"),
        edit("predictions.json", lambda p: p[0].pop("caption")),
    ),
    "predictions: an image twice": lambda: (
        predict("a", "b", "c"),
        edit("predictions.json", lambda p: p.append(p[0])),
    ),
    "predictions: an image left out": partial(predict, "a dog", "a cat"),
    "predictions: a foreign image": partial(predict, "a", "b", "c", "d"),
    "training: a bad picture, frozen encoder": Case(
        partial(write, "data/images/b.png", "<html>"), cached(4), CACHE
    ),
    "training: a bad picture, in evaluation": Case(
        partial(write, "data/images/d.png", "<html>"), cached(1), CACHE
    ),
    "training: bad pictures, trainable encoder": Case(spoil_two, new=("cache/hashes.jsonl",)),
    "training: bad pictures, told to go on": Case(
        spoil_two, trained_on("a", "red", "dog"), (*RUN, "run/skipped.txt")
    ),
    "vocabulary: a special token among the words": partial(set_caption, 0, "a <unk> dog"),
    "vocabulary: smaller than the beam": Case(
        lambda: [set_caption(number, "dog") for number in range(3)], trained_on("dog"), RUN
    ),
    "vocabulary: too small for the weights": partial(edit_tokenizer, lambda t: t["units"].pop()),
    "config: a typo": Case(nothing, how="process"),
    "config: a typo, in evaluation": Case(nothing, how="hydra"),
    "config: a wrong type": Case(nothing, how="hydra"),
    "config: a choice that there is not": Case(nothing, how="hydra"),
    "config: encoder weights that would execute something": lambda: torch.save(
        {"a": Mischief()}, "weights.pth"
    ),
    "config: a run directory in use": lambda: (
        Path("run").mkdir(),
        write("run/config.yaml", "seed: 0"),
    ),
    "model directory: not there": lambda: shutil.rmtree("model"),
    "model directory: a missing file": lambda: Path(TOKENIZER).unlink(),
    "model directory: cut weights": partial(cut, WEIGHTS),
    "model directory: a pickle in disguise": lambda: torch.save(Mischief(), WEIGHTS),
    "model directory: wrong shapes": partial(
        edit_weights, lambda t: t.update({BIAS: torch.zeros(2)})
    ),
    "model directory: a missing weight": partial(edit_weights, lambda t: t.pop(BIAS)),
    "model directory: weights that are no numbers": partial(
        edit_weights, lambda t: t[BIAS].fill_(np.nan)
    ),
    "model directory: a foreign tokenizer": partial(edit_tokenizer, lambda t: t["units"].reverse()),
    "model directory: a tokenizer of another kind": partial(
        edit_tokenizer, lambda t: t.update(kind="bpe")
    ),
    "model directory: a tokenizer that may not be read": Case(
        lambda: os.chmod(TOKENIZER, 0), how="nobody"
    ),
    "model directory: cut config": partial(cut, CONFIG),
    "model directory: a config nested without end": partial(write, CONFIG, "[" * 100_000),
    "model directory: a missing key": partial(edit_config, lambda c: c.pop("decoder")),
    "model directory: a wrong type": partial(
        edit_config, lambda c: c["decoder"].update(hidden_size="8")
    ),
    "model directory: an unknown option": partial(
        edit_config, lambda c: c["decoder"].update(layer=2)
    ),
    "model directory: of another version": partial(edit_config, lambda c: c.update(format=9)),
    "model directory: a class outside the allowlist": partial(
        edit_config, lambda c: c["decoder"].update(EXECUTE)
    ),
    "disk full: captions": Case(nothing, how="full"),
    "disk full: cache": Case(
        cache_two, cache_goes_on, how=200_000
    ),  # two rows of 80,000 bytes are there
    "disk full: checkpoint": Case(
        nothing,
        new=("run/*.yaml", "run/tokenizer.json", "run/tensorboard/*", *CACHE),
        how=1_000_000,
    ),
    "disk full: predictions": Case(
        lambda: predict(*["a dog " * 20_000] * 3),
        lambda out: rerun("disk full: predictions"),
        how=200_000,
    ),
}


# How the commands are given


TRAIN = {"data": "folder", "data.workers": "0", "data.cache": "cache", "data.batch_size": "2"}
TRAIN |= {"encoder": "blind", "encoder.size": "8", "decoder.hidden_size": "8"}
TRAIN |= {"decoder.embed_size": "8", "tokenizer.min_count": "1", "search": "greedy"}
TRAIN |= {"debug": "fast", "run_dir": "run"}
EVALUATE = {key: TRAIN[key] for key in ("data", "data.workers", "data.cache", "run_dir")}

NOBODY = """
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
"""
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


def here(command: list[str], how: str | int, patch: pytest.MonkeyPatch) -> int:
    """Run a command in this process -> exit code."""
    name, *given = command
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice; not what we say ourselves
        warnings.filterwarnings("always", ".*captions are cut")
        patch.setattr(warnings, "showwarning", lambda text, kind, *place: print(
            f"{kind.__name__}: {text}", file=sys.stderr
        ))  # fmt: skip
        try:
            if name == "caption":
                if "<" in given:
                    patch.setattr(sys, "stdin", open(given.pop(), encoding="utf-8"))
                    given.remove("<")
                return caption_command.main(given)
            elif how == "hydra":
                patch.setattr(sys, "argv", command)
                runpy.run_path(str(ROOT / name), run_name="__main__")
            else:
                run({"train.py": train_command, "eval.py": eval_command}[name], *given)
        except SystemExit as stop:
            return stop.code
        finally:
            if "-" in given:
                sys.stdin.close()
    return 0


def spawn(command: list[str], how: str | int) -> tuple[int, str, str]:
    """The same in a process of its own -> exit code, stdout, stderr."""
    name, *given = command
    program = ["-m", "captioner"] if name == "caption" else [str(ROOT / name)]
    if how == "nobody":
        program = ["-c", NOBODY]
    elif isinstance(how, int):
        program = ["-c", LIMITED, str(how), *program]
    if how == "full" and not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    with open("/dev/full" if how == "full" else os.devnull, "w") as full:
        done = subprocess.run(
            [python(), *program, *given],
            stdin=subprocess.DEVNULL,
            stdout=full if how == "full" else subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            timeout=120,
        )
    if how == "nobody" and done.returncode == 77:
        pytest.skip("this process cannot become an unprivileged one")
    err = done.stderr
    if isinstance(how, int):  # what Lightning says before is not ours
        err = err[max(0, err.rfind("error: ")) :]
    return done.returncode, done.stdout or "", err


def files() -> dict[str, tuple[int, int]]:
    """Each file in this folder, with its size and time."""
    paths = [Path(folder, name) for folder, _, names in os.walk(".") for name in names]
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in paths}


# The law


@pytest.mark.parametrize("name", TABLE)
def test_it_ends_as_the_page_says(name, good, tmp_path, monkeypatch, capsys):
    row, case = TABLE[name], CASES.get(name, nothing)
    case = case if isinstance(case, Case) else Case(case)
    tmp_path.chmod(0o755)
    shutil.copytree(good, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    case.make()
    before = files()
    if case.how in ("here", "hydra"):
        code = here(words(row.command), case.how, monkeypatch)
        out, message = capsys.readouterr()
    else:
        code, out, message = spawn(words(row.command), case.how)
    after = files()
    message = re.sub(r"\r[^\n]*\n?", "", message).strip()  # progress bars
    assert "Traceback" not in message
    assert code == row.code, message
    pattern = ".*".join(map(re.escape, row.message.split("...")))
    assert re.fullmatch(pattern, message, re.DOTALL), message
    new = after.keys() - before.keys()
    assert [n for n in before if after.get(n) != before[n] and not n.startswith("cache/")] == []
    assert [n for n in new if not any(fnmatch(n, pattern) for pattern in case.new)] == []
    assert [pattern for pattern in case.new if not any(fnmatch(n, pattern) for n in new)] == []
    if case.holds:
        case.holds(out)


def test_each_case_has_a_row_and_the_table_is_long():
    assert CASES.keys() <= TABLE.keys() and len(TABLE) >= 95
