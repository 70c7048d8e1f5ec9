import csv
import io
import json
import re
import unicodedata
from pathlib import Path

import pytest

from captioner.data import records
from captioner.errors import InputError
from tests.helpers.captions import coco, karpathy

# Captions stay as they stand: separators that str.splitlines would break at, quotes, spaces.
IMAGES = [
    (7, "a.jpg", "train", ["A dog .", "Two\u2028dogs, one \x85 cat"]),
    (3, "b.jpg", "train", [' "Hi" , she says ', "Eine schöne Straße 😀"]),
    (5, "c.jpg", "val", ["A cat ."]),
    (9, "d.jpg", "test", ["A cow .", "A cow ."]),
]
TOKENS = "".join(f"{n}#{i}\t{c}\n" for _, n, _, texts in IMAGES for i, c in enumerate(texts))
ROWS = [(name, split, text) for _, name, split, captions in IMAGES for text in captions]


def table(header: list[str], rows) -> str:
    file = io.StringIO(newline="")
    csv.writer(file).writerows([header, *rows])
    return file.getvalue()


def write(root: Path, files: dict[str, str | bytes | dict], pictures="images") -> Path:
    """Writes the files, JSON where they are dicts, and an empty file for each picture."""
    for name, content in files.items():
        if isinstance(content, dict):
            content = json.dumps(content)
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content.encode() if isinstance(content, str) else content)
    for _, name, _, _ in IMAGES:
        (root / pictures / name).parent.mkdir(parents=True, exist_ok=True)
        (root / pictures / name).touch()
    return root


def plain(result: list[records.Record]) -> list[tuple]:
    return [(record.image.name, record.split, list(record.captions)) for record in result]


def message(*args, **options) -> str:
    with pytest.raises(InputError) as caught:
        records.read_records(*args, **options)
    return str(caught.value)


LISTS = {
    "Flickr_8k.trainImages.txt": "a.jpg\nb.jpg\n",
    "Flickr_8k.devImages.txt": "c.jpg\r\n",
    "Flickr_8k.testImages.txt": "d.jpg",
}
JSONL = "".join(
    json.dumps({"image": n, "caption": c, "split": s}, ensure_ascii=i % 2 == 0) + "\n"
    for i, (n, s, c) in enumerate(ROWS)
)
SPLITS = {
    split: [image for image in IMAGES if image[2] == split] for split in ("train", "val", "test")
}
INSTANCES = {"annotations/instances_train2017.json": '{"annotations": [{"category_id": 1}]}'}
LEMMAS = {"Flickr8k.lemma.token.txt": "a.jpg#0\tdog\n"}
FLICKR8K = {"Flickr8k.token.txt": TOKENS} | LISTS
FLICKR30K = {"train.txt": "a\nb\n", "val.txt": "c\n", "test.txt": "d\n"}
SOURCES = {
    "coco": {f"captions_{split}.json": coco(*images) for split, images in SPLITS.items()},
    "coco official": INSTANCES
    | {f"annotations/captions_{s}2017.json": coco(*images) for s, images in SPLITS.items()},
    "karpathy": {"dataset_tiny.json": karpathy(*IMAGES)},
    "tokens": FLICKR8K,
    "tokens official": {f"Flickr8k_text/{f}": text for f, text in (FLICKR8K | LEMMAS).items()},
    "tokens 30k": {"results_20130124.token": TOKENS} | FLICKR30K,
    "jsonl": {"captions.jsonl": JSONL},
    "csv": {"captions.csv": table(["image", "caption", "split"], [(n, c, s) for n, s, c in ROWS])},
    "csv kaggle": {"captions.txt": table(["image", "caption"], [(n, c) for n, _, c in ROWS])}
    | LISTS,
    "csv per split": {
        f"{split}.csv": table(["image", "caption"], [(n, c) for n, s, c in ROWS if s == split])
        for split in SPLITS
    },
}
FOLDERS = ["images", "Images", "Flicker8k_Dataset", "flickr30k-images", "train2017"]


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_gives_the_same_records(tmp_path, source):
    folder = FOLDERS[len(source) % len(FOLDERS)]
    root = write(tmp_path, SOURCES[source], folder)
    expected = [(name, split, captions) for _, name, split, captions in IMAGES]
    for split in ("train", "val", "test"):
        result = records.read_records(root, split)
        assert plain(result) == [image for image in expected if image[1] == split]
        assert all(record.image.parent == root / folder for record in result)
    assert plain(records.read_records(root, "dev")) == plain(records.read_records(str(root), "val"))
    assert sorted(plain(records.read_records(root))) == sorted(expected)
    ids = [record.id for record in records.read_records(root, "train")]
    assert ids == ([7, 3] if source.startswith(("coco", "karpathy")) else ["a.jpg", "b.jpg"])
    assert re.search("'minival'.* only .*train.*val", message(root, "minival"))


