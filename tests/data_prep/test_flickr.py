import json
from pathlib import Path
from unittest.mock import Mock

import pytest

from captioner.data import records
from data_prep import flickr
from tests.helpers import captions
from tests.helpers.preparation import jpeg, pictures_read, tarred, zipped

NAMES = {
    "flickr8k": [f"10002682{i:02}_693b08cb0{i}.jpg" for i in range(6)],
    "flickr30k": [f"10000927{i:02}.jpg" for i in range(6)],
}
SPLIT = ["train", "train", "train", "val", "test", "test"]
FIVE = [f"A caption {k} ." for k in range(5)]
NUMBERS = {"train": 3, "val": 1, "test": 2}
LINES = ["train: 3 pictures, 15 captions", "val: 1 pictures, 5 captions"]


def pictures(name: str) -> dict[str, bytes]:
    return {picture: jpeg(i) for i, picture in enumerate(NAMES[name])}


def karpathy(name: str, splits=SPLIT, texts=FIVE) -> dict[str, bytes]:
    images = [(i, *row, texts) for i, row in enumerate(zip(NAMES[name], splits))]
    return {f"dataset_{name}.json": json.dumps(captions.karpathy(*images)).encode()}


def tokens(name: str) -> str:
    """With Flickr8k's stray: captions of a picture that is in no split and does not exist."""
    stray = ["2258277981_16f6a7ba4f.jpg.1"] if name == "flickr8k" else []
    return "".join(f"{p}#{k}\tA caption {k} .\n" for p in NAMES[name] + stray for k in range(5))


def lists(name: str) -> dict[str, bytes]:
    form, val, ending = "{}.txt", "val", ""
    if name == "flickr8k":
        form, val, ending = "Flickr_8k.{}Images.txt", "dev", ".jpg"
    stems = [picture.removesuffix(".jpg") + ending for picture in NAMES[name]]
    splits = {"train": stems[:3], val: stems[3:4], "test": stems[4:]}
    return {form.format(word): "\n".join(names).encode() for word, names in splits.items()}


def official(name: str) -> dict[str, bytes]:
    file = {"flickr8k": "Flickr8k.token.txt", "flickr30k": "results_20130124.token"}[name]
    return {file: tokens(name).encode(), **lists(name)}


def kaggle() -> dict[str, bytes]:
    rows = "".join(f"{p},A caption {k} .\n" for p in NAMES["flickr8k"] for k in range(5))
    return {"captions.txt": f"image,caption\n{rows}".encode(), **lists("flickr8k")}


