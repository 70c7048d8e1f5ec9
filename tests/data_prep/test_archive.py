import bz2
import contextlib
import gzip
import lzma
import random
import stat
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest

from captioner.errors import InputError
from data_prep import archive, disk
from tests.helpers.preparation import tarred, zipped

BYTES = random.Random(0).randbytes(300_000)
FILES = {"a.txt": b"one", "sub/b.jpg": BYTES, "sub/deep/c": b""}


@pytest.fixture(autouse=True)
def settled(monkeypatch):
    """Other processes' unwritten bytes are none of these tests' business."""
    monkeypatch.setattr("os.sync", lambda: None)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


MAKERS = {"a.zip": zipped, "a.tar": tarred, "a.tar.gz": tarred}


@pytest.fixture(params=MAKERS)
def make(request, tmp_path):
    """Makes an archive of one kind."""
    return lambda files: MAKERS[request.param](tmp_path / request.param, files)


def refusal(path: Path, tmp_path: Path, **options) -> str:
    """The message; nothing may have been written, inside the folder or beside it."""
    folder = tmp_path / "around" / "out"
    with pytest.raises(InputError) as caught:
        archive.unpack(path, folder, **options)
    assert contents(tmp_path / "around") == {}
    assert path.name in str(caught.value)
    return str(caught.value)


def test_what_goes_in_comes_out(make, tmp_path):
    sizes = archive.unpack(make(FILES), tmp_path / "out")
    assert contents(tmp_path / "out") == FILES
    assert sizes == {name: len(data) for name, data in FILES.items()}
    assert not (tmp_path / "out" / "a.txt").stat().st_mode & stat.S_IXUSR


def test_names_are_chosen_and_moved(make, tmp_path):
    place = {"sub/b.jpg": "images/b.jpg"}.get
    assert archive.unpack(make(FILES), tmp_path / "out", place) == {"images/b.jpg": len(BYTES)}
    assert contents(tmp_path / "out") == {"images/b.jpg": BYTES}
    error = refusal(make(FILES), tmp_path, place=lambda name: "same")
    assert "'sub/b.jpg' goes where 'a.txt' goes" in error


def test_dots_and_folders_are_no_harm(make, tmp_path):
    archive.unpack(make({"./sub//a": b"1", "sub/b..c": b"2", "...": b"3"}), tmp_path / "out")
    assert contents(tmp_path / "out") == {"sub/a": b"1", "sub/b..c": b"2", "...": b"3"}
    folder = tarfile.TarInfo("./")
    folder.type = tarfile.DIRTYPE
    archive.unpack(tarred(tmp_path / "b.tar", {folder: b"", "./d": b"4"}), tmp_path / "out")
    archive.unpack(zipped(tmp_path / "b.zip", {"e/": b"", "e/f": b"5"}), tmp_path / "out")
    assert (tmp_path / "out" / "e" / "f").read_bytes() == b"5"


OUTSIDE = ["../a", "..", "sub/../../a", "sub/..", "/etc/passwd", "//host/a", "C:/a", "c:a"]
OUTSIDE += ["..\\a", "sub\\a", "a\nb", "a\x1b[2J", "a/" * 33 + "b", "c" * 241]
OUTSIDE += ["../outside/a"]  # the folder is "out": a prefix of its name is not the folder


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_may_not_lead_outside(make, tmp_path, name):
    error = refusal(make({"good": b"", name: b"evil"}), tmp_path)
    assert repr(name[:80])[:-1] in error and "\n" not in error


def test_a_file_has_a_name(tmp_path):
    info = zipfile.ZipInfo("x")
    info.filename = ""  # zipfile looks for its last character
    for path in (zipped(tmp_path / "a.zip", {info: b"1"}), tarred(tmp_path / "a.tar", {"./": b""})):
        assert "is not a path inside the folder" in refusal(path, tmp_path)