def test_a_byte_order_mark_and_windows_lines_are_accepted(tmp_path):
    for source, files in SOURCES.items():
        root = write(tmp_path / source, files)
        for path in (root / name for name in files):
            text = path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
            path.write_bytes(b"\xef\xbb\xbf" + text)
        assert plain(records.read_records(root, "test")) == [("d.jpg", "test", ["A cow ."] * 2)]


def test_what_comes_first_when_a_root_holds_several(tmp_path):
    for source, files in {
        "csv": {"captions.csv": "image,caption,split\na.jpg,csv,train\n"},
        "jsonl": {"c.jsonl": '{"image": "a.jpg", "caption": "jsonl", "split": "train"}'},
        "tokens": {"x.token.txt": "a.jpg#0\ttokens\n", "train.txt": "a.jpg"},
        "karpathy": {"dataset_x.json": karpathy((7, "a.jpg", "train", ["karpathy"]))},
        "coco": {"captions_train.json": coco((7, "a.jpg", "train", ["coco"]))},
    }.items():
        root = write(tmp_path, files)
        assert records.read_records(root, "train")[0].captions == (source,)
        assert records.read_records(root, "train", captions="captions.csv")[0].captions == ("csv",)


@pytest.mark.parametrize("form, other", [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_may_be_composed_otherwise_on_the_disk(tmp_path, form, other):
    """In names of pictures, of their folder, of the root, and in split lists."""
    name, on_disk = (unicodedata.normalize(f, "é/ü.jpg") for f in (form, other))
    root = tmp_path / unicodedata.normalize(other, "ö")
    write(root, {"captions.csv": f"image,caption\n{name},a dog\n", "train.txt": on_disk + "\n"})
    (root / "images" / on_disk).parent.mkdir()
    (root / "images" / on_disk).touch()
    (record,) = records.read_records(tmp_path / unicodedata.normalize(form, "ö"), "train")
    assert (record.id, record.image) == (name, root / "images" / on_disk)
    (root / "images" / on_disk).rename((root / "images" / on_disk).with_suffix(".JPG"))
    text = message(root, "train")
    assert f"that look alike: {ascii(on_disk.split('/')[1].replace('jpg', 'JPG'))};" in text


def test_brackets_in_the_root_are_no_pattern(tmp_path):
    root = write(tmp_path / "a[1]", {"x_train.csv": "image,caption\na.jpg,a dog\n"})
    assert len(records.read_records(root, captions="x_*.csv")) == 1


def test_years_are_chosen_by_a_pattern_and_folders_by_name(tmp_path):
    files = {
        f"annotations/captions_{split}{year}.json": coco((1, "a.jpg", split, [f"{split} {year}"]))
        for split in ("train", "val")
        for year in (2014, 2017)
    }
    root = write(tmp_path, files)
    assert "choose one by data.annotations=" in message(root, "val")
    (record,) = records.read_records(root, "val", captions="annotations/captions_*2014.json")
    assert record.captions == ("val 2014",)
    write(root, {}, "elsewhere")
    pattern = root / "annotations/captions_*2014.json"
    (record,) = records.read_records(root, "val", captions=pattern, images="elsewhere")
    assert record.image == root / "elsewhere" / "a.jpg"


def test_karpathy_restval_folders_and_coco_ids(tmp_path):
    data = karpathy(*IMAGES)
    data["images"][1] |= {"split": "restval", "filepath": "val2014", "cocoid": 333}
    root = write(tmp_path, {"dataset_coco.json": data}, "val2014")
    train = records.read_records(root, "train")
    assert [(record.id, record.split) for record in train] == [(7, "train"), (333, "train")]
    assert train[1].image == root / "val2014" / "b.jpg"
    assert [record.split for record in records.read_records(root, "restval")] == ["restval"]


def test_a_coco_file_without_a_split_in_its_name_serves_any(tmp_path):
    root = write(tmp_path, {"captions.json": coco(*IMAGES)})
    assert [record.split for record in records.read_records(root, "val")] == ["val"] * 4
    assert [record.split for record in records.read_records(root)] == ["all"] * 4
    assert [r.id for r in records.read_references(root / "captions.json")] == [7, 3, 5, 9]
    write(tmp_path, {"captions_val.json": coco(IMAGES[2])})  # but not beside files that name one
    assert [record.id for record in records.read_records(root)] == [5]
    assert "no caption file of split 'train'" in message(root, "train")


def test_images_without_captions_are_read_where_they_are_wanted(tmp_path):
    """COCO's image_info files have no annotations at all."""
    info = {"images": coco(*IMAGES[:2])["images"]}
    root = write(tmp_path, {"image_info_test2014.json": info, "captions_test.json": info})
    options = {"split": "test", "captions": "image_info_test2014.json"}
    assert plain(records.read_records(root, **options, bare=True)) == [
        ("a.jpg", "test", []),
        ("b.jpg", "test", []),
    ]
    assert "2 of 2 images have no caption" in message(root, **options)
    options["captions"] = "captions_test.json"
    assert "'annotations' is missing" in message(root, **options, bare=True)


def test_no_split_is_ever_made_up(tmp_path):
    root = write(tmp_path, {"captions.csv": table(["image", "caption"], [("a.jpg", "A dog .")])})
    error = message(root, "train")
    assert "captions.csv" in error and "add a split column" in error and "train.csv" in error
    assert [record.split for record in records.read_records(root)] == ["all"]


def changed(key: str, index: int, kind=coco, without: str = "", **changes) -> dict:
    data = kind(*IMAGES)
    data[key][index] |= changes
    data[key][index].pop(without, None)
    return data


HEADER = "image,caption,split\n"
BARE = (1, "e.jpg", "", []), (2, "f.jpg", "", [])
GONE = [(i, f"gone{i}.jpg", "", ["x"]) for i in range(100, 110)]
BROKEN = {  # of each file: contents, and what the message says
    "captions_train.json": [
        ('{"images": [\n{"id": 1, "file', "line 2 column 11"),
        ("[]", "expected an object with 'images', got '[]'"),
        ("[" * 100_000, "not readable as JSON"),
        ('{"images": []}', "'annotations' is missing; it has 'images'"),
        ('{"images": 3, "annotations": []}', "images is '3'; expected list"),
        (coco(), "no images of split 'train'"),
        (changed("images", 1, without="id"), "images[1]: key 'id' is missing"),
        (changed("images", 1, without="file_name"), "images[1]: key 'file_name'"),
        (changed("annotations", 2, without="caption"), "annotations[2]: key 'caption'"),
        (changed("images", 0, id=True), "images[0]: id is 'True'; exp"),
        (changed("images", 2, id=3), "images[2]: id 3 is that of {path}: images[1] too"),
        (changed("annotations", 1, image_id="7"), "annotations[1]: image_id '7' is"),
        (changed("annotations", 1, caption=" \n"), "annotations[1]: empty"),
        (changed("annotations", 1, caption=None), "caption is 'None'; exp"),
        (coco(*IMAGES, *BARE), "images[4]: 2 of 6 images have no caption: 'e.jpg', 'f.jpg'"),
        (coco(*IMAGES, *GONE), "10 of 14 images are missing: 'gone100.jpg'"),
        (coco(*IMAGES, *GONE), "'gone104.jpg' and 5 more; looked in {path.parent}, "),
        (b'{"images":\n["\xe9"]}', "byte 13 (line 2) is b'\\xe9', not UTF-8"),
        (b"\xef\xbb\xbf\xff", "byte 3 (line 1) is b'\\xff'"),
    ],
    "dataset_x.json": [
        (changed("images", 1, karpathy, without="split"), "images[1]: key 'split'"),
        (changed("images", 0, karpathy, without="sentences"), "images[0]: key 'sent"),
        (changed("images", 0, karpathy, without="imgid"), "images[0]: key 'imgid'"),
        (karpathy((1, "a.jpg", "train", [" "])), "images[0]: sentences[0]: empty"),
        (karpathy((1, "a.jpg", "train", [])), "images[0]: 1 of 1 images have no"),
        (karpathy(*IMAGES, IMAGES[0]), "images[4]: id 7 is that of"),
    ],
    "train.token.txt": [
        ("a.jpg#0\tA dog .\n\na.jpg#1 A cat .\n", "line 3: 'a.jpg#1 A cat .' is not IMAGE#NUMBER"),
        ("a.jpg#0\tA dog .\na.jpg#1\t \n", "line 2: empty caption"),
        (b"a.jpg#0\tcaf\xe9\n", "byte 11 (line 1)"),
    ],
    "x.jsonl": [
        (JSONL + '{"image": "a.jpg", "cap\n', "line 8: not readable as JSON"),
        (JSONL + "3\n", "line 8: expected an object with 'image'"),
        (JSONL + '{"image": "a.jpg"}\n', "line 8: split None, but 'train' in {path}: line 1"),
        (JSONL + '{"image": "e.jpg", "caption": "x"}\n', "line 8: no split"),
        ('{"image": "a.jpg", "split": "train"}\n', "line 1: key 'caption' is missing"),
    ],
    "x.csv": [
        ("picture,caption\na.jpg,A dog\n", "line 1: columns ['picture', 'caption']"),
        (HEADER + "a.jpg,A dog, running,train\n", "line 2: 4 fields, but 3 columns; put capt"),
        (HEADER + 'a.jpg,"A\ndog",train\nb.jpg,,train\n', "line 4: empty caption"),
        (HEADER + 'a.jpg,"A dog,train\n', "line 2: unexpected end of data"),
        (HEADER + "a.jpg,x,train\na.jpg,y,val\n", "line 3: split 'val', but 'train' in"),
        ("image,caption,Caption \na.jpg,x,y\n", "line 1: columns ['image', 'caption', 'Caption ']"),
        ("", "line 1: columns []"),
    ],
}


@pytest.mark.parametrize(
    "name, content, expected",
    [(name, *row) for name, rows in BROKEN.items() for row in rows],
)
def test_a_broken_file_is_named_with_its_line_or_key(tmp_path, name, content, expected):
    error, path = message(write(tmp_path, {name: content}), "train"), tmp_path / name
    assert str(path) in error and expected.format(path=path) in error
    assert len(error.splitlines()) == 1


def test_a_broken_split_list_is_named(tmp_path):
    for name, text, expected in (
        ("val.txt", "a.jpg\n", "no images of split 'train', only 'val' (1)"),
        ("train.txt", "b.jpg\nz.jpg\n", "train.txt: line 2: 'z.jpg' has no caption in"),
        ("train.txt", "b.jpg\na.jpg\n", "val.txt: line 1: 'a.jpg' is also of split 'train'"),
        ("train.txt", b"\xff", "train.txt: byte 0"),
    ):
        root = write(tmp_path, {"x.token.txt": TOKENS, name: text})
        assert expected in message(root, "train")


def test_what_is_not_there_is_named(tmp_path):
    assert "gone: no such folder" in message(tmp_path / "gone")
    assert "no caption file" in message(tmp_path)
    assert "x.json: no such file" in message(tmp_path, captions="x.json")
    (tmp_path / "notes.json").write_text('{"a": 1}')
    assert "no caption file" in message(tmp_path)
    assert "notes.json: key 'images' is missing" in message(tmp_path, captions="notes.json")
    write(tmp_path, {"captions_train.json": coco(*IMAGES)})
    for name in ("gone", "captions_train.json"):
        assert f"{tmp_path / name}: no such folder" in message(tmp_path, images=name)
    (tmp_path / "folder.json").mkdir()
    assert "folder.json: a folder, not a regular file" in message(tmp_path, captions="folder.json")
    with pytest.raises(InputError, match="no such file"):
        records.read_references(tmp_path / "x.json")


OUTSIDE = ["../a.jpg", "x/../../a.jpg", "..", "/etc/passwd", "..\\a.jpg", "C:/a.jpg", "c:a"]
OUTSIDE += ["a\0.jpg", ""]


def test_a_picture_cannot_lie_outside_its_folder(tmp_path):
    for name in OUTSIDE:
        root = write(tmp_path / "plain", {"x.json": karpathy((1, name, "train", ["x"]))})
        assert f"images[0]: {name!r} is not a path inside" in message(root, "train")
    write(tmp_path, {}, "secret")
    for name, link, target in (
        ("link.jpg", "images/link.jpg", tmp_path / "secret/a.jpg"),
        ("folder/a.jpg", "images/folder", tmp_path / "secret"),
        ("up/secret/a.jpg", "up", tmp_path),
        ("a.jpg", "Images", tmp_path / "secret"),
    ):
        files = {"captions_train.json": coco((1, name, "train", ["x"]))}
        root = write(tmp_path / link.replace("/", "_"), files)
        (root / link).symlink_to(target)
        assert f"images[0]: {name!r} leads out of {root}, to {tmp_path}" in message(root, "train")


def test_symlinks_inside_are_fine_and_images_that_lead_out_are_named(tmp_path):
    write(tmp_path / "disk", {})
    files = {
        "captions_train.json": coco((1, "a.jpg", "", ["x"]), (2, "link.jpg", "", ["y"])),
        "dataset_x.json": karpathy((1, "images/a.jpg", "train", ["x"])),
    }
    root = tmp_path / "root"
    root.mkdir()
    (root / "images").symlink_to(tmp_path / "disk" / "images")
    (root / "Images").symlink_to("images")  # the same folder again is no ambiguity
    (root / "images" / "link.jpg").symlink_to("b.jpg")
    write(root, files)
    assert "'a.jpg' leads out of" in message(root, "train")
    assert len(records.read_records(root, "train", images="images")) == 2
    (root / "images").unlink()
    (tmp_path / "disk" / "images").rename(root / "on this disk")
    (root / "images").symlink_to("on this disk")
    assert len(records.read_records(root, "train")) == 2
    assert len(records.read_records(root, "train", captions="dataset_x.json")) == 1


def test_a_name_in_two_folders_is_not_guessed(tmp_path):
    files = {"captions_train.json": coco(IMAGES[0])}
    root = write(write(tmp_path, files, "train2017"), files, "val2017")
    error = message(root, "train")
    assert "images[0]: 'a.jpg' is in" in error and "choose by data.images=" in error
    assert len(records.read_records(root, "train", images="val2017")) == 1


def test_real_data_in_its_official_splits(real_data):
    root = real_data / "flickr8k"
    train, val = records.read_records(root, "train"), records.read_records(root, "val")
    assert (len(train), len(val)) == (6000, 1000)
    assert {len(record.captions) for record in train + val} == {5}
    for split, expected in (("train", train), ("val", val)):
        assert records.read_records(root, split, captions="dataset_flickr8k.json") == expected
    result = records.read_records(real_data / "coco_sample", "val")
    assert len(result) == 200 and sum(len(record.captions) for record in result) == 1001
    assert result[0].id == 196 and result[0].image.name == "000000000196.jpg"
