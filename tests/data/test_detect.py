"""A caption file is known by what it says, wherever a byte falls; litter is passed over."""

import json
import math

import pytest

from captioner.data import records
from captioner.data.detect import format_of
from captioner.errors import InputError

LONG = "a dog " * 20_000  # 120 kB: longer than any piece that is read at once
COCO = {
    "images": [{"id": 1, "file_name": "a.jpg"}],
    "annotations": [{"image_id": 1, "caption": "first"}, {"image_id": 1, "caption": "second"}],
}
KARPATHY = {
    "images": [
        {"imgid": 1, "filename": "a.jpg", "split": "train", "sentences": [{"raw": "an image"}]}
    ]
}
LINE = {"image": "a.jpg", "caption": "a dog"}
TRAIN = "captions_train.json"


def several(n: int, **more) -> dict:
    images = [{"id": i, "file_name": f"{i}.jpg", **more} for i in range(n)]
    return {"images": images, "annotations": [{"image_id": 0, "caption": "a dog"}]}


@pytest.mark.parametrize(
    "content, kind",
    [
        ({"info": {"type": "image", "about": '"image" and "caption"'}, **COCO}, "coco"),
        ({"image": 1, "caption": "of the set", **COCO}, "coco"),
        ({"type": "image", **KARPATHY}, "karpathy"),
        (several(2000, license="x" * 60), "coco"),
        ({**several(2000), "categories": [{"name": LONG}]}, "coco"),
        ({"images": [{"width": LONG, **KARPATHY["images"][0]}]}, "karpathy"),
        ({"images": [], "annotations": [{"category_id": 1, "note": "caption"}]}, None),
        ({"image": "a.jpg", "note": LONG, "caption": "a dog"}, "jsonl"),
        ({"caption": LONG, "image": "a.jpg"}, "jsonl"),
        ({"images": ["image", "caption"]}, None),
        ({"info": {"score": math.nan, "area": math.inf}, **COCO}, "coco"),
        ({"info": [-math.inf], **KARPATHY}, "karpathy"),
        ({"score": math.nan}, None),
    ],
)
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("mark", ["", "\ufeff", "\n \n"])
def test_json_is_known_by_its_keys(tmp_path, content, kind, indent, mark):
    path = tmp_path / "file.json"
    path.write_text(mark + json.dumps(content, indent=indent))
    assert format_of(path) == kind


def test_a_row_is_one_whatever_else_it_holds(tmp_path):
    path = tmp_path / "file.json"
    for other in ({"score": math.inf}, {"annotations": [{"bbox": 1}]}, {"images": [{}]}):
        path.write_text(f"{json.dumps({**other, **LINE})}\n{json.dumps(LINE)}")
        assert format_of(path) == "jsonl"


def test_json_that_is_nested_without_end_is_given_up_soon(tmp_path):
    path = tmp_path / "file.json"
    path.write_text('{"a":' * 100_000)  # took 20 s
    assert format_of(path) is None


@pytest.mark.parametrize(
    "name, text",
    [
        ("captions.tsv", "image\tcaption\na.jpg\ta dog, brown\n"),
        ("captions.csv", "image;caption\na.jpg;a dog, brown\n"),
        ("CAPTIONS.CSV", 'image,caption\na.jpg,"a dog, brown"\n'),
        ("captions.csv", '\ufeffimage,caption\r\na.jpg,"a dog, brown"\r\n   \r\n,\r\n'),
        ("captions.ndjson", '{"image": "a.jpg", "caption": "a dog, brown"}\n  \n'),
        ("captions.txt", "a.jpg#0\ta dog, brown\n   \n"),
        ("captions.txt", "\r \ra.jpg#0\ta dog, brown\r"),  # the ends of lines of old Macs
        ("captions.csv", 'image,caption\ra.jpg,"a dog, brown"\r'),
        ("captions.jsonl", '{"image": "a.jpg", "caption": "a dog, brown"}\r \r'),
    ],
)
def test_every_usual_spelling_of_a_table_is_read(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    (record,) = records.read_references(tmp_path / name)
    assert (record.id, record.captions) == ("a.jpg", ("a dog, brown",))


def test_other_peoples_files_are_passed_over(tmp_path):
    (tmp_path / "captions.csv").write_text("image,caption\na.jpg,a dog\nb.jpg,a cat\n")
    (tmp_path / "train.txt").write_text("a.jpg\n")
    litter = b"\0\5\26\7\0\2\0\0Mac OS X"
    for name in ("._captions.csv", "._train.txt", ".DS_Store", "Thumbs.db", ".captions.json"):
        (tmp_path / name).write_bytes(litter)
    (tmp_path / "README_train.txt").write_text("The pictures of train.\n")
    (tmp_path / "prices.csv").write_text("item,price\nbed,3\n")
    assert records.read_captions(tmp_path, "train") == {"a.jpg": ["a dog"]}


@pytest.mark.parametrize(
    "name, text, fault",
    [
        ("train.csv", "image,caption,caption\na,b,c\n", "each needs a name of its own"),
        (TRAIN, json.dumps(COCO)[:-1] + ', "annotations": []}', "the key 'annotations' twice"),
        (TRAIN, '{"images": [{"id": 1, "id": 2}]}', "the key 'id' twice"),
        (
            "train.jsonl",
            '{"image": "a", "caption": "b", "caption": "c"}',
            "line 1: .*'caption' twice",
        ),
        ("train.csv", "item,price\nbed,3\n", "image and caption are needed"),
        (TRAIN, json.dumps(COCO)[:40], "not readable as JSON"),
    ],
)
def test_what_would_be_lost_is_an_error(tmp_path, name, text, fault):
    (tmp_path / "a.jpg").touch()
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=rf"{name}: .*{fault}"):
        records.read_records(tmp_path, "train")
