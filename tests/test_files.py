"""Files that are there whole or not at all, whatever fails in between."""

import os
import signal
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import numpy as np
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


def test_a_line_that_is_cut_off_stands_alone(tmp_path):
    path = tmp_path / "a.txt"
    assert files.read_lines(path) == [""]
    files.append_bytes(path, b"one\ntwo\nthr")
    assert files.read_lines(path) == ["one", "two", "thr"]
    files.append_bytes(path, b"three\n\xff\n", at=8)
    assert files.read_lines(path) == ["one", "two", "three", "\ufffd", ""]


def test_the_checksum_is_of_all_parts_in_their_order():
    assert files.checksum(b"1234", b"56789") == "cbf43926"  # the CRC-32 of the literature
    assert files.checksum(np.frombuffer(b"12345678", np.float16), b"9") == "cbf43926"


@pytest.mark.parametrize("name", ["a.json", "n" * 250, "\u00fc" * 125])
def test_a_name_as_long_as_the_system_allows_is_written(tmp_path, name):
    files.write_atomic(tmp_path / name, "one")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def make_read_only(path):
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", path]).returncode:
        pytest.skip("this process cannot mount a read-only disk")


@pytest.mark.parametrize(
    "name, reason",
    [("file/a", "Not a directory"), ("n" * 256, "File name too long"), ("no/a", "No such file"),
     ("ro/a", "Read-only file system"), ("closed/a", "Permission denied"), ("", "Is a directory")],
)  # fmt: skip
def test_where_nothing_can_be_written_there_is_a_message(tmp_path, monkeypatch, name, reason):
    (tmp_path / "file").touch()
    (tmp_path / "ro").mkdir()
    if name == "ro/a":
        make_read_only(tmp_path / "ro")
    if name == "closed/a":  # root may write anywhere
        monkeypatch.setattr(Path, "unlink", Mock(side_effect=PermissionError(13, reason)))
        monkeypatch.setattr("builtins.open", Mock(side_effect=PermissionError(13, reason)))
    try:
        with pytest.raises(InputError, match=f"{name[:9]}.*: {reason}.*: write elsewhere, and run"):
            files.write_atomic(tmp_path / name, "one")
    finally:
        subprocess.run(["umount", tmp_path / "ro"], stderr=subprocess.DEVNULL)
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "deep"):
        with pytest.raises(InputError, match=f"{path}: .*write elsewhere"):
            files.make_folder(path)


def test_one_process_at_a_time_has_a_folder(tmp_path):
    """The second is told which the first is; a kill frees the folder; nothing is left of it all."""
    folder = tmp_path / "a" / "b"
    ready, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        with files.locked_folder(folder):
            os.write(write, b"!")
            signal.pause()
    os.read(ready, 1)
    holder = f"in use by process {pid} on {socket.gethostname()}: wait"
    with pytest.raises(InputError, match=f"{folder}: {holder}"), files.locked_folder(folder):
        pass
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with files.locked_folder(folder):
        pass
    assert list(folder.iterdir()) == []  # it was the killed one's folder
    with files.locked_folder(tmp_path / "c" / "d"):
        assert (tmp_path / "c" / "d" / "lock").read_text().startswith(f"process {os.getpid()} on")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_processes_that_want_a_folder_at_once_have_it_one_after_the_other(tmp_path):
    """Though each one's end removes the lock and the folder that the others are about to open."""

    def work():
        done = 0
        while done < 10:
            try:
                with files.locked_folder(tmp_path / "a" / "b"):
                    os.close(os.open(tmp_path / "alone", os.O_CREAT | os.O_EXCL))
                    os.unlink(tmp_path / "alone")
                    done += 1
            except InputError as error:
                assert "in use by" in str(error)

    pids = []
    for _ in range(4):
        pids.append(os.fork())
        if pids[-1] == 0:
            try:
                work()
                os._exit(0)
            finally:
                os._exit(1)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 4
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
