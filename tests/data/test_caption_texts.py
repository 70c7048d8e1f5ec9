"""Captions without pictures, from files."""

import gzip

import pytest

from captioner.data.formats import read_caption_texts
from captioner.errors import InputError


def test_lines_json_and_their_folder(tmp_path):
    (tmp_path / "a.txt").write_text("A dog.\n\nTwo  cats\u2028sit.\n", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"caption": "A bus.", "image": "x"}\n')
    with gzip.open(tmp_path / "c.jsonl.gz", "wt") as file:
        file.write('{"caption": "A train."}\n')
    (tmp_path / "readme.md").write_text("not these")
    assert read_caption_texts(tmp_path / "c.jsonl.gz") == ["A train."]
    assert read_caption_texts(tmp_path) == ["A dog.", "Two  cats\u2028sit.", "A bus.", "A train."]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.jsonl", b'{"text": "x"}', r"a.jsonl: line 1.*caption"),
        ("a.jsonl", b'{"caption": " "}', r"a.jsonl: line 1: empty caption"),
        ("a.jsonl", b"A dog.", r"a.jsonl: line 1: not readable as JSON"),
        ("a.txt", b"\n\n", r"a.txt: no captions in it"),
        ("a.txt", b"caf\xe9", r"a.txt: byte 3 \(line 1\) is b'\\xe9', not UTF-8"),
        ("a.txt.gz", b"A dog.", r"a.txt.gz: not a whole gzip file: copy it again"),
        ("a.txt.gz", gzip.compress(b"A dog.", mtime=0)[:-9], r"a.txt.gz: not a whole gzip file"),
    ],
)
def test_a_broken_file_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_caption_texts(tmp_path / name)


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="no captions in it: give a .txt or .jsonl file"):
        read_caption_texts(tmp_path)
    with pytest.raises(InputError, match="No such file"):
        read_caption_texts(tmp_path / "missing.txt")


def test_a_gzip_bomb_is_refused(tmp_path, monkeypatch):
    from captioner import errors

    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"x" * 10_000))
    with pytest.raises(InputError, match="more than 1,000 bytes"):
        errors.read_text(path, 1000)
