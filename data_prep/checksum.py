"""Verify that a file is the expected one."""

import hashlib
from pathlib import Path

from tqdm import tqdm

from captioner.errors import InputError


def verify(path: Path, size: int | None, sha256: str | None, remedy: str) -> None:
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
