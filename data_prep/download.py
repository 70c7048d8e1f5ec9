"""Fetch one large file over HTTP: resumed, checked, never half there under its own name.

    PATH.part        the bytes so far
    PATH.part.json   whose they are: address, ETag or Last-Modified, full size

What was there is asked for again only where the server says by If-Range that it is still the same
file. requests does connections, proxies and certificates; pooch, the usual choice for data files,
starts an interrupted download anew, which 19 GB do not allow.
"""

import json
import re
import time
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from tqdm import tqdm

from captioner import files
from captioner.errors import InputError
from data_prep import checksum, disk

CHUNK = 2**16
TIMEOUT = 30.0
"""Seconds for connecting, and for each read, after which a connection counts as stalled."""
TRIES = 6
"""Attempts in a row that bring nothing new before it gives up."""
WAIT = 1.0
"""Seconds after the first of them; doubled after each."""
REDIRECTS = 5

_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)


class _Broken(Exception):
    """This attempt failed; the next one may not."""


class _Note(NamedTuple):
    """Whose bytes lie in PATH.part. validator: what If-Range sends; None where there is none."""

    url: str
    validator: str | None
    total: int | None


def fetch(
    url: str, path: Path, size: int | None = None, sha256: str | None = None, magic: bytes = b""
) -> None:
    """Download `url` to `path`, or check what lies there already.

    Args:
        size, sha256: what the file must be, where that is known.
        magic: how the file begins; what begins otherwise is refused before it is stored.

    Raises:
        InputError: the server cannot be reached or does not have the file, the connection fails
            TRIES times in a row without a new byte, what came is another file (a page instead of
            it, another size or digest), or the disk is full. What came stays in PATH.part for the
            next call, except where it was wrong.
    """
    part = path.with_name(f"{path.name}.part")
    with disk.errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            checksum.verify(path, size, sha256, "move it away and run the command again")
            return
    _complete(url, part, size, magic)
    with disk.errors(path):
        try:
            again = "run the command again, or take another --mirror"
            checksum.verify(part, size, sha256, f"it was deleted: {again}")
        except InputError:
            part.unlink()
            _note_path(part).unlink(missing_ok=True)
            raise
        disk.publish(part, path)
        _note_path(part).unlink(missing_ok=True)


def _complete(url: str, part: Path, size: int | None, magic: bytes) -> None:
    """Requests until all bytes are in `part`."""
    most, failures = _size(part), 0
    with requests.Session() as session:
        while True:
            try:
                _request(session, url, part, size, magic)
                return
            except (
                _Broken, requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError
            ) as error:  # fmt: skip
                reason = _reason(error)
            except requests.RequestException as error:
                raise InputError(f"{url}: {error}") from error
            have = _size(part)
            failures = 0 if have > most else failures + 1
            most = max(most, have)
            if failures == TRIES:
                raise InputError(
                    f"{url}: {reason}; gave up after {TRIES} attempts. "
                    f"{disk.megabytes(have)} are kept in {part}: run the command again and it "
                    "goes on there, or take another --mirror"
                )
            time.sleep(WAIT * 2 ** max(0, failures - 1))


