import gzip
import hashlib
import json
import random
import signal
import subprocess
import time
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import pytest

from captioner.errors import InputError
from data_prep import disk, download
from tests.helpers.forks import python
from tests.helpers.served import Server, answer, cut, etag, stall, status

DATA = b"PK" + random.Random(0).randbytes(500_000)
OTHER = b"PK" + random.Random(1).randbytes(500_000)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(download, "WAIT", 0.001)


@pytest.fixture
def file(server, tmp_path) -> Path:
    """Where the file will lie; the server has it at /a.zip."""
    server.files["/a.zip"] = DATA
    return tmp_path / "deep" / "a.zip"


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def fetch(server: Server, file: Path, data: bytes = DATA, **options) -> None:
    known = {"size": len(data), "sha256": sha(data), "magic": b"PK", **options}
    download.fetch(f"{server.url}/a.zip", file, **known)


def fail(server: Server, file: Path, **options) -> str:
    with pytest.raises(InputError) as caught:
        fetch(server, file, **options)
    assert not file.exists()
    return str(caught.value)


def assert_complete(file: Path, data: bytes = DATA) -> None:
    """The file has these bytes, and nothing else is left."""
    assert file.read_bytes() == data
    assert [path.name for path in file.parent.iterdir()] == [file.name]


@pytest.fixture
def part(server, file) -> Path:
    """What an attempt that was given up leaves: a third of the file."""
    server.plan = [cut, *[partial(status, code=503)] * download.TRIES]
    fail(server, file)
    return file.with_name("a.zip.part")


def ranges(server: Server) -> list[str | None]:
    return [asked for _, asked in server.asked]


@pytest.mark.parametrize("known", [{}, {"size": None, "sha256": None, "magic": b""}])
def test_a_connection_that_is_cut_goes_on_where_it_was(server, file, known):
    server.plan = [cut, cut]
    fetch(server, file, **known)
    fetch(server, file, **known)  # it is there
    first = int(len(DATA) * 0.3)
    second = first + int((len(DATA) - first) * 0.3)
    assert ranges(server) == [None, f"bytes={first}-", f"bytes={second}-"]
    assert server.headers[0]["Accept-Encoding"] == "identity"
    assert server.headers[1]["If-Range"] == server.headers[2]["If-Range"] is not None
    assert_complete(file)


HTML = b"<html><body>Welcome to the hotel"
DATE = "Wed, 21 Oct 2015 07:28:00 GMT"
packed = partial(answer, data=gzip.compress(DATA), Content_Encoding="gzip")
PLANS = {  # answers, and If-Range of the last request, or whether it asks for the rest only
    "cut without a length": ([partial(answer, share=0.3, Content_Length="")], True),
    "weak ETag": ([partial(answer, share=0.3, ETag='W/"1"', Last_Modified=DATE)], DATE),
    "neither ETag nor date": ([partial(answer, share=0.3, ETag="")], False),
    "no ranges": ([cut, partial(answer, ranges=False)], True),
    "packed": ([partial(packed, share=0.3), packed], False),
}


@pytest.mark.parametrize("plan, resumed", PLANS.values(), ids=PLANS)
def test_only_bytes_that_surely_fit_are_put_together(server, file, plan, resumed):
    server.plan = list(plan)
    fetch(server, file)
    assert (ranges(server)[-1] is not None) == bool(resumed)
    assert server.headers[-1]["If-Range"] == resumed or not isinstance(resumed, str)
    assert_complete(file)


