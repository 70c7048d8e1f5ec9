import os

import pytest

import disk
from captioner.types import InputError


def test_a_file_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "a.json"
    disk.write(path, "one")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(5, "I/O error")))
    with pytest.raises(InputError, match="a.json: I/O error"), disk.errors(path):
        disk.write(path, "two")
    assert path.read_text() == "one"


def test_the_bytes_are_on_the_disk_before_the_name(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(os, "fsync", lambda _: done.append("fsync"))
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda *names: (done.append("rename"), replace(*names)))
    disk.write(tmp_path / "a", "text")
    assert done == ["fsync", "rename"]


def test_one_process_at_a_time(tmp_path):
    folder = tmp_path / "new"
    with disk.lock(folder):
        with pytest.raises(InputError, match="another process"), disk.lock(folder):
            pass
    with disk.lock(folder):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file: File exists"), disk.lock(tmp_path / "file"):
        pass


def test_room_is_told_in_figures(tmp_path):
    disk.require(tmp_path, 1, "this")
    with pytest.raises(InputError, match=r"this needs 1,000,000,000,000\.0 MB, but .* MB are free"):
        disk.require(tmp_path, 10**18, "this")
