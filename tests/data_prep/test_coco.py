import hashlib
import json
from functools import partial

import pytest

from captioner import shell
from captioner.data import records
from captioner.errors import InputError
from data_prep import coco, disk, download
from tests.helpers import captions
from tests.helpers.preparation import composed, jpeg, pictures_read, zipped
from tests.helpers.served import answer, cut, status

NAMES = {
    ("train", 2014): ["COCO_train2014_000000000009.jpg", "COCO_train2014_000000000025.jpg"],
    ("val", 2014): [f"COCO_val2014_00000000004{i}.jpg" for i in range(4)],
    ("train", 2017): ["000000000009.jpg", "000000000025.jpg", "000000000030.jpg"],
    ("val", 2017): ["000000000139.jpg"],
}
FIVE = [f"A caption {k} ." for k in range(5)]


def captions_of(names: list[str]) -> str:
    return json.dumps(captions.coco(*((i, name, "", FIVE) for i, name in enumerate(names))))


def karpathy() -> str:
    names = NAMES["train", 2014] + NAMES["val", 2014]
    splits = ["train", "train", "restval", "val", "test", "test"]
    data = captions.karpathy(*((i, *row, FIVE) for i, row in enumerate(zip(names, splits))))
    for image in data["images"]:
        image |= {"filepath": image["filename"].split("_")[1], "cocoid": image["imgid"]}
    return json.dumps(data)


@pytest.fixture
def packed(tmp_path):
    """The bytes of a zip of these files."""
    return lambda files: zipped(tmp_path / "packed.zip", files).read_bytes()


@pytest.fixture
def site(server, monkeypatch, packed):
    """All archives, made up, in the true layout; coco.py knows their sizes and checksums."""
    monkeypatch.setattr("os.sync", lambda: None)
    monkeypatch.setattr(download, "WAIT", 0.001)
    for year in (2014, 2017):
        texts = {}
        for split in ("train", "val"):
            folder = f"{split}{year}"
            pictures = {f"{folder}/{name}": jpeg(i) for i, name in enumerate(NAMES[split, year])}
            server.files[f"/zips/{folder}.zip"] = packed({f"{folder}/": b"", **pictures})
            texts[f"annotations/captions_{folder}.json"] = captions_of(NAMES[split, year])
            texts[f"annotations/instances_{folder}.json"] = '{"annotations": []}'
        server.files[f"/annotations/annotations_trainval{year}.zip"] = packed(texts)
    flickr = {f"dataset_flickr{n}k.json": "{}" for n in (8, 30)}
    server.files["/caption_datasets.zip"] = packed({"dataset_coco.json": karpathy(), **flickr})
    for name in coco.ARCHIVES:
        accept(server, name, monkeypatch)
    return server


def accept(site, name: str, monkeypatch, data: bytes | None = None) -> None:
    """Makes what the site serves for an archive (or `data`) the true one."""
    item = coco.ARCHIVES[name]
    data = site.files[f"/{item.place}"] = data or site.files[f"/{item.place}"]
    sums = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    monkeypatch.setitem(coco.ARCHIVES, name, item._replace(**sums))


@pytest.fixture
def run(site, tmp_path, capsys):
    """Runs the command; gives its exit code, its lines, and its errors."""

    def run(*options: str) -> tuple[int, list[str], str]:
        code = coco.main([str(tmp_path / "coco"), "--mirror", f"{site.url}/", *options])
        out, err = capsys.readouterr()
        return code, out.splitlines(), err

    return run


@pytest.mark.parametrize("year", [2014, 2017])
def test_a_year_is_downloaded_and_read(run, tmp_path, year):
    code, lines, err = run("--year", str(year))
    assert (code, err) == (0, "")
    expected = {split: NAMES[split, year] for split in ("train", "val")}
    for line, (split, names) in zip(lines, expected.items(), strict=False):
        assert line == f"{split}: {len(names)} pictures, {5 * len(names)} captions"
    assert pictures_read(lines[-1]) == expected
    folders = {".lock", ".manifest", "annotations", "archives", f"train{year}", f"val{year}"}
    assert {path.name for path in (tmp_path / "coco").iterdir()} == folders
    assert len(list((tmp_path / "coco" / "annotations").iterdir())) == 2