def test_interrupted_after_the_last_byte_nothing_is_asked_for_again(server, file, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(disk, "publish", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fetch(server, file)
    assert not file.exists()  # the name comes when the bytes are on the disk
    fetch(server, file)
    assert len(server.asked) == 1
    assert_complete(file)


def test_many_cuts_are_no_failure_while_something_comes(server, file, monkeypatch):
    monkeypatch.setattr(download, "TRIES", 2)
    server.plan = [partial(answer, ranges=False, share=0.3)] * 100
    assert "gave up" in fail(server, file) and len(server.asked) == 1 + download.TRIES
    server.plan = [cut] * 10
    fetch(server, file)
    assert file.read_bytes() == DATA and len(server.asked) == 3 + 11


def forge(handler) -> None:
    """The rest of another file, by a server that does not look at If-Range."""
    del handler.headers["If-Range"]
    answer(handler)


def from_the_start(handler) -> None:
    """206, but with bytes that are there already."""
    content_range = f"bytes 0-{len(OTHER) - 1}/{len(OTHER)}"
    answer(handler, ranges=False, code=206, Content_Range=content_range, ETag=etag(DATA))


def longer(handler) -> None:
    """206 of a file that has grown, by a server that sends no ETag with it."""
    have = int(handler.headers["Range"][6:-1])
    range_ = f"bytes {have}-{len(OTHER)}/{len(OTHER) + 1}"
    answer(handler, data=OTHER[have:] + b"!", ranges=False, code=206, Content_Range=range_)


SECOND = {
    "200, as If-Range says": answer,
    "206 of the new file": forge,
    "206 from the start": from_the_start,
    "206 of a longer file": longer,
    "206 without Content-Range": partial(status, code=206),
    "206 of other bytes": partial(status, code=206, **{"Content-Range": "bytes 5-9/500002"}),
    "416": partial(status, code=416),
}


@pytest.mark.parametrize("second", SECOND.values(), ids=SECOND)
@pytest.mark.parametrize("known", [{}, {"size": None, "sha256": None}])
def test_a_file_that_changed_between_parts_is_not_spliced(server, file, second, known):
    server.plan = [partial(answer, data=DATA, share=0.3), second]
    server.files["/a.zip"] = OTHER
    fetch(server, file, OTHER, **known)
    assert ranges(server)[1] is not None
    assert_complete(file, OTHER)


def test_a_page_does_not_destroy_the_part(server, file, part):
    server.plan = [partial(answer, data=HTML, ranges=False, Content_Type="text/html")]
    fail(server, file)
    fetch(server, file)
    assert ranges(server)[-1] is not None and file.read_bytes() == DATA


def test_a_part_of_another_address_is_not_used(server, file, part):
    server.files["/b.zip"] = OTHER
    download.fetch(f"{server.url}/b.zip", file)
    assert ranges(server)[-1] is None and file.read_bytes() == OTHER


@pytest.mark.parametrize("info", ["", "{}", "[1]", '{"url": 1}', None, "too long"])
def test_a_part_without_sound_information_is_not_used(server, file, part, info):
    path = part.with_name("a.zip.part.json")
    assert json.loads(path.read_text())["total"] == len(DATA)
    if info is None:
        path.unlink()
    elif info == "too long":
        part.write_bytes(DATA + b"!")
    else:
        path.write_text(info)
    fetch(server, file)
    assert ranges(server)[-1] is None
    assert_complete(file)


def test_a_wrong_file_is_deleted_unless_it_was_there(server, file):
    server.files["/a.zip"] = OTHER
    error = fail(server, file)
    assert sha(DATA) in error and sha(OTHER) in error and "--mirror" in error
    assert not list(file.parent.iterdir())
    file.write_bytes(OTHER)
    with pytest.raises(InputError, match="move it away"):
        fetch(server, file)
    with pytest.raises(InputError, match="500,002 bytes instead of 7"):
        fetch(server, file, size=7)
    assert file.read_bytes() == OTHER and len(server.asked) == 1


@pytest.mark.parametrize(
    "page,wanted",
    [
        (partial(answer, data=HTML, Content_Type="text/html; charset=utf-8"), "is a page (text/ht"),
        (partial(answer, data=HTML), "has 32 bytes instead of 500,002"),
        (partial(answer, data=HTML, Content_Length=""), "begins with b'<html><body>Welcome"),
        (partial(answer, data=DATA * 9, Content_Length=""), "has more than the 500,002 bytes"),
        (partial(answer, data=DATA * 9, Content_Length="9" * 5000), "has more than the 500,002"),
        (partial(answer, data=gzip.compress(DATA * 9), Content_Encoding="gzip"), "has more than"),
    ],
)
def test_a_page_in_place_of_the_file_is_refused(server, file, page, wanted):
    server.plan = [page]
    error = fail(server, file)
    assert wanted in error and f"{server.url}/a.zip" in error and "log-in" in error
    assert all(path.stat().st_size == 0 or path.suffix == ".json" for path in file.parent.iterdir())
    fetch(server, file)  # the page gone, it works
    assert file.read_bytes() == DATA


def test_what_a_server_says_is_no_escape_sequence(server, file):
    server.plan = [lambda handler: (handler.send_response(404, "\x1b[2J"), handler.end_headers())]
    assert r"answers 404 '\x1b[2J'; look" in fail(server, file)


@pytest.mark.parametrize("note", ["[]", "5", "[" * 9999, '{"url": 5}', '{"total": "x"}', "\xff"])
def test_a_damaged_note_of_a_part_begins_anew(server, file, part, note):
    part.with_name("a.zip.part.json").write_text(note)
    fetch(server, file)
    assert_complete(file)


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirects_are_followed_with_the_range(server, file, code):
    server.files["/elsewhere"] = DATA
    redirect = partial(status, code=code, Location="/elsewhere")
    server.plan = [redirect, cut, redirect]
    fetch(server, file)
    assert [path for path, _ in server.asked] == ["/a.zip", "/elsewhere"] * 2
    assert ranges(server)[3] is not None and file.read_bytes() == DATA


@pytest.mark.parametrize(
    "target, message",
    [
        ("ftp://127.0.0.1/a.zip", "redirects to ftp://127.0.0.1/a.zip"),
        ("/a.zip", "more than 5 redirects"),
    ],
)
def test_redirects_lead_to_http_only_and_end(server, file, target, message):
    server.plan = [partial(status, code=302, Location=target)] * 100
    assert message in fail(server, file)


def test_redirects_never_lead_from_https_to_http():
    response = Mock(is_redirect=True, headers={"Location": "http://127.0.0.1/a.zip"})
    with pytest.raises(InputError, match="not safe to follow"):
        download._get(Mock(**{"get.return_value": response}), "https://127.0.0.1/a.zip", {})


def test_a_stalled_socket_is_left_and_the_rest_asked_for(server, file, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.1)
    monkeypatch.setattr(download, "TRIES", 2)
    server.plan = [stall, *[partial(answer, share=0, wait=True)] * 2]
    error = fail(server, file)
    assert "nothing came for 0.1 seconds" in error and "a.zip.part" in error
    assert "run the command again and it goes on there" in error
    fetch(server, file)
    first, *others = ranges(server)
    assert first is None and len(others) == 3 and {*others} == {others[0]} != {None}
    assert file.read_bytes() == DATA


@pytest.mark.parametrize("code", [403, 404, 410])
def test_a_server_that_is_busy_is_asked_again_one_that_says_no_is_not(server, file, code):
    server.plan = [partial(status, code=busy) for busy in (429, 500, 502, 503, code)]
    error = fail(server, file)
    assert str(code) in error and "--mirror" in error and len(server.asked) == 5


@pytest.mark.parametrize(
    "url, message",
    [
        ("http://127.0.0.1:9/a.zip", r"^http://127.0.0.1:9/a.zip: .*refused; gave up after 6"),
        ("a.zip", "a.zip"),
        ("ftp://127.0.0.1/a.zip", "^ftp://127.0.0.1/a.zip: "),
        ("http://", "^http://: "),
    ],
)
def test_an_address_where_nothing_is(tmp_path, url, message):
    with pytest.raises(InputError, match=message):
        download.fetch(url, tmp_path / "a.zip")


def test_room_is_looked_for_first(server, file, monkeypatch):
    free = type("Usage", (), {"free": 300_000})
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: free)
    error = fail(server, file)
    assert "0.5 MB" in error and "0.3 MB are free" in error
    assert file.with_name("a.zip.part").stat().st_size == 0
    free.free = 600_000
    server.plan = [cut, *[partial(status, code=503)] * download.TRIES]
    fail(server, file)
    free.free = 400_000  # enough for the rest
    fetch(server, file)
    assert file.read_bytes() == DATA


FETCH = """
import sys, pathlib, resource
from data_prep import download
url, path, limit = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
try: download.fetch(url, pathlib.Path(path))
except download.InputError as error: sys.exit(str(error))
"""


def child(server: Server, file: Path, limit: int = 10**9) -> subprocess.Popen:
    """A process that can be killed, and whose disk is full after `limit` bytes."""
    command = [python(), "-c", FETCH, f"{server.url}/a.zip", str(file), str(limit)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def test_killed_in_the_middle_it_goes_on(server, file):
    server.plan = [stall]
    part = file.with_name("a.zip.part")
    with child(server, file) as process:
        while not (part.exists() and part.stat().st_size) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, process.stderr.read()
    have = part.stat().st_size
    fetch(server, file)
    assert ranges(server) == [None, f"bytes={have}-"] and 0 < have < len(DATA)
    assert file.read_bytes() == DATA


def test_a_full_disk_is_an_error_that_names_the_file(server, file):
    with child(server, file, 200_000) as process:
        error = process.stderr.read()
    assert process.returncode == 1 and error.startswith(f"{file}.part: File too large"), error
    assert "Traceback" not in error and not file.exists()
    fetch(server, file)
    assert ranges(server)[-1] == "bytes=200000-" and file.read_bytes() == DATA