def lay(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def under(folder: str, files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{folder}/{name}": data for name, data in files.items()}


BOTH = pictures("flickr8k") | karpathy("flickr8k")


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """The data sets have six pictures each."""
    monkeypatch.setattr("os.sync", lambda: None)
    for name, data in flickr.DATASETS.items():
        forms = tuple(form._replace(splits=NUMBERS) for form in data.forms)
        monkeypatch.setitem(flickr.DATASETS, name, data._replace(forms=forms))


@pytest.fixture
def run(tmp_path, capsys):
    """Runs the command; gives its exit code, its lines, and its errors."""

    def run(name: str, *options: object) -> tuple[int, list[str], str]:
        code = flickr.main([name, str(tmp_path / "out"), *map(str, options)])
        out, err = capsys.readouterr()
        return code, out.splitlines(), err

    return run


def check(result: tuple[int, list[str], str], name: str, root: Path) -> None:
    """All three splits can be read, and so can what the printed command names."""
    code, lines, err = result
    assert (code, err) == (0, "")
    assert lines[:3] == [*LINES, "test: 2 pictures, 10 captions"]
    assert lines[3].startswith(f"python train.py data={name} data.root={root}")
    assert pictures_read(lines[3]) == {"train": NAMES[name][:3], "val": NAMES[name][3:4]}
    assert [r.image.name for r in records.read_records(root, "test")] == NAMES[name][4:]
    assert not list(root.rglob("*.part"))


EIGHT = under("Flicker8k_Dataset", pictures("flickr8k"))
MAC = {f"__MACOSX/Flicker8k_Dataset/._{name}": b"mac" for name in NAMES["flickr8k"]}
THIRTY = pictures("flickr30k")


def downloads(folder: Path) -> list[Path]:
    zipped(folder / "Flickr8k_Dataset.zip", EIGHT)
    zipped(folder / "Flickr8k_text.zip", official("flickr8k"))
    return [zipped(folder / "unrelated.zip", {"../evil": b""}).parent]


SOURCES = {  # what users have: folder -> paths
    "flickr8k official": lambda folder: [  # of two with one name the first is taken
        zipped(folder / "Flickr8k_Dataset.zip", EIGHT | MAC | under("twice", pictures("flickr8k"))),
        zipped(folder / "Flickr8k_text.zip", official("flickr8k") | {"readme.txt": b"-"}),
    ],
    "flickr8k downloads": downloads,
    "flickr8k karpathy": lambda folder: [
        lay(folder / "x", EIGHT),
        zipped(folder / "caption_datasets.zip", karpathy("flickr8k") | karpathy("flickr30k")),
    ],
    "flickr8k kaggle": lambda folder: [
        zipped(folder / "archive.zip", under("Images", pictures("flickr8k")) | kaggle())
    ],
    "flickr8k files": lambda folder: list(lay(folder, BOTH).iterdir()),
    "flickr30k karpathy": lambda folder: [
        tarred(folder / "flickr30k-images.tar.gz", under("./flickr30k-images", THIRTY)),
        zipped(folder / "any.zip", karpathy("flickr8k") | karpathy("flickr30k")),
    ],
    "flickr30k official": lambda folder: [
        tarred(folder / "flickr30k-images.tar.gz", under("flickr30k-images", THIRTY)),
        tarred(
            folder / "flickr30k.tar.gz", {"results_20130124.token": tokens("flickr30k").encode()}
        ),
        lay(folder / "entities", lists("flickr30k")),
    ],
}


@pytest.mark.parametrize("source", [*SOURCES, "flickr8k in the folder itself"])
def test_what_users_have_is_arranged_and_read(run, tmp_path, source):
    name = source.split()[0]
    paths = SOURCES[source](tmp_path / "in") if source in SOURCES else []
    if not paths:
        downloads(tmp_path / "out")
    check(run(name, *paths, "--check"), name, tmp_path / "out")
    before = {p: p.stat().st_ino for p in (tmp_path / "out").rglob("*.jpg")}
    assert len(before) == 6
    check(run(name), name, tmp_path / "out")  # the sources are not needed any more
    assert {p: p.stat().st_ino for p in (tmp_path / "out").rglob("*.jpg")} == before


def test_what_lies_right_is_left_in_place(run, tmp_path):
    root = tmp_path / "out"
    lay(root / "Flicker8k_Dataset", pictures("flickr8k"))
    lay(root / "Flickr8k_text", official("flickr8k"))
    before = sorted(root.rglob("*"))
    result = run("flickr8k")
    check(result, "flickr8k", root)
    assert "data.annotations=Flickr8k_text/Flickr8k.token.txt" in result[1][3]
    added = {path.name for path in set(root.rglob("*")) - set(before)}
    assert added == {".lock", ".manifest", "flickr8k.json"}


def test_what_a_link_leads_to_is_not_taken_from_outside_the_sources(run, tmp_path):
    folder = lay(tmp_path / "in", BOTH)
    link = folder / NAMES["flickr8k"][1]
    link.rename(tmp_path / "private")
    link.symlink_to(tmp_path / "private")
    code, _, err = run("flickr8k", folder)
    assert code == 2 and f"{link}: leads out of the sources, to {tmp_path / 'private'}: give" in err
    check(run("flickr8k", folder, tmp_path / "private"), "flickr8k", tmp_path / "out")


@pytest.mark.parametrize("error", [None, OSError(18, "Invalid cross-device link")])
def test_needed_pictures_alone_are_linked_or_else_copied(run, tmp_path, monkeypatch, error):
    if error:
        monkeypatch.setattr("os.link", Mock(side_effect=error))
    folder = lay(tmp_path / "in", BOTH | {"holiday.jpg": b"1", "12.jpg": b"2"})
    name, link, *_ = NAMES["flickr8k"]
    (folder / link).rename(folder / "here.jpg")
    (folder / link).symlink_to("here.jpg")
    check(run("flickr8k", folder), "flickr8k", tmp_path / "out")
    arranged = tmp_path / "out" / "images"
    assert (arranged / name).samefile(folder / name) == (error is None)
    assert len(list(arranged.iterdir())) == 6 and not (arranged / link).is_symlink()
    (folder / name).write_bytes(b"short")  # a link shares the damage, and is no repair
    code, _, err = run("flickr8k", folder)
    assert code == (error is None) == ("1 of 6 pictures" in err)
    assert not list((tmp_path / "out").rglob("*.part"))


@pytest.mark.parametrize("name,form", [("flickr8k", "1713398"), ("flickr30k", "229675")])
def test_with_nothing_it_says_where_all_is_obtained(run, name, form):
    code, lines, err = run(name)
    assert code == 1 and not lines
    assert f"https://forms.illinois.edu/sec/{form}" in err
    assert f"dataset_{name}.json; from caption_datasets.zip of https://cs.stanford.edu" in err
    assert "Images.txt" in err if name == "flickr8k" else "results_20130124.token" in err


def test_split_lists_that_are_missing_are_named(run, tmp_path):
    files, name = pictures("flickr8k") | official("flickr8k"), "Flickr_8k.devImages.txt"
    late = lay(tmp_path / "late", {name: files.pop(name)})
    code, lines, err = run("flickr8k", lay(tmp_path / "in", files))
    assert code == 1 and f"    {name}; from Flickr8k_text.zip" in err
    check(run("flickr8k", late), "flickr8k", tmp_path / "out")


def test_pictures_that_are_missing_are_listed_and_added_later(run, tmp_path):
    """An empty file is no picture."""
    lost, empty = NAMES["flickr8k"][:2]
    folder = lay(tmp_path / "in", BOTH | {empty: b""})
    (folder / lost).unlink()
    code, lines, err = run("flickr8k", folder)
    assert code == 1 and not lines
    title = f"missing: 2 of 6 pictures; from {flickr.DATASETS['flickr8k'].origin}"
    assert err.splitlines() == [title, f"    {lost}", f"    {empty}"]
    check(run("flickr8k", lay(tmp_path / "rest", BOTH)), "flickr8k", tmp_path / "out")


def test_splits_and_captions_are_counted(run, tmp_path):
    lay(tmp_path / "out", pictures("flickr8k") | karpathy("flickr8k", SPLIT[:4], FIVE[:4]))
    code, _, err = run("flickr8k")
    assert code == 1 and "dataset_flickr8k.json has 0 of 2 pictures of test" in err
    assert "4 pictures have not 5 captions, the first of them 0" in err


def test_lost_and_truncated_files_are_noticed_and_restored(run, tmp_path):
    root = tmp_path / "out"
    archive = zipped(tmp_path / "a.zip", EIGHT | karpathy("flickr8k"))
    lost, short, empty = (root / "images" / name for name in NAMES["flickr8k"][:3])
    check(run("flickr8k", archive), "flickr8k", root)
    lost.unlink()
    short.write_bytes(b"\xff\xd8")
    empty.write_bytes(b"")
    code, _, err = run("flickr8k")
    assert code == 1 and "3 of 6 pictures" in err
    (root / "dataset_flickr8k.json").write_text("{")
    code, _, err = run("flickr8k")
    assert code == 1 and "captions and splits" in err
    check(run("flickr8k", archive), "flickr8k", root)
    assert {p.name: p.read_bytes() for p in (root / "images").iterdir()} == pictures("flickr8k")


def test_pictures_that_are_there_are_not_brought_a_second_time(run, tmp_path):
    lay(tmp_path / "out" / "Flicker8k_Dataset", pictures("flickr8k"))
    check(run("flickr8k", lay(tmp_path / "in", BOTH)), "flickr8k", tmp_path / "out")
    assert not (tmp_path / "out" / "images").exists()


def test_what_is_wrong_is_an_error_and_broken_pictures_are_named_when_asked_for(run, tmp_path):
    code, _, err = run("flickr8k", tmp_path / "gone")
    assert code == 2 and err == f"error: {tmp_path / 'gone'}: no such file or folder\n"
    evil = zipped(tmp_path / "evil.zip", {"../evil": b"1"} | pictures("flickr8k"))
    code, _, err = run("flickr8k", evil)
    assert code == 2 and "'../evil' is not a path inside the folder" in err
    assert not list((tmp_path / "out").rglob("*.jpg"))
    folder = lay(tmp_path / "in", BOTH | {NAMES["flickr8k"][1]: b"<html>"})
    code, _, err = run("flickr8k", folder, "--check")
    assert code == 1 and "broken: 1 pictures" in err and NAMES["flickr8k"][1] in err
    assert run("flickr8k", folder)[0] == 0