def test_all_of_it_fits_into_one_folder_and_each_command_reads_its_own(run, site, tmp_path):
    """Karpathy's split; the same again, for which nothing is asked or written; then both years."""
    first = code, lines, err = run("--karpathy")
    assert (code, err) == (0, "")
    counts = ["train: 3 pictures, 15 captions", "val: 1 pictures, 5 captions"]
    assert lines[:3] == [*counts, "test: 2 pictures, 10 captions"]
    for options in ({}, {"captions": "dataset_coco.json"}):
        assert len(records.read_records(tmp_path / "coco", "test", **options)) == 2
    assert "/annotations/annotations_trainval2014.zip" not in [path for path, _ in site.asked]

    def times():
        paths = (path for path in (tmp_path / "coco").rglob("*") if path.name != ".lock")
        return {path: path.stat().st_mtime_ns for path in paths}

    asked, before = len(site.asked), times()
    assert run("--karpathy") == first
    assert (len(site.asked), times()) == (asked, before)
    commands = {year: run(f"--year={year}")[1][-1] for year in (2014, 2017)}
    for year, command in commands.items():
        assert pictures_read(command)["val"] == NAMES["val", year]
    assert [len(names) for names in pictures_read(lines[-1]).values()] == [3, 1]
    assert pictures_read(lines[-1])["val"] == NAMES["val", 2014][1:2]


@pytest.mark.parametrize("deleted", [False, True])
def test_lost_and_truncated_pictures_are_restored(run, site, tmp_path, deleted):
    options = ["--year=2017", *(["--delete-archives"] if deleted else [])]
    assert run(*options)[0] == 0
    archives = tmp_path / "coco" / "archives"
    assert len(list(archives.iterdir())) == (0 if deleted else 3)
    asked = len(site.asked)
    lost, short = (tmp_path / "coco" / "train2017" / name for name in NAMES["train", 2017][:2])
    originals = lost.read_bytes(), short.read_bytes()
    lost.unlink()
    short.write_bytes(originals[1][:100])
    assert run(*options)[0] == 0
    assert (lost.read_bytes(), short.read_bytes()) == originals
    again = ["/zips/train2017.zip"] if deleted else []
    assert [path for path, _ in site.asked[asked:]] == again


def test_an_interrupted_run_goes_on_and_has_done_what_is_on_the_disk(
    run, site, tmp_path, monkeypatch
):
    site.plan = [cut, *[partial(status, code=503)] * download.TRIES]
    code, lines, err = run("--year=2017")
    assert code == 2 and not lines and "run the command again" in err
    site.asked.clear()

    def crash():
        assert len(list(tmp_path.rglob("*.json"))) == 2  # the captions: there, but not settled
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.sync", crash)
        code, _, err = run("--year=2017")
    assert code == 130 and "goes on where it stopped" in err
    assert not (tmp_path / "coco" / ".manifest").exists()
    assert run("--year=2017")[0] == 0
    assert site.asked[0][1] is not None and len(site.asked) == 3


def test_an_archive_that_the_user_has_is_not_downloaded(run, site, tmp_path):
    folder = tmp_path / "coco" / "archives"
    folder.mkdir(parents=True)
    (folder / "train2017.zip").write_bytes(site.files["/zips/train2017.zip"])
    (folder / "val2017.zip").write_bytes(b"PK, and no more")
    code, _, err = run("--year=2017")
    assert code == 2 and "val2017.zip: 15 bytes instead of" in err and "move it away" in err
    (folder / "val2017.zip").unlink()
    site.plan = [partial(answer, data=b"PK".ljust(coco.ARCHIVES["val2017"].size, b"\0"))]
    code, _, err = run("--year=2017")
    assert code == 2 and "val2017.zip" in err and "its SHA-256 is" in err
    assert not (tmp_path / "coco" / "val2017").exists()
    assert run("--year=2017")[0] == 0
    assert "/zips/train2017.zip" not in [path for path, _ in site.asked]


