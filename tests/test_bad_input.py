"""Whatever is wrong with what a user gives: exit code, message, leftovers, and what is kept.

CASES is one table. Each case makes its bad thing in a folder of its own, gives it to a command as
a user would, and every one is held to the same law: the exit code and all of the message are as the
table says, no file that was there has changed, and no file is new but those that it names.
docs/reliability.md is the table as it was observed:

    CAPTIONER_WRITE=1 pytest tests/test_bad_input.py    # writes it anew
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
from contextlib import redirect_stderr, redirect_stdout
from fnmatch import fnmatch
from io import StringIO
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
WRITE = f"CAPTIONER_WRITE=1 pytest {Path(__file__).name} writes the rows of {PAGE}"


class Seen(NamedTuple):
    """What a command did. changed, new: files that were there before, and that were not."""

    code: int
    out: str
    message: str
    folder: Path
    changed: list[str]
    new: list[str]


class Case(NamedTuple):
    """make: makes the bad thing, in the current folder, where good.png, also.png, data/ and model/
    are. says: the whole message; `...` is what depends on versions. new: patterns of the files that
    may be new, each of which is. kept: in the page's words, and `holds` checks it.
    how: "here"; "hydra", here and with Hydra's own errors; or in a process of its own: "process",
    "nobody" (without permissions), "full" (onto a full disk), or the bytes that a file can have.
    """

    name: str
    make: Callable[[], object]
    command: str
    code: int
    says: str
    kept: str = "all files as they were; no new one"
    holds: Callable[[Seen], object] = lambda seen: None
    new: tuple[str, ...] = ()
    how: str | int = "here"


# The good things


WORDS = {"a": "a red dog runs", "b": "a dog sits", "c": "a red cat", "d": "a cat", "e": "a dog"}
BLIND = {"_target_": "captioner.encoders.Blind", "size": 8}
DECODER = {"_target_": "captioner.decoders.recurrent.Recurrent", "embed_size": 8, "hidden_size": 8}


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
        for name in ("good.png", "also.png"):
            PHOTO.save(name)
        Path("data/images").mkdir(parents=True)
        for i, letter in enumerate(WORDS):
            PHOTO.resize((8, 8 + i)).save(f"data/images/{letter}.png")
        write("data/captions_train.json", coco("abc"))
        write("data/captions_val.json", coco("de"))
        tokenizer = tokenizers.train_tokenizer(WORDS.values())
        caption_model.build_captioner({"encoder": BLIND, "decoder": DECODER}, tokenizer).save(
            "model"
        )
        Path("model/model.safetensors").chmod(0o644)
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


def cut(name: str) -> None:
    """The first half of a file."""
    write(name, Path(name).read_bytes()[: Path(name).stat().st_size // 2])


def edit_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file("model/model.safetensors")
    change(tensors)
    with safe_open("model/model.safetensors", "pt") as file:
        metadata = file.metadata()
    save_file(tensors, "model/model.safetensors", metadata)


EXECUTE = {"_target_": "os.system", "command": "touch executed"}


class Mischief:
    """Unpickled, it would make a file, and a new file is against the law of every case."""

    def __reduce__(self):
        return os.system, ("touch executed",)


def album() -> None:
    """A folder with a picture, and another one in a folder that nobody may enter."""
    Path("album/closed").mkdir(parents=True)
    shutil.copy("good.png", "album/good.png")
    shutil.copy("good.png", "album/closed/hidden.png")
    Path("album/closed").chmod(0)


ODD = ("rotated.jpg", "cmyk.jpg", "deep.png", "clear.png", "moving.gif")


def oddities() -> None:
    """Unusual, but all right."""
    exif = Image.Exif()
    exif[0x0112] = 6
    pictures = (
        encode(PHOTO, "JPEG", exif=exif),
        encode(PHOTO.convert("CMYK"), "JPEG"),
        encode(Image.fromarray(np.full((4, 4), 40_000, np.uint16))),
        encode(Image.new("RGBA", (4, 4), (255, 0, 0, 0))),
        encode(PHOTO, "GIF", save_all=True, append_images=[PHOTO.rotate(90)]),
    )
    for name, data in zip(ODD, pictures, strict=True):
        write(name, data)


def caption_of(number: int, text: object) -> Callable[[], object]:
    """Makes this the caption of training picture `number`."""
    return lambda: edit(
        "data/captions_train.json", lambda c: c["annotations"][number].update(caption=text)
    )


def train_file(change: Callable[[dict], object]) -> Callable[[], object]:
    return lambda: edit("data/captions_train.json", change)


def config_file(change: Callable[[dict], object]) -> Callable[[], object]:
    return lambda: edit("model/config.json", change)


def table() -> None:
    """The data as a CSV file in which a caption has a comma."""
    for name in ("captions_train.json", "captions_val.json"):
        Path("data", name).unlink()
    write("data/all.csv", "image,caption,split\na.png,a dog, running,train\n")


def predict(*texts: str) -> None:
    """predictions.json for references.json, whose images are 0, 1, 2."""
    write("references.json", coco("abc"))
    write("predictions.json", [{"image_id": i, "caption": text} for i, text in enumerate(texts)])


def separated() -> None:
    """References with characters at which some break lines, and predictions that are right."""
    predict(*(WORDS[letter] for letter in "abc"))
    edit("references.json", lambda c: c["annotations"][0].update(caption="a red\u2028dog\x85runs"))


def cache_rows() -> list[str]:
    (rows,) = Path("cache").glob("*/rows.txt")
    return rows.read_text().splitlines()


def some_cached() -> None:
    """A cache that holds the features of two pictures, of 80,000 bytes each."""
    paths = [Path("data/images", f"{letter}.png") for letter in "ab"]
    FeatureCache("cache", Blind(40_000)).compute(paths, workers=0)


# What must hold


def captions(*names: str) -> Callable[[Seen], object]:
    """These pictures have a caption each, on a line each, and nothing else has."""

    def holds(seen: Seen) -> None:
        said = [line.rpartition(": ") for line in seen.out.splitlines()]
        assert [name for name, _, _ in said] == list(names)
        assert all(text for _, _, text in said)

    return holds


def trained_on(*words: str) -> Callable[[Seen], object]:
    """The model learned these words, and captions."""

    def holds(seen: Seen) -> None:
        assert set(words) <= set(json.loads(Path("run/tokenizer.json").read_text())["units"])
        assert captioner.load("run/model").caption(["good.png"])[0].caption

    return holds


def scores_are_1(seen: Seen) -> None:
    """Every image is scored against its own references."""
    scores = json.loads(Path("run/scores.json").read_text())["per_image"]
    assert [scores[key]["Bleu_1"] for key in "012"] == pytest.approx([1, 1, 1])


def cached(count: int) -> Callable[[Seen], object]:
    def holds(seen: Seen) -> None:
        assert len(cache_rows()) == count

    return holds


def rerun(command: str) -> None:
    """With room on the disk the same command ends well."""
    code, _, message = spawn(words(command), "process")
    assert code == 0, message


def cache_goes_on(seen: Seen) -> None:
    assert len(cache_rows()) == 2
    rerun("train.py data.root=data encoder.size=40000")
    assert len(cache_rows()) == 5


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


def here(command: list[str], how: str | int) -> tuple[int, str, str]:
    """Runs a command in this process -> exit code, stdout, stderr."""
    name, *given = command
    out, err = StringIO(), StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        warnings.catch_warnings(),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        warnings.simplefilter("ignore")  # Lightning's advice; not what we say ourselves
        warnings.filterwarnings("always", ".*captions are cut")
        patch.setattr(warnings, "showwarning", lambda text, kind, *place: print(
            f"{kind.__name__}: {text}", file=sys.stderr
        ))  # fmt: skip
        code = 0
        try:
            if name == "caption":
                if "<" in given:
                    patch.setattr(sys, "stdin", open(given.pop(), encoding="utf-8"))
                    given.remove("<")
                code = caption_command.main(given)
            elif how == "hydra":
                patch.setattr(sys, "argv", command)
                runpy.run_path(str(ROOT / name), run_name="__main__")
            else:
                run({"train.py": train_command, "eval.py": eval_command}[name], *given)
        except SystemExit as stop:
            code = stop.code
        finally:
            if "-" in given:
                sys.stdin.close()
    return code, out.getvalue(), err.getvalue()


def spawn(command: list[str], how: str | int) -> tuple[int, str, str]:
    """The same in a process of its own."""
    name, *given = command
    program = ["-m", "captioner"] if name == "caption" else [str(ROOT / name)]
    if how == "nobody":
        program = ["-c", NOBODY]
    elif isinstance(how, int):
        program = ["-c", LIMITED, str(how), *program]
    if how == "full" and not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with open("/dev/full" if how == "full" else os.devnull, "w") as full:
        done = subprocess.run(
            [python(), *program, *given],
            stdin=subprocess.DEVNULL,
            stdout=full if how == "full" else subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
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
    found = {}
    for folder, _, names in os.walk("."):
        for path in (Path(folder, name) for name in names):
            found[str(path)] = (path.lstat().st_size, path.lstat().st_mtime_ns)
    return found


@pytest.fixture(scope="module")
def observe(good, tmp_path_factory) -> Callable[[Case], Seen]:
    """Runs a case, once."""
    observed: dict[str, Seen] = {}

    def observe(case: Case) -> Seen:
        if case.name not in observed:
            folder = tmp_path_factory.mktemp("case")
            folder.chmod(0o755)
            shutil.copytree(good, folder, dirs_exist_ok=True)
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)
                case.make()
                before = files()
                how, command = case.how, words(case.command)
                inside = how in ("here", "hydra")
                code, out, err = here(command, how) if inside else spawn(command, how)
                after = files()
            observed[case.name] = Seen(
                code,
                out,
                re.sub(r"\r[^\n]*\n?", "", err).strip(),  # progress bars
                folder,
                [name for name in before if after.get(name) != before[name]],
                sorted(after.keys() - before.keys()),
            )
        return observed[case.name]

    return observe


# The table


def picture(name: str, make: Callable[[], object] | bytes, reason="", file="bad.png", **more):
    """A bad picture between two good ones."""
    if isinstance(data := make, bytes):
        make = lambda: write(file, data)  # noqa: E731
    command = f"caption good.png {shlex.quote(file)} also.png"
    kept, holds = "the captions of the good ones", captions("good.png", "also.png")
    case = Case(f"picture: {name}", make, command, 1, f"{file}: {reason}", kept, holds)
    return case._replace(**more)


def annotation(name: str, make: Callable[[], object], reason: str):
    """A bad caption file."""
    says = f"error: {reason}"
    return Case(f"annotations: {name}", make, "train.py data.root=data", 2, says)


def odd_annotation(name: str, make: Callable[[], object], kept: str, learned: str, says=""):
    """An unusual caption file that is all right. learned: some of its words."""
    command, holds = "train.py data.root=data", trained_on(*learned.split())
    return Case(f"annotations: {name}", make, command, 0, says, kept, holds, RUN)


def prediction(name: str, make: Callable[[], object], reason: str):
    """A bad predictions file."""
    return Case(f"predictions: {name}", make, EVAL, 2, f"error: {reason}")


def setting(name: str, command: str, says: str, make=lambda: None, **more):
    """A bad option on the command line."""
    return Case(f"config: {name}", make, command, 2, says)._replace(**more)


def directory(name: str, make: Callable[[], object], reason: str, **more):
    """A bad model directory."""
    says = f"caption: {reason}"
    return Case(f"model directory: {name}", make, "caption good.png", 2, says)._replace(**more)


LIST = "save it as JPEG, PNG, GIF, BMP, WEBP, TIFF or PPM"
BROKEN = "not a whole picture (...): save or copy it again"
HTML = f"begins with b'<html>': {LIST}"
FILE = "data/captions_train.json"
EVAL = "eval.py predictions=predictions.json references=references.json"
RESNET = "encoder=timm encoder.name=resnet10t encoder.pretrained=false encoder.image_size=32"
BIAS = "decoder.W_hy.bias"
ONE_RUN = "take both from one run"
SKIP = "mend or remove them, or go on without them by data.skip_bad=true"
FULL = "File too large: free space, ..."
CACHE = ("cache/*.f16", "cache/*.json", "cache/*/lock", "cache/*/rows.txt", "cache/hashes.jsonl")
RUN = ("run/*.json", "run/*.yaml", "run/*.csv", "run/model/*", "run/checkpoints/*")
RUN += ("run/tensorboard/*", *CACHE)
CACHED = {"new": CACHE, "kept": "the features, in the cache; no run"}

# fmt: off
PICTURES = [
    picture("HTML in disguise", b"<html>404</html>", f"begins with b'<html>404</html>': {LIST}"),
    picture("zero bytes", b"", "empty: copy it again"),
    picture("a format not on the list", encode(PHOTO, "ICO"), f"begins with b'...': {LIST}"),
    picture("cut in half", encode(PHOTO, "JPEG")[:600], BROKEN, file="bad.jpg"),
    picture(
        "wrong CRC", png(10, 10, 8, 2, ROWS)[:-20] + bytes(4) + png(10, 10, 8, 2, ROWS)[-16:],
        BROKEN),
    picture("short IDAT", png(10, 10, 8, 2, ROWS[:155]),
        "not a whole picture (pixel data ends 155 bytes early): save or copy it again"),
    picture("100 megapixels of 1 bit", png(10_000, 10_000, 1, 0, bytes(1251 * 10_000)),
        "10000 x 10000 pixels; 67,108,864 at most: make it smaller"),
    picture("900 megapixels", png(30_000, 30_000, 8, 2, b""),
        "too many pixels; 67,108,864 at most: make it smaller"),
    picture("a thread 60000 pixels wide", png(60_000, 2, 8, 2, b""),
        "60000 x 2 pixels: one side is over 1000 times the other: crop it"),
    picture("pixels that are no numbers",
        encode(Image.fromarray(np.full((2, 2), np.nan, np.float32)), "TIFF"),
        "not a whole picture (pixels that are not finite numbers): save or copy it again",
        file="bad.tif"),
    picture("half a gigabyte",
        lambda: (Path("bad.tif").touch(), os.truncate("bad.tif", 2**29 + 1)),
        "536,870,913 bytes; 536,870,912 at most: make it smaller", file="bad.tif"),
    picture("not there", lambda: None, "No such file or directory"),
    picture("an empty name", lambda: None, file="", says="'': No such file or directory"),
    picture("a FIFO", lambda: os.mkfifo("bad.png"), "not a regular file: copy it into one"),
    picture("a directory in a list",
        lambda: (Path("bad.png").mkdir(), write("list.txt", "good.png\nbad.png\nalso.png\n")),
        "a folder, not a regular file: give the pictures in it", command="caption - < list.txt"),
    picture("a list that is not UTF-8",
        lambda: write("list.txt", b"good.png\nb\xe9d.png\nalso.png\n"),
        says="'b\\udce9d.png': No such file or directory", command="caption - < list.txt"),
    picture("no permission", lambda: (write("bad.png", b""), os.chmod("bad.png", 0)),
        "Permission denied", how="nobody"),
    picture("a folder without permission", album, command="caption good.png album",
        says="album/closed: Permission denied", holds=captions("good.png", "album/good.png"),
        how="nobody"),
    Case("picture: none in the folder", lambda: Path("album").mkdir(), "caption good.png album", 2,
        "caption: album: no picture in this folder (...)"),
    picture("a newline in the path", b"", file="new\nline.png",
        says="'new\\nline.png': empty: copy it again"),
    picture("a good one with a newline in its path", encode(PHOTO), file="new\nline.png",
        code=0, says="", kept="a line for each",
        holds=captions("good.png", "'new\\nline.png'", "also.png")),
    picture("rotated by EXIF, CMYK, 16 bits, transparent, animated", oddities,
        command=f"caption {' '.join(ODD)}", code=0, says="", kept="the captions of all",
        holds=captions(*ODD)),
]
ANNOTATIONS = [
    annotation("cut JSON", lambda: cut(FILE),
        f"{FILE}: not readable as JSON (...): mend it, or copy it again"),
    annotation("JSON nested without end", lambda: write(FILE, "[" * 100_000),
        f"{FILE}: not readable as JSON (...): mend it, or copy it again"),
    annotation("an id twice", train_file(lambda c: c["images"][2].update(id=1)),
        f"{FILE}: images[2]: id 1 is that of {FILE}: images[1] too; give it its own"),
    annotation("a caption without its image",
        train_file(lambda c: c["annotations"].append({"image_id": 99, "caption": "a dog"})),
        f"{FILE}: annotations[3]: image_id 99 is not in images; add it there or take this out"),
    annotation("an image without a caption", train_file(lambda c: c["annotations"].pop()),
        f"{FILE}: images[2]: 1 of 3 images have no caption: 'c.png'; caption them or take them "
        "out"),
    annotation("an empty caption", caption_of(1, " "),
        f"{FILE}: annotations[1]: empty caption; write one or take it out"),
    annotation("a caption that is a number", caption_of(1, 3),
        f"{FILE}: annotations[1]: caption is '3'; expected str"),
    annotation("an id that is neither number nor text",
        train_file(lambda c: c["images"][0].update(id=True)),
        f"{FILE}: images[0]: id is 'True'; expected int or str"),
    annotation("a list where an object belongs", lambda: write(FILE, []),
        f"{FILE}: expected an object with 'images', got '[]'"),
    annotation("Latin-1", lambda: write(FILE, Path(FILE).read_bytes().replace(b"red", b"r\xe9d")),
        f"{FILE}: byte 159 (line 1) is b'\\xe9', not UTF-8; save the file as UTF-8"),
    annotation("UTF-16", lambda: write(FILE, Path(FILE).read_text().encode("utf-16")),
        f"{FILE}: byte 0 (line 1) is b'\\xff', not UTF-8; save the file as UTF-8"),
    annotation("half a character",
        lambda: write(FILE, Path(FILE).read_text().replace("red dog", "\\ud83d dog")),
        f"{FILE}: annotations[0]: half a character in 'a \\ud83d dog runs'; write it as UTF-8"),
    annotation("a missing picture", lambda: Path("data/images/b.png").unlink(),
        f"{FILE}: images[1]: 1 of 3 images are missing: 'b.png'; looked in data, data/images; "
        "name the folder by data.images="),
    annotation("a picture outside the folder",
        train_file(lambda c: c["images"][0].update(file_name="../good.png")),
        f"{FILE}: images[0]: '../good.png' is not a path inside the image folder; put the "
        "picture there"),
    annotation("a picture in train and val", lambda: write("data/captions_val.json", coco("ad")),
        "1 pictures are in train and in val, such as data/images/a.png: the validation would mean "
        "nothing; take them out of one"),
    annotation("a CSV with bare commas", table,
        "data/all.csv: line 2: 4 fields, but 3 columns; put captions with commas in double quotes"),
    odd_annotation("a byte order mark",
        lambda: write(FILE, b"\xef\xbb\xbf" + Path(FILE).read_bytes()),
        "the run, with every caption", "a red dog runs sits cat"),
    odd_annotation("U+2028 in a caption", caption_of(0, "a dog\u2028jumps"),
        "the run, with the whole caption", "a dog jumps"),
    odd_annotation("a caption of 10,000 words", caption_of(0, "a dog " * 4999 + "at last"),
        "the run, with the caption cut, as said", "at last",
        says="UserWarning: 1 of 3 captions are cut to tokenizer.max_length=30"),
    Case("annotations: U+2028 in a reference", separated, EVAL, 0, "",
        "each image's score, from its own references", scores_are_1,
        ("run/predictions.json", "run/scores.json")),
]
PREDICTIONS = [
    prediction("cut JSON", lambda: (predict("a dog"), cut("predictions.json")),
        "predictions.json: not readable as JSON (...): mend it, or copy it again"),
    prediction("an entry without a caption",
        lambda: (predict("a dog"), edit("predictions.json", lambda p: p[0].pop("caption"))),
        "predictions.json: entry 0 has no caption: {'image_id': 0}; add it"),
    prediction("an image twice",
        lambda: (predict("a", "b", "c"), edit("predictions.json", lambda p: p.append(p[0]))),
        "predictions.json: entry 3: image 0 has two predictions: take one out"),
    prediction("an image left out", lambda: predict("a dog", "a cat"),
        "1 image (2) with references but without a caption: caption every image, or leave the "
        "references of the others out"),
    prediction("a foreign image", lambda: predict("a", "b", "c", "d"),
        "1 image (3) captioned but without references: score against the references of the same "
        "split, with ids of the same type (1 is not '1')"),
]
TRAINING = [
    Case("training: a bad picture, frozen encoder", lambda: write("data/images/b.png", "<html>"),
        "train.py data.root=data", 2,
        f"error: 1 of 5 pictures cannot be read:\n  data/images/b.png: {HTML}\n{SKIP}",
        "the features of the good ones, in the cache; no run", cached(4), CACHE),
    Case("training: a bad picture, in evaluation", lambda: write("data/images/d.png", "<html>"),
        "eval.py model=model data.root=data", 2,
        f"error: 1 of 2 pictures cannot be read:\n  data/images/d.png: {HTML}\n{SKIP}",
        "the features of the good ones, in the cache; no scores", cached(1), CACHE),
    Case("training: bad pictures, trainable encoder",
        lambda: (write("data/images/b.png", "<html>"), write("data/images/e.png", b"")),
        f"train.py data.root=data {RESNET} encoder.train=all", 2,
        f"error: 2 of 5 pictures cannot be read:\n  data/images/b.png: {HTML}\n"
        f"  data/images/e.png: empty: copy it again\n{SKIP}",
        "that the good ones are whole; no run", new=("cache/hashes.jsonl",)),
    Case("training: bad pictures, told to go on",
        lambda: (write("data/images/b.png", "<html>"), write("data/images/e.png", b"")),
        "train.py data.root=data data.skip_bad=true", 0,
        f"2 bad pictures are left out:\n  data/images/b.png: {HTML}\n"
        "  data/images/e.png: empty: copy it again...", "the run, by the good ones; "
        "skipped.txt with the others", trained_on("a", "red", "dog"), (*RUN, "run/skipped.txt")),
]
VOCABULARIES = [
    Case("vocabulary: empty", lambda: None, "train.py data.root=data tokenizer.min_count=99", 2,
        "error: the vocabulary is empty: lower tokenizer.min_count, or add captions"),
    Case("vocabulary: not a number of times", lambda: None,
        "train.py data.root=data tokenizer.min_count=often", 2,
        "error: tokenizer.min_count=often: give a whole number, 1 or more"),
    Case("vocabulary: a special token among the words", caption_of(0, "a <unk> dog"),
        "train.py data.root=data", 2,
        "error: <unk> is a special token: take it out of the captions"),
    Case("vocabulary: smaller than the beam",
        lambda: [caption_of(number, "dog")() for number in range(3)],
        "train.py data.root=data search=beam", 0, "",
        "the run: it can say one word, and says it", trained_on("dog"), RUN),
    Case("vocabulary: too small for the weights",
        lambda: edit("model/tokenizer.json", lambda t: t["units"].pop()), "caption good.png", 2,
        "caption: model/model.safetensors: was not trained with the tokenizer.json beside it: "
        f"{ONE_RUN}"),
]
SETTINGS = [
    setting("a typo", "train.py data.rot=data",
        "Could not override 'data.rot'.\n...Key 'rot' not in 'DataConfig'\n...",
        code=1, how="process"),
    setting("a typo, in evaluation", "eval.py search.widht=3",
        "Could not override 'search.widht'.\n...Key 'widht' is not in struct\n...",
        code=1, how="hydra"),
    setting("a wrong type", "train.py data.batch_size=many",
        "Error merging override data.batch_size=many\nValue 'many'...Integer\n...",
        code=1, how="hydra"),
    setting("a choice that there is not", "train.py data=flicker8k",
        "In 'train': Could not find 'data/flicker8k'\n...flickr8k\n...", code=1, how="hydra"),
    setting("unset", "train.py data=flickr8k",
        "error: data.root is not set: give data.root=..."),
    setting("no such folder", "train.py data.root=dat", "error: dat: no such folder"),
    setting("no such split", "train.py data.root=data data.val_split=dev2",
        f"error: data: no caption file of split 'dev2', only {FILE}, data/captions_val.json; "
        "other files are read if data.annotations= names them"),
    setting("a wrong type in a model's part", "train.py data.root=data decoder.hidden_size=many",
        "error: captioner.decoders.recurrent.Recurrent: hidden_size='many': give a whole number"),
    setting("out of range", "train.py data.root=data decoder.dropout=1",
        "error: decoder.dropout=1: give 0 <= dropout < 1"),
    setting("out of range, in evaluation", "eval.py model=model data.root=data search.width=0",
        "error: search.width=0: give a whole number, 1 or more"),
    setting("an optimiser that would execute something",
        "train.py data.root=data optimizer._target_=os.system",
        "error: optimizer._target_=os.system: give one of torch.optim's, as torch.optim.Adam"),
    setting("encoder weights that would execute something",
        f"train.py data.root=data {RESNET} encoder.weights=weights.pth",
        "error: encoder.weights=weights.pth: not a readable weight file: it holds more than "
        "tensors (nothing of it was executed): save the model's state_dict()",
        lambda: torch.save({"a": Mischief()}, "weights.pth")),
    setting("a run directory in use", "train.py data.root=data",
        "error: run holds a run already: go on with it by resume=run, or give another run_dir",
        lambda: (Path("run").mkdir(), write("run/config.yaml", "seed: 0"))),
    setting("both model and predictions", "eval.py model=model predictions=predictions.json",
        "error: give either model=DIR, or predictions=FILE and references=COCO.json"),
    setting("a beam of 0", "caption --beam 0 good.png",
        "caption: --beam=0: give a whole number, 1 or more"),
    setting("a beam that is no number", "caption --beam many good.png",
        "usage: ...caption: error: argument --beam: invalid int value: 'many'"),
    setting("the cache is a file", "train.py data.root=data data.cache=good.png",
        "error: good.png...: Not a directory..."),
    setting("run_dir is a file", "train.py data.root=data run_dir=good.png",
        "error: good.png: not a folder: give another run_dir"),
    setting("a learning rate that is none", "train.py data.root=data optimizer.lr=fast",
        "error: optimizer.lr=fast optimizer.weight_decay=...: torch.optim.AdamW refuses this: ..."),
    setting("a value that Lightning refuses", "train.py data.root=data trainer.precision=9",
        "error: trainer: Precision 9 is invalid..."),
]
DIRECTORIES = [
    directory("not there", lambda: shutil.rmtree("model"),
        "model: not a model directory, it has no config.json and no tokenizer.json and no "
        "model.safetensors; give the folder model/ of a run"),
    directory("a missing file", lambda: Path("model/tokenizer.json").unlink(),
        "model: not a model directory, it has no tokenizer.json; give the folder model/ of a run"),
    directory("cut weights", lambda: cut("model/model.safetensors"),
        "model/model.safetensors: not a whole safetensors file (...): copy it again"),
    directory("a pickle in disguise", lambda: torch.save(Mischief(), "model/model.safetensors"),
        "model/model.safetensors: not a whole safetensors file (...): copy it again"),
    directory("wrong shapes", lambda: edit_weights(lambda t: t.update({BIAS: torch.zeros(2)})),
        f"model/model.safetensors: does not fit its config.json: {BIAS} has shape (2,), not (10,): "
        f"{ONE_RUN}"),
    directory("a missing weight", lambda: edit_weights(lambda t: t.pop(BIAS)),
        f"model/model.safetensors: does not fit its config.json: {BIAS} is missing: {ONE_RUN}"),
    directory("weights that are no numbers", lambda: edit_weights(lambda t: t[BIAS].fill_(np.nan)),
        f"model/model.safetensors: {BIAS} holds values that are not finite: its training diverged; "
        "train again with a lower learning rate"),
    directory("a foreign tokenizer",
        lambda: edit("model/tokenizer.json", lambda t: t["units"].reverse()),
        "model/model.safetensors: was not trained with the tokenizer.json beside it: "
        f"{ONE_RUN}"),
    directory("a tokenizer of another kind",
        lambda: edit("model/tokenizer.json", lambda t: t.update(kind="bpe")),
        "model/tokenizer.json: not a tokenizer of captioner (KeyError('bpe')): take it from the "
        "run of the model"),
    directory("a tokenizer that may not be read", lambda: os.chmod("model/tokenizer.json", 0),
        "model/tokenizer.json: Permission denied", how="nobody"),
    directory("cut config", lambda: cut("model/config.json"),
        "model/config.json: not readable as JSON (...): mend it, or copy it again"),
    directory("a config nested without end", lambda: write("model/config.json", "[" * 100_000),
        "model/config.json: not readable as JSON (...): mend it, or copy it again"),
    directory("a missing key", config_file(lambda c: c.pop("decoder")),
        "model/config.json: the key 'decoder' is missing: copy it again"),
    directory("a wrong type", config_file(lambda c: c["decoder"].update(hidden_size="8")),
        "model/config.json: captioner.decoders.recurrent.Recurrent: hidden_size='8': give a whole "
        "number"),
    directory("an unknown option", config_file(lambda c: c["decoder"].update(layer=2)),
        "model/config.json: captioner.decoders.recurrent.Recurrent: no option 'layer'; it has "
        "cell, ..."),
    directory("of another version", config_file(lambda c: c.update(format=9)),
        "model/config.json: format 9, this version reads 1: use the version of captioner that "
        "wrote it"),
    directory("a class outside the allowlist", config_file(lambda c: c["decoder"].update(EXECUTE)),
        "model/config.json: _target_=os.system: not a class of captioner.decoders; only those are "
        "made"),
]
DISK = [
    Case("disk full: captions", lambda: None, "caption good.png also.png", 2,
        "caption: the output: No space left on device: free space, and caption the others again",
        how="full"),
    Case("disk full: cache", some_cached, "train.py data.root=data encoder.size=40000", 2,
        f"error: cache/.../pooled.f16: {FULL}",
        "the rows that were there; run again, it goes on from them", cache_goes_on,
        how=200_000),  # two rows of 80,000 bytes are there
    Case("disk full: checkpoint", lambda: None, "train.py data.root=data decoder.hidden_size=256",
        2, f"error: run/checkpoints...: {FULL}", "the features, in the cache; no checkpoint",
        new=("run/*.yaml", "run/tokenizer.json", "run/tensorboard/*", *CACHE),
        how=1_000_000),
    Case("disk full: predictions", lambda: predict(*["a dog " * 20_000] * 3), EVAL, 2,
        f"error: run/predictions.json...: {FULL}",
        "the predictions that were given; run again, it scores them", lambda seen: rerun(EVAL),
        how=200_000),
]
# fmt: on
GROUPS = (PICTURES, ANNOTATIONS, PREDICTIONS, TRAINING, VOCABULARIES, SETTINGS, DIRECTORIES, DISK)
CASES = [case for group in GROUPS for case in group]


# The law


def fits(message: str, says: str) -> bool:
    return (
        re.fullmatch(".*".join(map(re.escape, says.split("..."))), message, re.DOTALL) is not None
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_ends_as_the_table_says(case, observe, monkeypatch):
    seen = observe(case)
    assert "Traceback" not in seen.message
    assert seen.code == case.code, seen.message
    assert fits(seen.message, case.says), seen.message
    assert [name for name in seen.changed if not name.startswith("cache/")] == []
    assert [name for name in seen.new if not any(fnmatch(name, p) for p in case.new)] == []
    assert [p for p in case.new if not any(fnmatch(name, p) for name in seen.new)] == []
    monkeypatch.chdir(seen.folder)
    case.holds(seen)
    assert os.environ.get("CAPTIONER_WRITE") or shown_rows()[case.name] == row(case, seen), WRITE


def test_the_table_is_long_and_each_case_is_its_own():
    names = [case.name for case in CASES]
    assert len(names) == len(set(names)) >= 40


# The page


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", "<br>")


def code(text: str) -> str:
    """A code span for each line."""
    return "<br>".join(f"`{cell(line)}`" for line in text.split("\n") if line.strip())


def row(case: Case, seen: Seen) -> str:
    message = case.says if fits(seen.message, case.says) else seen.message
    cells = [case.name, code(case.command), str(seen.code), code(message), case.kept]
    return "| " + " | ".join(cells) + " |"


def shown_rows() -> dict[str, str]:
    """The page's rows, wherever they stand; headings and text are written by hand."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    return {line.split(" | ")[0][2:]: line for line in lines if re.match(r"\| [\w ]+: ", line)}


def test_the_page_has_a_row_for_each_case(observe):
    """Each case compares its own with what it saw."""
    if os.environ.get("CAPTIONER_WRITE"):
        rows = {case.name: row(case, observe(case)) for case in CASES}
        lines = PAGE.read_text(encoding="utf-8").splitlines()
        lines = [rows.get(line.split(" | ")[0][2:], line) for line in lines]
        lines += [line for name, line in rows.items() if name not in shown_rows()]
        PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert shown_rows().keys() == {case.name for case in CASES}, WRITE
