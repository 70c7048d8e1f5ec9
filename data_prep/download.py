"""Download one large file over HTTP: resumable, verified, under its own name only when complete.

    PATH.part        the bytes received so far
    PATH.part.json   their PartInfo: URL, ETag or Last-Modified, full size

A download is resumed only if the server confirms (If-Range) that the file has not changed. pooch,
the usual choice for data files, restarts an interrupted download, too slow for 19 GB.
"""

import hashlib
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
from captioner.errors import InputError, printable, read_json
from captioner.instantiate import construct
from data_prep import disk

CHUNK = 2**16
TIMEOUT = 30.0  # seconds for connecting and for each read, before a connection counts as stalled
TRIES = 6  # consecutive attempts without a new byte before it gives up
WAIT = 1.0  # seconds after the first of them; doubled after each
REDIRECTS = 5

_NUMBER = "[0-9]{1,18}"  # of bytes
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)


class _Retry(Exception):
    """This attempt failed, but the next one may succeed."""


class PartInfo(NamedTuple):
    """Which file PATH.part is a part of. validator: the value for If-Range, if there is one."""

    url: str
    validator: str | None
    total: int | None


def fetch(
    url: str, path: Path, size: int | None = None, sha256: str | None = None, magic: bytes = b""
) -> None:
    """Download `url` to `path`, or verify the file that is already there.

    size, sha256: of the file, if known. magic: its first bytes; anything else is refused before it
    is stored.

    Raises InputError if the server cannot be reached or does not have the file, if TRIES attempts
    in a row bring no new byte, if what arrives is another file (an HTML page, another size or
    digest), or if the disk is full. Except for a wrong file, PATH.part is kept for the next call.
    """
    part = path.with_name(f"{path.name}.part")
    with disk.reporting_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            _verify(path, size, sha256, "move it away and run the command again")
            return
    _complete(url, part, size, magic)
    with disk.reporting_errors(path):
        try:
            again = "run the command again, or take another --mirror"
            _verify(part, size, sha256, f"it was deleted: {again}")
        except InputError:
            part.unlink()
            _info_path(part).unlink(missing_ok=True)
            raise
        disk.publish(part, path)
        _info_path(part).unlink(missing_ok=True)


def _verify(path: Path, size: int | None, sha256: str | None, remedy: str) -> None:
    """Raise InputError, with both values and the remedy, if the size or the SHA-256 differs."""
    actual = path.stat().st_size
    if size is not None and actual != size:
        raise InputError(f"{path}: {actual:,} bytes instead of {size:,}; {remedy}")
    if sha256 is None:
        return
    digest = hashlib.sha256()
    title = f"checking {path.name}"
    bar = tqdm(total=actual, desc=title, unit="B", unit_scale=True, disable=None)
    with open(path, "rb") as file, bar:
        while chunk := file.read(2**20):
            digest.update(chunk)
            bar.update(len(chunk))
    if digest.hexdigest() != sha256:
        fault = f"its SHA-256 is {digest.hexdigest()}, but that of the true file is {sha256}"
        raise InputError(f"{path}: {fault}; {remedy}")