def _request(
    session: requests.Session, url: str, part: Path, size: int | None, magic: bytes
) -> None:
    """One request for what is missing, or for all. Raises _Broken where bytes are left over."""
    have, note = _size(part), _read_note(part)
    if note is None or note.url != url:
        have, note = 0, None
    if note is not None and have == note.total:
        return
    headers = {"Accept-Encoding": "identity"}  # the file's own bytes, not a packing of them
    if note is not None and note.validator is not None and have:
        headers |= {"Range": f"bytes={have}-", "If-Range": note.validator}
    with _get(session, url, headers) as response:
        packed = response.headers.get("Content-Encoding", "identity").lower() != "identity"
        if response.status_code == 200:
            have, note = 0, _describe(url, response, packed, size)
        elif "Range" in headers and response.status_code in (206, 416):
            assert note is not None
            if packed or response.status_code == 416 or not _continues(response, have, note):
                with disk.errors(part):
                    part.unlink()
                raise _Broken("the file has changed on the server since its first part came")
        elif response.status_code in _TRANSIENT:
            raise _Broken(f"the server answers {response.status_code} {response.reason}")
        else:
            raise InputError(
                f"{url}: the server answers {response.status_code} {response.reason}; look whether "
                "the address is right, or take another --mirror"
            )
        total = size if note.total is None else note.total
        with disk.errors(part), open(part, "r+b" if have else "wb") as file:
            disk.require(part.parent, (total or 0) - have, f"the download of {part.stem}")
            if have == 0:  # only now, with the old bytes gone
                files.write_atomic(_note_path(part), json.dumps(note._asdict()))
            file.seek(have)
            with tqdm(
                total=total, initial=have, desc=part.stem, unit="B", unit_scale=True, disable=None
            ) as bar:
                for chunk in response.raw.stream(CHUNK, decode_content=packed):
                    if have == 0 and not chunk.startswith(magic):
                        file.truncate(0)
                        raise InputError(_not_the_file(url, f"begins with {chunk[:20]!r}"))
                    file.write(chunk)
                    have += len(chunk)
                    bar.update(len(chunk))
    if total is not None and have < total:
        raise _Broken(f"the connection ended after {have:,} of {total:,} bytes")


def _get(session: requests.Session, url: str, headers: dict[str, str]) -> requests.Response:
    """The answer, after redirects: to http and https only, and never from https to http."""
    start = url
    for _ in range(REDIRECTS + 1):
        response = session.get(
            url, headers=headers, stream=True, timeout=TIMEOUT, allow_redirects=False
        )
        if not response.is_redirect:
            return response
        response.close()
        target = urljoin(url, response.headers["Location"])
        scheme = urlsplit(target).scheme
        if scheme not in ("http", "https") or (scheme == "http" and url.startswith("https:")):
            raise InputError(f"{url}: redirects to {target}, which is not safe to follow")
        url = target
    raise InputError(f"{start}: more than {REDIRECTS} redirects, the last one to {url}")


def _describe(url: str, response: requests.Response, packed: bool, size: int | None) -> _Note:
    """What an answer 200 says about the file. Raises InputError where it is another one."""
    kind = response.headers.get("Content-Type", "")
    if kind.startswith(("text/html", "application/xhtml")):
        raise InputError(_not_the_file(url, f"is a page ({kind})"))
    if packed:  # parts of the packing are of no use, and its length is not the file's
        return _Note(url, None, None)
    length = response.headers.get("Content-Length", "")
    total = int(length) if length.isdecimal() else None
    if total is not None and size is not None and total != size:
        raise InputError(_not_the_file(url, f"has {total:,} bytes instead of {size:,}"))
    return _Note(url, _validator(response), total)


def _not_the_file(url: str, fault: str) -> str:
    return (
        f"{url}: what the server sends {fault}, so it is not the file. A network's log-in page? "
        "Otherwise take another --mirror"
    )


def _validator(response: requests.Response) -> str | None:
    """What tells this state of the file from others. A weak ETag may not stand in If-Range."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified")


def _continues(response: requests.Response, have: int, note: _Note) -> bool:
    """Whether an answer 206 is the rest of the same file."""
    match = re.fullmatch(
        r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("Content-Range", "").strip()
    )
    return (
        match is not None
        and int(match[1]) == have
        and match[3] in ("*", str(note.total or match[3]))
        and _validator(response) in (None, note.validator)
    )


def _note_path(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_note(part: Path) -> _Note | None:
    try:
        return _Note(**json.loads(_note_path(part).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _reason(error: BaseException) -> str:
    """The first cause: requests and urllib3 wrap it in layers that say less."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    if isinstance(error, TimeoutError):
        return f"nothing came for {TIMEOUT:g} seconds"
    return str(error) or type(error).__name__
