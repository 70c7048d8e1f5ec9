"""Features of a frozen encoder, computed once and kept on disk as float16.

A cache cannot be stale: its folder is named by a digest of the encoder's weights and preprocessing,
its rows by a digest of the picture's bytes and by the view. Rows are only ever appended, the data
before their names, so that an interrupted run goes on where it was. Of the processes of a run, all
compute and the first one writes.

    FOLDER/hashes.jsonl              path, size, modification time -> digest of a picture's bytes
    FOLDER/DIGEST/encoder.json       what the digest was made of
    FOLDER/DIGEST/rows.txt           line r: digest of the picture's bytes, view
    FOLDER/DIGEST/pooled.f16         row r: D numbers
    FOLDER/DIGEST/grid.f16           row r: R * D numbers, where a decoder asks for them
"""

import fcntl
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO

import numpy as np
import torch

from captioner import distributed, files, images
from captioner.encoders import CNN
from captioner.errors import InputError
from captioner.images.integrity import BadPictures, Item, Pictures, Whole, digest_of, rounds
from captioner.types import Features


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
            self.views += [f"{digest_of(asdict(augment))}-{k}" for k in range(1, views)]
        recipe = {
            "encoder": encoder.fingerprint(),
            "preprocess": asdict(encoder.preprocess),
            "grid": grid,
        }
        self.folder = Path(folder) / digest_of(recipe)
        files.make_folder(self.folder)
        self.whole = Whole(Path(folder))
        if distributed.rank() == 0:
            files.write(self.folder / "encoder.json", json.dumps(recipe, indent=2))
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

        Raises BadPictures with all that cannot be read; the good ones are kept. Raises InputError
        where the disk is full.
        """
        digests, todo = self._missing(paths)
        bad: dict[int, str] = {}
        if any(distributed.gather(len(todo))):
            with self._locked():
                digests, todo = self._missing(paths)  # another run may have been at work
                bad = self._compute(paths, distributed.gather(todo)[0], batch_size, workers)
                distributed.gather(None)  # until the first one has written everything
                self._open()
            digests, _ = self._missing(paths)
        if bad:
            raise BadPictures(bad, len(paths))
        try:
            return np.array([[self.index[f"{d} {view}"] for view in self.views] for d in digests])
        except KeyError as error:
            raise InputError(
                f"{self.folder}: what another process wrote is not there; data.cache must be a "
                "folder that all of them see"
            ) from error

    def _missing(self, paths: Sequence[Path]) -> tuple[list[str | None], list[int]]:
        """The digests that are known, and which pictures lack a row."""
        digests = [self.whole.digest(path) for path in paths]
        todo = [
            i
            for i, digest in enumerate(digests)
            if digest is None or any(f"{digest} {view}" not in self.index for view in self.views)
        ]
        return digests, todo

    def _compute(self, paths, todo, batch_size, workers) -> dict[int, str]:
        """Adds the missing views of paths[i], i in todo. Returns the bad ones, and why."""
        pictures = Pictures(paths, self.encoder.preprocess, self.augment, self.views, self.index)
        bad: dict[int, str] = {}
        with torch.inference_mode():
            for items in rounds(pictures, todo, batch_size, workers, "features") if todo else ():
                views = [
                    (f"{item.digest} {view}", picture)
                    for item in items.values()
                    if isinstance(item, Item)
                    for view, picture in zip(item.views, item.pixels)
                ]
                made = []
                for start in range(0, len(views), batch_size):
                    names, pixels = zip(*views[start : start + batch_size])
                    batch = images.stack(pixels).to(_device(self.encoder))
                    made.append((names, self._halves(self.encoder(batch, grid=self.grid))))
                bad |= self.whole.add(paths, items)
                for part in distributed.gather(made):
                    for names, halves in part if distributed.rank() == 0 else ():
                        self._append(names, halves)
        return bad

    def _halves(self, features: Features) -> list[np.ndarray]:
        """As they are kept: float16, in the order of the files."""
        halves = []
        for kind, tensor in zip(self.shapes, features):
            assert tensor is not None
            half = tensor.to("cpu", torch.float16)
            if not half.isfinite().all():
                raise InputError(f"the encoder's {kind} features do not fit into float16")
            halves.append(half.numpy())
        return halves

    def _open(self) -> None:
        """(Re)reads the index and maps the data."""
        self.whole.open()
        self.names = files.whole_lines(self.folder / "rows.txt")
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

    def _append(self, names: Sequence[str], halves: Sequence[np.ndarray]) -> None:
        """Data first, then the names that make it count."""
        for kind, half in zip(self.shapes, halves):
            path = self.folder / f"{kind}.f16"
            files.append(path, half.tobytes(), at=len(self.names) * half[0].nbytes)
        files.append(self.folder / "rows.txt", "".join(f"{name}\n" for name in names).encode())
        self.names += names

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One run at a time computes; another one waits, and then finds the rows there."""
        with files.opened(self.folder / "lock") as lock:
            waiting = False
            while not distributed.gather(distributed.rank() > 0 or _try_lock(lock))[0]:
                if not waiting and distributed.rank() == 0:
                    print(f"waiting for another process to fill {self.folder}", file=sys.stderr)
                waiting = True
                time.sleep(1)
            self._open()
            if distributed.rank() == 0:  # forget rows, and a hash, whose writing was cut off
                names = "".join(f"{name}\n" for name in self.names)
                files.write(self.folder / "rows.txt", names)
                self.whole.mend()
            yield

    def __getstate__(self) -> dict[str, object]:
        """For a process that is spawned: it maps the data itself."""
        return {name: value for name, value in self.__dict__.items() if name != "data"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._open()


def _try_lock(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # a file system without locks
        raise files.unwritable(Path(lock.name), error) from error
    return True


def _device(encoder: CNN) -> torch.device:
    return next((p.device for p in encoder.parameters()), torch.device("cpu"))