def _complete(url: str, part: Path, size: int | None, magic: bytes) -> None:
    """Send requests until all bytes are in `part`."""
    most, failures = _size(part), 0
    with requests.Session() as session:
        while True:
            try:
                _request(session, url, part, size, magic)
                return
            except (
                _Retry, requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError
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
    """Request the missing bytes, or all. Raises _Retry if some are still missing afterwards."""
    have, info = _size(part), _read_info(part)
    if info is None or info.url != url:
        have, info = 0, None
    if info is not None and have == info.total:
        return
    headers = {"Accept-Encoding": "identity"}  # the file's own bytes, not compressed
    if info is not None and info.validator is not None and have:
        headers |= {"Range": f"bytes={have}-", "If-Range": info.validator}
    with _get(session, url, headers) as response:
        packed = response.headers.get("Content-Encoding", "identity").lower() != "identity"
        if response.status_code == 200:
            have, info = 0, _describe(url, response, packed, size)
        elif "Range" in headers and response.status_code in (206, 416):
            assert info is not None
            if packed or response.status_code == 416 or not _continues(response, have, info):
                with disk.reporting_errors(part):
                    part.unlink()
                raise _Retry("the file has changed on the server since its first part came")
        elif response.status_code in _TRANSIENT:
            raise _Retry(f"the server answers {_status(response)}")
        else:
            raise InputError(
                f"{url}: the server answers {_status(response)}; look whether the address is "
                "right, or take another --mirror"
            )
        total = size if info.total is None else info.total
        with disk.reporting_errors(part), open(part, "r+b" if have else "wb") as file:
            disk.require_space(part.parent, (total or 0) - have, f"the download of {part.stem}")
            if have == 0:  # only now, with the old bytes gone
                files.write_atomic(_info_path(part), json.dumps(info._asdict()))
            file.seek(have)
            with tqdm(
                total=total, initial=have, desc=part.stem, unit="B", unit_scale=True, disable=None
            ) as bar:
                for chunk in response.raw.stream(CHUNK, decode_content=packed):
                    fault = ""
                    if have == 0 and not chunk.startswith(magic):
                        fault = f"begins with {chunk[:20]!r}"
                    have += len(chunk)
                    if total is not None and have > total:
                        fault = f"has more than the {total:,} bytes of the file"
                    if fault:
                        file.truncate(0)
                        raise InputError(_not_the_file(url, fault))
                    file.write(chunk)
                    bar.update(len(chunk))
    if total is not None and have < total:
        raise _Retry(f"the connection ended after {have:,} of {total:,} bytes")


def _get(session: requests.Session, url: str, headers: dict[str, str]) -> requests.Response:
    """Return the response after redirects, to http and https only, never from https to http."""
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
            place = printable(target)
            raise InputError(f"{url}: redirects to {place}, which is not safe to follow")
        url = target
    raise InputError(f"{start}: more than {REDIRECTS} redirects, the last one to {printable(url)}")


def _status(response: requests.Response) -> str:
    """The code, and the reason that the server gives, which may be any bytes."""
    return f"{response.status_code} {printable(str(response.reason)[:80])}"


def _describe(url: str, response: requests.Response, packed: bool, size: int | None) -> PartInfo:
    """Return what a response 200 says about the file. Raises InputError for another file."""
    kind = response.headers.get("Content-Type", "")
    if kind.startswith(("text/html", "application/xhtml")):
        raise InputError(_not_the_file(url, f"is a page ({printable(kind[:80])})"))
    if packed:  # parts of a compressed body are of no use, and its length is not the file's
        return PartInfo(url, None, None)
    length = response.headers.get("Content-Length", "")
    total = int(length) if re.fullmatch(_NUMBER, length) else None
    if total is not None and size is not None and total != size:
        raise InputError(_not_the_file(url, f"has {total:,} bytes instead of {size:,}"))
    return PartInfo(url, _validator(response), total)


def _not_the_file(url: str, fault: str) -> str:
    return (
        f"{url}: what the server sends {fault}, so it is not the file. A network's log-in page? "
        "Otherwise take another --mirror"
    )


def _validator(response: requests.Response) -> str | None:
    """Return what identifies this version of the file. If-Range does not allow a weak ETag."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified")


def _continues(response: requests.Response, have: int, info: PartInfo) -> bool:
    """Return whether a response 206 is the rest of the same file."""
    content_range = response.headers.get("Content-Range", "").strip()
    match = re.fullmatch(rf"bytes ({_NUMBER})-({_NUMBER})/({_NUMBER}|\*)", content_range)
    return (
        match is not None
        and int(match[1]) == have
        and match[3] in ("*", str(info.total or match[3]))
        and _validator(response) in (None, info.validator)
    )


def _info_path(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_info(part: Path) -> PartInfo | None:
    try:
        content = read_json(_info_path(part), 2**16)
        return construct(PartInfo, content, "") if isinstance(content, dict) else None
    except InputError:
        return None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _reason(error: BaseException) -> str:
    """Return the message of the root cause: requests and urllib3 wrap it in vaguer errors."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    if isinstance(error, TimeoutError):
        return f"nothing came for {TIMEOUT:g} seconds"
    return str(error) or type(error).__name__
