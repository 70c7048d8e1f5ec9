"""Features of a frozen encoder, computed once and kept on disk as float16.

A cache cannot be stale: digests of the encoder and of the picture's bytes name a row. Rows are only
appended, the data before their names, so that an interrupted run continues where it stopped. All
processes compute features, and the first one writes them.

    FOLDER/hashes.jsonl              path, size, modification time -> digest of a picture's bytes
    FOLDER/DIGEST/encoder.json       the recipe that DIGEST is the digest of
    FOLDER/DIGEST/rows.txt           line r: digest of the picture's bytes, view
    FOLDER/DIGEST/pooled.f16         row r: D numbers
    FOLDER/DIGEST/grid.f16           row r: R * D numbers, if a decoder asks for them
"""

import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from captioner import distributed, files, images
from captioner.encoders import CNN
from captioner.errors import InputError
from captioner.images import integrity
from captioner.images.integrity import BadPictures, PictureDigests, digest_of
from captioner.types import Features


class FeatureCache:
    """The features of any pictures by one frozen encoder: `compute` them, then look them up by row.

    grid: whether to keep grid_BRD too. views: the number of versions of each picture; view 0 is the
    picture itself, view k > 0 is `augment` of it, seeded by the picture's bytes and k. Raises
    InputError if the encoder trains, or if views and augment contradict each other.
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
        self.encoder, self.grid, self.augment = encoder.eval(), grid, augment
        self.views = ["0"]  # names of the views
        if augment is not None:
            self.views += [f"{digest_of(asdict(augment))}-{k}" for k in range(1, views)]
        preprocess = asdict(encoder.preprocess)
        recipe = {"encoder": encoder.fingerprint(), "preprocess": preprocess, "grid": grid}
        self.folder = Path(folder) / digest_of(recipe)
        files.make_folder(self.folder)
        if distributed.rank() == 0:
            files.write_atomic(self.folder / "encoder.json", json.dumps(recipe, indent=2))

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of a row of each file: (D,) and (R, D)."""
        shapes: dict[str, tuple[int, ...]] = {"pooled": (self.encoder.size,)}
        if self.grid:  # R is only known from the map of a picture
            side = self.encoder.preprocess.size
            with torch.inference_mode():
                blank = torch.zeros(1, 3, side, side, device=_device(self.encoder))
                grid_1RD = self.encoder(blank, grid=True).grid_BRD
            assert grid_1RD is not None
            shapes["grid"] = tuple(grid_1RD.shape[1:])
        return shapes

    def __getitem__(self, rows: np.ndarray) -> Features:
        """Return the rows with these numbers, which `compute` gave, as float32 Features."""
        return Features(*(torch.from_numpy(d[rows].astype(np.float32)) for d in self.data.values()))

    def compute(self, paths: Sequence[Path], batch_size: int = 32, workers: int = 1) -> np.ndarray:
        """Compute the features that the cache lacks; return the rows of all, (len(paths), views).

        workers: threads that read pictures. Raises BadPictures with all that cannot be read; the
        others are kept. Raises InputError if the disk is full.
        """
        self._load()
        digests, missing = self._missing(paths)
        errors: dict[int, str] = {}
        if any(distributed.gather(len(missing))):
            with self._locked():
                _, missing = self._missing(paths)  # another run may have been at work
                indices = distributed.gather(missing)[0]
                errors = self._compute_missing(paths, indices, batch_size, workers)
                distributed.gather(None)  # wait until the first process has written everything
                self._load()
            digests, _ = self._missing(paths)
        if errors:
            raise BadPictures(errors, len(paths))
        try:
            return np.array([[self.index[f"{d} {view}"] for view in self.views] for d in digests])
        except KeyError as error:
            fault = f"{self.folder}: rows that another process wrote are missing"
            remedy = "data.cache must be a folder that all of them see"
            raise InputError(f"{fault}; {remedy}") from error

    def _missing(self, paths: Sequence[Path]) -> tuple[list[str | None], list[int]]:
        """Return the digests (None if unknown), and the indices of pictures that lack a row."""
        digests = [self.digests.lookup(path) for path in paths]
        missing = [
            i
            for i, digest in enumerate(digests)
            if digest is None or any(f"{digest} {view}" not in self.index for view in self.views)
        ]
        return digests, missing

    def _compute_missing(
        self, paths: Sequence[Path], indices: Sequence[int], batch_size: int, workers: int
    ) -> dict[int, str]:
        """Add the missing views of paths[i], i in indices. Returns the errors of bad pictures."""
        preprocess, device = self.encoder.preprocess, _device(self.encoder)
        reader = integrity.PictureReader(paths, preprocess, self.augment, self.views, self.index)
        errors: dict[int, str] = {}
        with torch.inference_mode():
            for pictures in reader.rounds(indices, batch_size, workers, "features"):
                views = [
                    (f"{picture.digest} {name}", pixels)
                    for picture in pictures.values()
                    if isinstance(picture, integrity.Picture)
                    for name, pixels in picture.views.items()
                ]
                computed = []
                for start in range(0, len(views), batch_size):
                    names, pixels = zip(*views[start : start + batch_size])
                    features = self.encoder(images.stack(pixels).to(device), grid=self.grid)
                    computed.append((names, self._as_float16(features)))
                errors |= self.digests.add(paths, pictures)
                for computed_of_rank in distributed.gather(computed):
                    for names, halves in computed_of_rank if distributed.rank() == 0 else ():
                        self._append(names, halves)
        return errors

    def _as_float16(self, features: Features) -> list[np.ndarray]:
        """Convert features to what is written, in the order of the files."""
        halves = []
        for kind, tensor in zip(self.shapes, features):
            assert tensor is not None
            half = tensor.to("cpu", torch.float16)
            if not half.isfinite().all():
                raise InputError(f"the encoder's {kind} features do not fit into float16")
            halves.append(half.numpy())
        return halves

    def _load(self) -> None:
        """Read the index again: another run may have written to it."""
        self.digests = PictureDigests(self.folder.parent)
        self.names = files.complete_lines(self.folder / "rows.txt")
        for kind, shape in self.shapes.items():  # drop rows that were named but not written
            file = self.folder / f"{kind}.f16"
            size = file.stat().st_size if file.exists() else 0
            self.names = self.names[: size // (2 * math.prod(shape))]
        self.index = {name: row for row, name in enumerate(self.names)}
        vars(self).pop("data", None)

    @cached_property
    def data(self) -> dict[str, np.ndarray]:
        """The files' rows, memory-mapped."""
        rows_of = {kind: (len(self.names), *shape) for kind, shape in self.shapes.items()}
        if not self.names:  # an empty file cannot be mapped
            return {kind: np.empty(shape, np.float16) for kind, shape in rows_of.items()}
        return {
            kind: np.memmap(self.folder / f"{kind}.f16", np.float16, "r", shape=shape)
            for kind, shape in rows_of.items()
        }

    def __getstate__(self) -> dict[str, object]:
        """Leave the data out: a spawned process maps it itself."""
        return {name: value for name, value in vars(self).items() if name != "data"}

    def _append(self, names: Sequence[str], halves: Sequence[np.ndarray]) -> None:
        """Write data first, then the names that make it count."""
        for kind, half in zip(self.shapes, halves):
            path = self.folder / f"{kind}.f16"
            files.append_bytes(path, half.tobytes(), at=len(self.names) * half[0].nbytes)
        lines = "".join(f"{name}\n" for name in names)
        files.append_bytes(self.folder / "rows.txt", lines.encode())
        self.names += names

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other runs waiting while this one computes; afterwards they find its rows."""
        with files.open_for_writing(self.folder / "lock") as file:
            waiting = False
            while not distributed.gather(distributed.rank() > 0 or files.try_lock(file))[0]:
                if not waiting and distributed.rank() == 0:
                    print(f"waiting for another process to fill {self.folder}", file=sys.stderr)
                waiting = True
                time.sleep(1)
            self._load()
            if distributed.rank() == 0:  # forget rows and a hash that were not written completely
                lines = "".join(f"{name}\n" for name in self.names)
                files.write_atomic(self.folder / "rows.txt", lines)
                self.digests.end_last_line()
            yield


def _device(encoder: CNN) -> torch.device:
    return next((p.device for p in encoder.parameters()), torch.device("cpu"))
