"""Files that are there whole or not at all, whatever fails in between."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from captioner import files
from captioner.errors import InputError


def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path, monkeypatch):
    def fail(file):
        raise OSError(5, "I/O error")

    path = tmp_path / "a.json"
    files.write_atomic(path, "one")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(InputError, match="a.json: I/O error"):
        files.write_atomic(path, "two")
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


def test_two_may_write_at_once(tmp_path):
    path = tmp_path / "a.json"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: files.write_atomic(path, str(i) * 10_000), range(8)))
    assert path.read_text() in {str(i) * 10_000 for i in range(8)}
    assert list(tmp_path.iterdir()) == [path]


def test_the_bytes_are_on_the_disk_before_the_name(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(os, "fsync", lambda _: done.append("fsync"))
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda *names: (done.append("rename"), replace(*names)))
    files.write_atomic(tmp_path / "a", b"text")
    assert done == ["fsync", "rename", "fsync"]  # of the file; of its folder


def test_a_line_that_is_cut_off_does_not_count(tmp_path):
    path = tmp_path / "a.txt"
    assert files.complete_lines(path) == []
    files.append_bytes(path, b"one\ntwo\nthr")
    assert files.complete_lines(path) == ["one", "two"]
    files.append_bytes(path, b"three\n", at=8)
    assert files.complete_lines(path) == ["one", "two", "three"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "deep"):
        with pytest.raises(InputError, match=f"{path}: .*write elsewhere"):
            files.make_folder(path)
