"""Features of a frozen encoder, computed once and kept on disk as float16.

A cache cannot be stale: its folder is named by a digest of the encoder's weights and preprocessing,
its rows by a digest of the picture's bytes and by the view. Rows are only ever appended, the data
before their names, so that an interrupted run goes on where it was.

    FOLDER/hashes.jsonl              path, size, modification time -> digest of the bytes
    FOLDER/DIGEST/encoder.json       what the digest was made of
    FOLDER/DIGEST/rows.txt           line r: digest of the picture's bytes, view
    FOLDER/DIGEST/pooled.f16         row r: D numbers
    FOLDER/DIGEST/grid.f16           row r: R * D numbers, where a decoder asks for them
"""

import fcntl
import hashlib
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from captioner import images
from captioner.encoders import CNN
from captioner.types import Features, InputError


class FeatureCache:
    """Features of any pictures, by one frozen encoder.

    grid: keep grid_BRD too. views: how many versions of each picture; view 0 is the picture itself,
    view k > 0 is `augment` of it, seeded by the picture's bytes and k.
    """

    def __init__(
        self,
        folder: str | Path,
        encoder: CNN,
        grid: bool = False,
        views: int = 1,
        augment: images.Augment | None = None,
    ):
        if not encoder.frozen:
            raise InputError("only a frozen encoder's features can be cached: encoder.train=none")
        if views > 1 and augment is None:
            raise InputError(f"data.views={views} needs data.augment: the views would all be equal")
        if views == 1 and augment is not None:
            raise InputError("a frozen encoder sees cached views: give data.views=2 or more")
        self.encoder, self.grid, self.augment = encoder, grid, augment
        self.views = ["0"]  # names of the views
        if augment is not None:
            self.views += [f"{_digest(asdict(augment))}-{k}" for k in range(1, views)]
        recipe = {
            "encoder": encoder.fingerprint(),
            "preprocess": asdict(encoder.preprocess),
            "grid": grid,
        }
        digest = _digest(recipe)
        self.hashes = Path(folder) / "hashes.jsonl"
        self.folder = Path(folder) / digest
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "encoder.json").write_text(json.dumps(recipe, indent=2))
        with torch.inference_mode():
            blank = torch.zeros(1, 3, encoder.preprocess.size, encoder.preprocess.size)
            example = encoder.eval()(blank.to(_device(encoder)), grid=grid)
        self.shapes = {"pooled": tuple(example.pooled_BD.shape[1:])}
        if example.grid_BRD is not None:
            self.shapes["grid"] = tuple(example.grid_BRD.shape[1:])
        self._open()

    def __getitem__(self, rows: np.ndarray) -> Features:
        """Rows as `rows` returned them -> float32 Features."""
        return Features(*(torch.from_numpy(d[rows].astype(np.float32)) for d in self.data.values()))

    def rows(self, paths: Sequence[Path], batch_size: int = 32, workers: int = 1) -> np.ndarray:
        """(len(paths), views): the rows of these pictures, after computing those that are missing.

        Raises InputError with the list of all pictures that cannot be read; the good ones are kept.
        """
        digests, todo = self._missing(paths)
        bad: list[InputError] = []
        if todo:
            with self._locked():
                digests, todo = self._missing(paths)  # another process may have been at work
                bad = self._compute(paths, todo, digests, batch_size, workers)
                self._open()
        if bad:
            raise InputError(
                f"{len(bad)} of {len(paths)} pictures cannot be read:\n  "
                + "\n  ".join(str(error) for error in bad)
            )
        return np.array([[self.index[f"{d} {view}"] for view in self.views] for d in digests])

    def _missing(self, paths: Sequence[Path]) -> tuple[list[str | None], list[int]]:
        """The digests that are known, and which pictures lack a row."""
        digests = [self._known_digest(path) for path in paths]
        todo = [
            i
            for i, digest in enumerate(digests)
            if digest is None or any(f"{digest} {view}" not in self.index for view in self.views)
        ]
        return digests, todo

    def _compute(self, paths, todo, digests, batch_size, workers) -> list[InputError]:
        """Appends the missing views of paths[i], i in todo; fills in their digests."""
        pictures = _Pictures(
            [paths[i] for i in todo], self.encoder.preprocess, self.augment, self.views, self.index
        )
        loader = DataLoader(pictures, batch_size=batch_size, num_workers=workers, collate_fn=list)
        bad: list[InputError] = []
        with (
            torch.inference_mode(),
            open(self.hashes, "a", encoding="utf-8") as hashes,
            tqdm(total=len(todo), desc="features", unit=" images") as progress,
        ):
            numbers = iter(todo)
            for items in loader:
                for item in items:
                    i = next(numbers)
                    if isinstance(item, InputError):
                        bad.append(item)
                    else:
                        digests[i] = item.digest
                        line = [os.path.abspath(paths[i]), *item.stat, item.digest]
                        hashes.write(json.dumps(line) + "\n")
                views = [
                    (f"{item.digest} {view}", picture)
                    for item in items
                    if not isinstance(item, InputError)
                    for view, picture in zip(item.views, item.pixels)
                ]
                for start in range(0, len(views), batch_size):
                    names, pixels = zip(*views[start : start + batch_size])
                    batch = torch.stack(pixels).to(_device(self.encoder))
                    self._append(names, self.encoder(batch, grid=self.grid))
                progress.update(len(items))
        return bad

    def _known_digest(self, path: Path) -> str | None:
        """The digest of the picture's bytes, where size and modification time have not changed."""
        try:
            return self.known.get((os.path.abspath(path), *_stat(path)))
        except OSError:
            return None

    def _open(self) -> None:
        """(Re)reads the index and maps the data."""
        self.known = {}
        for line in _whole_lines(self.hashes):
            try:
                path, size, mtime, digest = json.loads(line)
                self.known[path, size, mtime] = digest
            except ValueError:  # two processes wrote at once: those pictures are hashed again
                continue
        self.names = _whole_lines(self.folder / "rows.txt")
        for kind, shape in self.shapes.items():  # less what was named but not written
            file = self.folder / f"{kind}.f16"
            size = file.stat().st_size if file.exists() else 0
            self.names = self.names[: size // (2 * math.prod(shape))]
        self.index = {name: row for row, name in enumerate(self.names)}
        self.data = {
            kind: np.memmap(
                self.folder / f"{kind}.f16", np.float16, "r", 0, (len(self.names), *shape)
            )
            if self.names
            else np.empty((0, *shape), np.float16)
            for kind, shape in self.shapes.items()
        }

    def _append(self, names: Sequence[str], features: Features) -> None:
        """Data first, then the names that make it count."""
        for kind, tensor in zip(self.shapes, features):
            assert tensor is not None
            half = tensor.to("cpu", torch.float16)
            if not half.isfinite().all():
                raise InputError(f"the encoder's {kind} features do not fit into float16")
            with open(self.folder / f"{kind}.f16", "ab") as file:
                file.truncate(len(self.names) * half[0].nbytes)
                file.write(half.numpy().tobytes())
                os.fsync(file.fileno())
        with open(self.folder / "rows.txt", "a") as file:
            file.write("".join(name + "\n" for name in names))
        self.names += names

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time computes; another one waits, and then finds the rows there."""
        with open(self.folder / "lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"waiting for another process to fill {self.folder}", file=sys.stderr)
                fcntl.flock(lock, fcntl.LOCK_EX)
            self._open()
            # Forget rows, and a hash, whose writing was cut off.
            (self.folder / "rows.txt").write_text("".join(f"{name}\n" for name in self.names))
            if self.hashes.exists() and not self.hashes.read_bytes().endswith(b"\n"):
                with open(self.hashes, "a") as hashes:
                    hashes.write("\n")
            yield


class _Item(NamedTuple):
    digest: str
    stat: tuple[int, int]
    views: list[str]  # those that are missing
    pixels: Tensor  # (views, 3, S, S): one tensor, since each would cost the loader a descriptor


class _Pictures(Dataset):
    """Reads, hashes and decodes in the loader's processes."""

    def __init__(self, paths, preprocess, augment, views, index):
        self.paths, self.preprocess, self.augment = paths, preprocess, augment
        self.views, self.index = views, index

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> _Item | InputError:
        path = self.paths[i]
        try:
            stat = _stat(path)
            data = images.read_bytes(path)
            digest = hashlib.sha256(data).hexdigest()
            missing = [view for view in self.views if f"{digest} {view}" not in self.index]
            pixels = [torch.empty(0)]
            if missing:
                picture = images.decode(data, str(path))
                pixels = [self._view(picture, digest, view) for view in missing]
        except OSError as error:
            return InputError(f"{path}: {error.strerror}")
        except InputError as error:
            return error
        return _Item(digest, stat, missing, torch.stack(pixels))

    def _view(self, picture: Image, digest: str, view: str) -> Tensor:
        augment = None if view == "0" else self.augment
        seed = int(_digest([digest, view])[:13], 16)
        return images.view(picture, self.preprocess, augment, seed)


def _digest(recipe: object) -> str:
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:20]


def _stat(path: Path) -> tuple[int, int]:
    stat = os.stat(path)
    return stat.st_size, stat.st_mtime_ns


def _device(encoder: CNN) -> torch.device:
    return next((p.device for p in encoder.parameters()), torch.device("cpu"))


def _whole_lines(path: Path) -> list[str]:
    """The lines of a file, less one that another process is still writing."""
    if not path.exists():
        return []
    return path.read_text(encoding="utf-8").split("\n")[:-1]
