"""Laws of the files of the embedded data set."""

import hashlib

import pytest
from pycocotools.coco import COCO

from captioner.errors import InputError
from captioner.scenes import read_scenes, scene, write_scenes
from data_prep.scenes import main
from tests.helpers.scenes import true_of


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    for name, seed in (("one", 5), ("two", 5), ("other", 6)):
        write_scenes(tmp_path / name, train=6, val=3, test=3, seed=seed)
    one, two, other = (digests(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two and len(one) == 12 + 3
    assert all(one[name] != other[name] for name in one)
    assert one["captions_val.json"].startswith("82d1a644495c824c")  # as in earlier versions


def test_coco_reads_it_and_scenes_come_back(tmp_path):
    sizes = {"train": 4, "val": 3, "test": 2}
    write_scenes(tmp_path, **sizes, seed=1)
    seen: set[int] = set()
    for split, size in sizes.items():
        path = tmp_path / f"captions_{split}.json"
        coco, scenes = COCO(path), read_scenes(path)
        assert list(scenes.values()) == [scene(1, split, i) for i in range(size)]
        assert scenes.keys() == set(coco.getImgIds()) and not seen & scenes.keys()
        seen |= scenes.keys()
        for number, image in coco.imgs.items():
            assert (tmp_path / "images" / image["file_name"]).exists()
            texts = [annotation["caption"] for annotation in coco.imgToAnns[number]]
            assert len(texts) == 5
            assert all(true_of(text, scenes[number]) for text in texts)


def test_a_second_run_does_nothing_and_an_interrupted_one_goes_on(tmp_path):
    calls: list[tuple[int, int]] = []

    def stop(done, total):
        calls.append((done, total))
        if done == 5:
            raise KeyboardInterrupt

    sizes = {"train": 3, "val": 3, "test": 1}
    with pytest.raises(KeyboardInterrupt):
        write_scenes(tmp_path / "cut", **sizes, progress=stop)
    assert sorted(p.name for p in tmp_path.glob("cut/*")) == ["captions_train.json", "images"]
    write_scenes(tmp_path / "cut", **sizes, progress=lambda *call: calls.append(call))
    assert calls == [(i, 7) for i in range(1, 6)] + [(i, 4) for i in range(1, 5)]
    write_scenes(tmp_path / "whole", **sizes)
    assert digests(tmp_path / "cut") == digests(tmp_path / "whole")
    write_scenes(tmp_path / "cut", **sizes, progress=stop)
    assert len(calls) == 9


def test_wrong_folders_and_sizes_are_named(tmp_path):
    write_scenes(tmp_path / "mine", 1, 1, 1)
    (tmp_path / "file").write_text("a file")
    (tmp_path / "empty.json").write_text("{}")
    for name, sizes, message in (
        ("mine", (1, 1, 2), "other options"),
        ("", (), "other files"),
        ("file", (), "cannot write"),
        ("new", (-1,), "negative"),
    ):
        with pytest.raises(InputError, match=message):
            write_scenes(tmp_path / name, *sizes)
    with pytest.raises(InputError, match="no scenes"):
        read_scenes(tmp_path / "empty.json")
    assert not (tmp_path / "images").exists() and not (tmp_path / "new").exists()


def test_the_command(tmp_path, capsys):
    command = [str(tmp_path / "data"), "--train=2", "--val=1"]
    assert main([*command, "--test=1"]) == 0
    assert "data/images" in capsys.readouterr().out
    assert len(read_scenes(tmp_path / "data/captions_test.json")) == 1
    assert main([*command, "--test=2"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