def test_a_name_may_not_hide_its_end_and_is_utf8(tmp_path):
    path = zipped(tmp_path / "a.zip", {"good.txt?.exe": b""})
    path.write_bytes(path.read_bytes().replace(b"good.txt?", b"good.txt\0"))
    assert "good.txt" in refusal(path, tmp_path)
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT, encoding="latin-1") as file:
        file.addfile(tarfile.TarInfo("caf\xe9"))
    assert "characters that no file name" in refusal(path, tmp_path)


COLLISIONS = [["a", "a"], ["s/a", "s//./a"], ["a.jpg", "A.jpg"], ["sub/a", "Sub/b"]]
COLLISIONS += [["a", "a/b"], ["a/b", "a"], ["a/b/c", "a/b/c/d/e"], ["a", "A/b"]]
COLLISIONS += [["\u00e9", "e\u0301"]]  # composed and decomposed


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("names", COLLISIONS)
def test_names_may_not_collide(make, tmp_path, names):
    assert "collides with" in refusal(make([(name, b"") for name in names]), tmp_path)


DEVICES = ["SYMTYPE", "LNKTYPE", "FIFOTYPE", "CHRTYPE", "BLKTYPE", "GNUTYPE_SPARSE"]


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, *DEVICES])
def test_an_archive_holds_no_links_and_devices(tmp_path, kind):
    if kind in DEVICES:
        link, make = tarfile.TarInfo("link"), tarred
        link.type, link.linkname = getattr(tarfile, kind), "/etc"
    else:
        link, make = zipfile.ZipInfo("link"), zipped
        link.create_system, link.external_attr = 3, (kind | 0o777) << 16
    error = refusal(make(tmp_path / "a", {"good": b"", link: b"", "link/evil": b"evil"}), tmp_path)
    assert "'link' is a link or a device" in error or "damaged" in error


def test_bombs_are_refused_before_anything_is_written(make, tmp_path, monkeypatch):
    path = make({f"{i}": bytes(200_000) for i in range(10)})
    monkeypatch.setattr(archive, "MAX_FREE", 2_000_000)
    archive.unpack(path, tmp_path / "fits")
    monkeypatch.setattr(archive, "MAX_FREE", 1_999_999)
    monkeypatch.setattr(archive, "MAX_RATIO", 0)
    assert "more than 2.0 MB unpacked" in refusal(path, tmp_path)
    monkeypatch.setattr(archive, "MAX_RATIO", 10**6)
    archive.unpack(path, tmp_path / "fits too")
    monkeypatch.setattr(archive, "MAX_ENTRIES", 9)
    assert "more than 9 entries" in refusal(path, tmp_path)


def pax(size: int) -> bytes:
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, size
    return header.tobuf(tarfile.GNU_FORMAT) + b"0" * 3_000_000


def sparse_map() -> bytes:
    """A header that goes on for 3 MB, of a kind that is refused anyway."""
    header = tarfile.TarInfo("x")
    header.type = tarfile.GNUTYPE_SPARSE
    start = bytearray(header.tobuf(tarfile.GNU_FORMAT))
    start[482] = 1  # it is extended
    start[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(start))[0]
    return bytes(start) + (bytes(504) + b"\1" + bytes(7)) * 6000


def much_after_the_end() -> bytes:
    return tarfile.TarInfo("a").tobuf() + bytes(3_000_000)


