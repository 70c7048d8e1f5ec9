"""The zip for the COCO caption server."""

import json
import zipfile

import pytest

from captioner.commands.main import main


@pytest.fixture
def files(tmp_path):
    """Three images of val2014 and two of test2014, with a prediction each."""
    for split, ids in {"val": [1, 2, 3], "test": [8, 9]}.items():
        images = {"images": [{"id": i, "file_name": f"{i}.jpg"} for i in ids]}
        (tmp_path / f"{split}_images.json").write_text(json.dumps(images))
        write_predictions(tmp_path, split, *ids)
    return tmp_path


def write_predictions(folder, split, *ids):
    predictions = [{"image_id": i, "caption": f"a {i}", "captions": ["x", "y"]} for i in ids]
    (folder / f"{split}.json").write_text(json.dumps(predictions))


def run(files, *splits, name="net-1"):
    given = []
    for split in splits:
        paths = [str(files / f"{split}.json"), str(files / f"{split}_images.json")]
        given += ["--split", f"{split}2014", *paths]
    return main(["submission", name, str(files / "out.zip"), *given])


def test_both_splits_under_the_names_that_the_server_wants(files, capsys):
    assert run(files, "val", "test") == 0
    assert capsys.readouterr().err == ""
    with zipfile.ZipFile(files / "out.zip") as archive:
        names = ["captions_val2014_net-1_results.json", "captions_test2014_net-1_results.json"]
        assert archive.namelist() == names
        rows = json.loads(archive.read(names[1]))
    assert rows == [{"image_id": 8, "caption": "a 8"}, {"image_id": 9, "caption": "a 9"}]


def test_one_split_alone_is_noted(files, capsys):
    assert run(files, "test") == 0
    assert "wants val2014 as well" in capsys.readouterr().err


@pytest.mark.parametrize(
    "ids, message",
    [
        ([1], "val2014: 2 images (2, 3) without a prediction"),
        ([1, 2, 3, 7], "val2014: 1 image (7) predicted but not of this split"),
        ([1, 1], "image 1 has two predictions"),
        (["1", 2, 3], "1 image (1) without a prediction"),
    ],
)
def test_gaps_and_duplicates_are_named(files, capsys, ids, message):
    write_predictions(files, "val", *ids)
    assert run(files, "val") == 2
    assert message in capsys.readouterr().err
    assert not (files / "out.zip").exists()


@pytest.mark.parametrize(
    "splits, name, message",
    [
        (["val", "val"], "net", "give each of val2014, test2014 once"),
        (["banana"], "net", "give each of val2014, test2014 once"),
        (["val"], "a b", "'a b': the server takes letters"),
        (["test"], "net", "test_images.json: key 'images' is missing"),
    ],
)
def test_other_errors(files, capsys, splits, name, message):
    (files / "test_images.json").write_text("{}")
    assert run(files, *splits, name=name) == 2
    assert message in capsys.readouterr().err
    assert not (files / "out.zip").exists()
