"""Features of a frozen encoder, computed once and kept on disk as float16.

Digests of the encoder and of the picture's bytes name a row, and a row is checked when a run first
asks for it: one that is damaged is computed again. Rows are only appended, the data before their
names, so that an interrupted run continues where it stopped. All processes compute features, and
the first one writes them.

    FOLDER/hashes.jsonl              which bytes a picture has: see PictureDigests
    FOLDER/DIGEST/encoder.json       the recipe that DIGEST is the digest of
    FOLDER/DIGEST/rows.txt           digest of the picture's bytes, view, row r, checksum
    FOLDER/DIGEST/pooled.f16         row r: D numbers
    FOLDER/DIGEST/grid.f16           row r: R * D numbers, if a decoder asks for them
"""

import json
import math
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from captioner import distributed, files, images
from captioner.console import note
from captioner.encoders import CNN
from captioner.errors import InputError, naming_file, printable
from captioner.images import integrity
from captioner.images.integrity import BadPictures, PictureDigests, digest_of
from captioner.types import Features

BATCH = 32
"""Pictures that are computed at once, always: the last bits of a sum depend on the batch's size."""
LINE = re.compile(r"(\w+ \S+) (\d{1,12}) ([0-9a-f]{8})", re.ASCII)


class Row(NamedTuple):
    """Where a view's features are, and the checksum over encoder, name and data."""

    number: int
    checksum: str


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
        recipe["batch"] = BATCH
        self.folder = Path(folder) / digest_of(recipe)
        self.intact: set[tuple[str, Row]] = set()  # of what this process has checked
        self.damaged: set[tuple[str, Row]] = set()  # of what all have
        files.make_folder(self.folder)
        if distributed.rank() == 0:
            text, path = json.dumps(recipe, indent=2), self.folder / "encoder.json"
            if files.read_lines(path) != text.split("\n"):  # a full cache may be read-only
                files.write_atomic(path, text)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of a row of each file: (D,) and (R, D)."""
        shapes: dict[str, tuple[int, ...]] = {"pooled": (self.encoder.seen_size,)}
        if self.grid:  # R is only known from the map of a picture
            side = self.encoder.preprocess.size
            with torch.inference_mode():
                blank = torch.zeros(1, 3, side, side, device=_device(self.encoder))
                grid_1RD = self.encoder.look(blank, grid=True).grid_BRD
            assert grid_1RD is not None
            shapes["grid"] = tuple(grid_1RD.shape[1:])
        return shapes

    def __getitem__(self, rows: np.ndarray) -> Features:
        """Return the rows with these numbers, which `compute` gave, as float32 Features."""
        return Features(*(torch.from_numpy(d[rows].astype(np.float32)) for d in self.data.values()))

    def compute(self, paths: Sequence[Path], workers: int = 1) -> np.ndarray:
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
                errors = self._compute_missing(paths, indices, workers)
                distributed.gather(None)  # wait until the first process has written everything
                self._load()
            digests, _ = self._missing(paths)
        if errors:
            raise BadPictures(errors, len(paths))
        try:
            rows = [[self.index[f"{d} {view}"].number for view in self.views] for d in digests]
        except KeyError as error:
            fault = f"{self.folder}: rows that were just written are missing or damaged"
            remedy = "data.cache must be a folder that all processes see, on a disk that works"
            raise InputError(f"{fault}; {remedy}") from error
        return np.array(rows)

    def _missing(self, paths: Sequence[Path]) -> tuple[list[str | None], list[int]]:
        """Return the digests (None if unknown), and the indices of pictures that lack a row."""
        digests = [self.digests.lookup(path) for path in paths]
        self._forget_damaged(digests)
        missing = [
            i
            for i, digest in enumerate(digests)
            if digest is None or any(f"{digest} {view}" not in self.index for view in self.views)
        ]
        return digests, missing

    def _forget_damaged(self, digests: Sequence[str | None]) -> None:
        """Take rows of these pictures that are not as they were written out of the index.

        Each process checks its share, and each row once.
        """
        rank, world = distributed.rank(), distributed.world()
        names = (f"{digest} {view}" for digest in digests[rank::world] for view in self.views)
        rows = {(name, self.index[name]) for name in names if name in self.index} - self.intact
        damaged = {
            (name, row)
            for name, row in sorted(rows, key=lambda item: item[1].number)
            if row.checksum != self._checksum(name, [d[row.number] for d in self.data.values()])
        }
        self.intact |= rows - damaged
        damaged = set().union(*distributed.gather(damaged))
        if rank == 0 and (new := damaged - self.damaged):
            place = printable(self.folder)
            note(f"{place}: damaged rows, computed again: {len(new)}")
        self.damaged |= damaged
        for name, _ in damaged:
            self.index.pop(name, None)

    def _checksum(self, name: str, data: Sequence[np.ndarray]) -> str:
        return files.checksum(f"{self.folder.name} {name} ".encode(), *data)

    def _compute_missing(
        self, paths: Sequence[Path], indices: Sequence[int], workers: int
    ) -> dict[int, str]:
        """Add the missing views of paths[i], i in indices. Returns the errors of bad pictures."""
        reader = integrity.PictureReader(
            paths, self.encoder.preprocess, self.augment, self.views, self.index
        )
        errors: dict[int, str] = {}
        for pictures in reader.rounds(indices, BATCH, workers, "features"):
            views = [
                (f"{picture.digest} {name}", pixels)
                for picture in pictures.values()
                if isinstance(picture, integrity.Picture)
                for name, pixels in picture.views.items()
            ]
            computed = []
            for start in range(0, len(views), BATCH):
                names, pixels = zip(*views[start : start + BATCH])
                computed.append((names, self._encode(pixels)))
            errors |= self.digests.add(paths, pictures)
            for computed_of_rank in distributed.gather(computed):
                for names, halves in computed_of_rank if distributed.rank() == 0 else ():
                    self._append(names, halves)
        return errors

    @torch.inference_mode()
    def _encode(self, pixels: Sequence[torch.Tensor]) -> list[np.ndarray]:
        """Return what is written of up to BATCH views, in the order of the files.

        They are computed in a batch of just that size.
        """
        blank = torch.zeros_like(pixels[0])
        pixels_B3SS = images.stack([*pixels, *[blank] * (BATCH - len(pixels))])
        features = self.encoder.look(pixels_B3SS.to(_device(self.encoder)), grid=self.grid)
        halves = []
        for kind, tensor in zip(self.shapes, features):
            assert tensor is not None
            half = tensor[: len(pixels)].to("cpu", torch.float16)
            if not half.isfinite().all():
                raise InputError(f"the encoder's {kind} features do not fit into float16")
            halves.append(half.numpy())
        return halves

    def _load(self) -> None:
        """Read the index again: another run may have written to it."""
        self.digests = PictureDigests(self.folder.parent)
        *lines, rest = files.read_lines(self.folder / "rows.txt")
        self.rows = min(  # complete ones; those of the last may have no names
            files.size_of(self._file(kind)) // (2 * math.prod(shape))
            for kind, shape in self.shapes.items()
        )
        self.index: dict[str, Row] = {}  # of a name's lines the last counts
        self.unreadable = len(lines) + bool(rest)
        for line in lines:
            match = LINE.fullmatch(line)
            if match and int(match[2]) < self.rows:
                self.index[match[1]] = Row(int(match[2]), match[3])
                self.unreadable -= 1
        vars(self).pop("data", None)

    def _file(self, kind: str) -> Path:
        return self.folder / f"{kind}.f16"

    @cached_property
    def data(self) -> dict[str, np.ndarray]:
        """The files' rows, memory-mapped."""
        rows_of = {kind: (self.rows, *shape) for kind, shape in self.shapes.items()}
        if not self.rows:  # an empty file cannot be mapped
            return {kind: np.empty(shape, np.float16) for kind, shape in rows_of.items()}
        with naming_file(self.folder, ": make it readable"):
            return {
                kind: np.memmap(self._file(kind), np.float16, "r", shape=shape)
                for kind, shape in rows_of.items()
            }

    def __getstate__(self) -> dict[str, object]:
        """Leave the data out: a spawned process maps it itself."""
        return {name: value for name, value in vars(self).items() if name != "data"}

    def _append(self, names: Sequence[str], halves: Sequence[np.ndarray]) -> None:
        """Write data first, then the names that make it count."""
        lines = ""
        for number, (name, *data) in enumerate(zip(names, *halves), self.rows):
            lines += f"{name} {number} {self._checksum(name, data)}\n"
        for kind, half in zip(self.shapes, halves):
            files.append_bytes(self._file(kind), half.tobytes(), at=self.rows * half[0].nbytes)
        files.append_bytes(self.folder / "rows.txt", lines.encode())
        self.rows += len(names)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other runs waiting while this one computes; afterwards they find its rows."""
        with files.open_for_writing(self.folder / "lock") as file:
            waiting = False
            while not distributed.gather(distributed.rank() > 0 or files.try_lock(file))[0]:
                if not waiting and distributed.rank() == 0:
                    place = printable(self.folder)
                    note(f"waiting for another process to fill {place}")
                waiting = True
                time.sleep(1)
            self._load()
            if distributed.rank() == 0 and self.unreadable:
                path = self.folder / "rows.txt"
                note(f"{printable(path)}: damaged lines: {self.unreadable}")
                lines = (f"{name} {row[0]} {row[1]}\n" for name, row in self.index.items())
                files.write_atomic(path, "".join(lines))
            yield


def _device(encoder: CNN) -> torch.device:
    return next((p.device for p in encoder.parameters()), torch.device("cpu"))