@pytest.mark.parametrize(
    "content", [much_after_the_end(), pax(3_000_000), pax(8 * 2**30), sparse_map()]
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_no_more_of_a_tar_is_read_than_its_entries_need(tmp_path, content, pack):
    path = tmp_path / "a.tar"
    path.write_bytes(pack(content))
    assert "over 1,048,576 bytes of headers or after the end" in refusal(path, tmp_path)


def test_an_entry_that_says_8_gb_is_not_skipped_byte_by_byte(tmp_path):
    header = tarfile.TarInfo("x")
    header.size = 8 * 2**30
    (tmp_path / "a.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT))
    assert "more than 1,073.7 MB unpacked" in refusal(tmp_path / "a.tar", tmp_path)


def test_room_is_looked_for_first(make, tmp_path, monkeypatch):
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    error = refusal(make(FILES), tmp_path)
    assert "0.3 MB" in error and "0.0 MB are free" in error


def patched(path: Path, old: int, new: int) -> Path:
    """A zip that says another size or CRC, in its directory and before the file."""
    data = path.read_bytes()
    assert data.count(struct.pack("<I", old)) >= 2
    path.write_bytes(data.replace(struct.pack("<I", old), struct.pack("<I", new)))
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_sizes_that_lie_are_found_out_and_no_more_is_written_than_an_entry_says(tmp_path, method):
    """The last: a bomb of ten megabytes that says it has ten bytes, with the CRC of these."""
    for declared in (299_999, 300_001):
        path = zipped(tmp_path / "a.zip", {"b": BYTES}, method)
        refusal(patched(path, len(BYTES), declared), tmp_path)
    path = zipped(tmp_path / "a.zip", {"b": bytes(10_000_000)})
    patched(path, 10_000_000, 10)
    patched(path, zlib.crc32(bytes(10_000_000)), zlib.crc32(bytes(10)))
    with contextlib.suppress(InputError):
        archive.unpack(path, tmp_path / "out")
    assert contents(tmp_path / "out") in ({}, {"b": bytes(10)})


def test_damage_is_found_out(make, tmp_path):
    path = make(FILES)
    original = path.read_bytes()
    if path.suffix != ".tar":  # which has no checksum of its contents
        at = len(original) // 2
        path.write_bytes(original[:at] + b"0123456789" + original[at + 10 :])
        with pytest.raises(InputError, match="damaged|neither"):
            archive.unpack(path, tmp_path / "out")
        assert not (tmp_path / "out" / "sub" / "b.jpg").exists()
    path.write_bytes(original[: len(original) // 2])
    with pytest.raises(InputError, match="damaged|neither|less"):
        archive.unpack(path, tmp_path / "out")
    names = [name for name in contents(tmp_path / "out") if name != "a.txt"]
    assert names == []  # least of all b.jpg.part


def test_what_is_no_archive_and_a_folder_that_cannot_be_written_are_named(tmp_path):
    assert "No such file" in refusal(tmp_path / "a.zip", tmp_path)
    for data in (b"", b"PK", b"<html>", b"\x1f\x8b", b"PK\3\4" + bytes(50)):
        (tmp_path / "a.zip").write_bytes(data)
        assert "neither a zip nor a tar archive" in refusal(tmp_path / "a.zip", tmp_path)
    (tmp_path / "out").write_text("a file")
    with pytest.raises(InputError, match=r"out.*: (Not a directory|File exists)"):
        archive.unpack(zipped(tmp_path / "a.zip", FILES), tmp_path / "out")


def test_encryption_and_rare_compressions_are_named(tmp_path):
    path = zipped(tmp_path / "a.zip", {"a": b"1"})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)
    assert "'a' is encrypted" in refusal(path, tmp_path)
    path = zipped(tmp_path / "b.zip", {"a": b"1"}, zipfile.ZIP_LZMA)
    assert "'a' is compressed by method 14" in refusal(path, tmp_path)


MANY = {str(i): f"{i}".encode() * 1000 for i in range(9)}


def test_an_interrupted_unpacking_goes_on(make, tmp_path, monkeypatch):
    """What a zip's checksum shows to be complete is not written again."""
    path, out = make(MANY), tmp_path / "out"
    write, written = archive._write, []

    def stop(archive_path, entry, target):
        if len(written) == 5:
            raise KeyboardInterrupt
        written.append(entry.name)
        write(archive_path, entry, target)

    with monkeypatch.context() as patch:
        patch.setattr(archive, "_write", stop)
        with pytest.raises(KeyboardInterrupt):
            archive.unpack(path, out)
    assert contents(out) == {name: MANY[name] for name in written}
    (out / "0").write_bytes(b"x" * len(MANY["0"]))  # as a crash of the machine may leave it
    (out / "3").write_bytes(b"short")
    before = {file: file.stat().st_ino for file in out.iterdir()}
    archive.unpack(path, out)
    assert contents(out) == MANY
    again = {file.name for file, number in before.items() if file.stat().st_ino != number}
    assert again == ({"0", "3"} if path.suffix == ".zip" else set(written))
