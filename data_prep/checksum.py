"""Whether a file is the one that is wanted."""

import hashlib
from pathlib import Path

from tqdm import tqdm

from captioner.errors import InputError


def verify(path: Path, size: int | None, sha256: str | None, way_out: str) -> None:
    """Raises InputError, with both figures and `way_out`, where size or digest are others."""
    actual = path.stat().st_size
    if size is not None and actual != size:
        raise InputError(f"{path}: {actual:,} bytes instead of {size:,}; {way_out}")
    if sha256 is None:
        return
    digest = hashlib.sha256()
    with (
        open(path, "rb") as file,
        tqdm(
            total=actual, desc=f"checking {path.name}", unit="B", unit_scale=True, disable=None
        ) as bar,
    ):
        while chunk := file.read(2**20):
            digest.update(chunk)
            bar.update(len(chunk))
    if digest.hexdigest() != sha256:
        raise InputError(
            f"{path}: its SHA-256 is {digest.hexdigest()}, but that of the true file is {sha256}; "
            + way_out
        )