def test_parts_of_it_alone(run, site):
    code, lines, _ = run("--no-images")
    assert code == 0 and len(lines) == 2 and len(site.asked) == 1
    assert lines[0].endswith("captions_train2014.json: captions of 2 pictures")
    code, lines, _ = run("--year=2017", "--splits", "val")
    assert code == 0 and lines[0] == "val: 1 pictures, 5 captions"
    assert lines[1].startswith("python eval.py model=MODEL data=coco") and "split=val" in lines[1]
    assert "/zips/train2017.zip" not in [path for path, _ in site.asked]
    code, lines, _ = run("--year=2017")  # and the other one later
    assert code == 0 and pictures_read(lines[-1])["train"] == NAMES["train", 2017]


def test_room_for_everything_is_looked_for_before_the_first_byte(run, site, monkeypatch):
    pictures = sum(coco.ARCHIVES[f"{split}2014"].size for split in ("train", "val"))
    free = type("Usage", (), {"free": 2 * pictures})
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: free)
    code, _, err = run("--year=2014")
    assert code == 2 and "are free" in err and not site.asked
    free.free = 10**9
    assert run("--year=2014", "--delete-archives")[0] == 0
    free.free = 0
    assert run("--year=2014", "--delete-archives")[0] == 0  # nothing is needed any more


def test_how_much_room_is_needed(tmp_path):
    """An archive and what is in it, at the worst moment, less what is there already."""
    new = [coco.Archive("", f"zips/{name}.zip", size, "") for name, size in (("a", 10), ("b", 4))]
    assert coco._required_space(tmp_path, new, delete=False) == 28
    assert coco._required_space(tmp_path, new, delete=True) == 20
    assert coco._required_space(tmp_path, new[::-1], delete=True) == 24
    (tmp_path / "archives").mkdir()
    (tmp_path / "archives" / "a.zip.part").write_bytes(b"123")
    assert coco._required_space(tmp_path, new, delete=False) == 25
    (tmp_path / "archives" / "a.zip").write_bytes(b"1234567890")
    assert coco._required_space(tmp_path, new, delete=False) == 8


@pytest.mark.parametrize(
    "archive, file, missing",
    [
        ("annotations2017", "annotations/captions_val2017.json", "captions_train2017.json"),
        ("val2017", "val2017/other.jpg", "'000000000139.jpg'"),
    ],
)
def test_what_an_archive_lacks_is_named(run, site, monkeypatch, packed, archive, file, missing):
    accept(site, archive, monkeypatch, packed({file: captions_of(NAMES["val", 2017])}))
    code, _, err = run("--year=2017")
    assert code == 2 and missing in err


@pytest.mark.parametrize("options", [["--year=2017"], ["--splits", "val"]])
def test_karpathys_split_is_2014s(run, site, capsys, options):
    with pytest.raises(SystemExit) as refused:
        run("--karpathy", *options)
    assert refused.value.code == 2 and not site.asked
    assert "leave --year and --splits away" in capsys.readouterr().err


def test_two_processes_do_not_work_in_one_folder(run, tmp_path):
    with disk.lock(tmp_path / "coco"):
        code, _, err = run("--no-images")
    assert code == 2 and "another process" in err
    assert run("--no-images")[0] == 0
    (tmp_path / "coco" / "file").touch()
    with pytest.raises(InputError, match="file: File exists"), disk.lock(tmp_path / "coco/file"):
        pass


@pytest.mark.parametrize(
    "name", ["with space", "a,b=c", "quo'te", "{x}", "back\\slash", "\\'", "ü", "end\\"]
)
def test_the_printed_command_survives_any_folder(name):
    override = shell.override("data.root", name)
    assert composed(shell.command("python", "train.py", "data=coco", override)).root == name
