"""Read many pictures in all processes: those that are complete, and why the others are not."""

import hashlib
import json
import os
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from captioner import distributed, files
from captioner.errors import InputError, os_reason
from captioner.images.decode import decode_image, read_bytes
from captioner.images.preprocess import Augment, Preprocess, view
from captioner.prefetch import prefetch
from captioner.progress import progress


class BadPictures(InputError):
    """Some of many pictures cannot be used. errors: index of each -> the reason."""

    def __init__(self, errors: Mapping[int, str], count: int):
        self.errors = dict(sorted(errors.items()))
        lines = "\n  ".join(self.errors.values())
        super().__init__(
            f"{len(errors)} of {count} pictures cannot be read:\n  {lines}\n"
            "mend or remove them, or go on without them by data.skip_bad=true"
        )


def check_images(paths: Sequence[Path], folder: str | Path, workers: int = 1) -> None:
    """Open all pictures that FOLDER/hashes.jsonl does not list, and add those that are complete.

    Raises BadPictures with all the others.
    """
    digests = PictureDigests(Path(folder))
    unknown = [i for i, path in enumerate(paths) if digests.lookup(path) is None]
    errors: dict[int, str] = {}
    reader = PictureReader(paths)
    for pictures in reader.rounds(distributed.gather(unknown)[0], 32, workers, "pictures"):
        errors |= digests.add(paths, pictures)
    if errors:
        raise BadPictures(errors, len(paths))


class Picture(NamedTuple):
    """A complete picture."""

    digest: str  # of its bytes
    stat: tuple[int, int]  # size, mtime_ns
    views: dict[str, Tensor]  # by name, (3, S, S)


class PictureDigests:
    """The digests of complete pictures, in FOLDER/hashes.jsonl: [path, size, modification time,
    digest of the bytes]. A file is read again if its size or modification time changes.
    """

    def __init__(self, folder: Path):
        files.make_folder(folder)
        self.path = folder / "hashes.jsonl"
        self.digests: dict[tuple[str, int, int], str] = {}
        for line in files.complete_lines(self.path):
            try:
                path, size, mtime, digest = json.loads(line)
                self.digests[path, size, mtime] = digest
            except ValueError:  # two processes wrote at once: those pictures are hashed again
                continue

    def lookup(self, path: Path) -> str | None:
        """Return the digest of a picture's bytes, or None if it is not known for the file as is."""
        try:
            return self.digests.get((os.path.abspath(path), *_stat(path)))
        except OSError:
            return None

    def add(self, paths: Sequence[Path], pictures: Mapping[int, Picture | str]) -> dict[int, str]:
        """Remember the complete pictures of all processes; return the errors of the others."""
        outcomes = {
            i: picture if isinstance(picture, str) else (picture.digest, picture.stat)
            for i, picture in pictures.items()
        }
        errors: dict[int, str] = {}
        lines = []
        for i, outcome in chain.from_iterable(map(dict.items, distributed.gather(outcomes))):
            if isinstance(outcome, str):
                errors[i] = outcome
                continue
            digest, stat = outcome
            key = (os.path.abspath(paths[i]), *stat)
            self.digests[key] = digest
            lines.append(json.dumps([*key, digest]) + "\n")
        if distributed.rank() == 0:
            files.append_bytes(self.path, "".join(lines).encode())
        return errors

    def end_last_line(self) -> None:
        """Complete a line that was cut off when a run was killed."""
        if self.path.exists() and not self.path.read_bytes().endswith(b"\n"):
            files.append_bytes(self.path, b"\n")


@dataclass
class PictureReader:
    """Reads, hashes and decodes pictures, and makes the views that a cache lacks.

    views: names of views; "0" is the picture itself, any other name seeds `augment`. cached: the
    "DIGEST VIEW" that need not be made. Without `preprocess`, pictures are only checked.
    """

    paths: Sequence[Path]
    preprocess: Preprocess | None = None
    augment: Augment | None = None
    views: Sequence[str] = ()
    cached: Container[str] = ()

    def read(self, i: int) -> Picture | str:
        """Return the picture at paths[i], or what is wrong with it, with its path."""
        path = self.paths[i]
        try:
            stat = _stat(path)
            data = read_bytes(path)
            digest = hashlib.sha256(data).hexdigest()
            missing = [name for name in self.views if f"{digest} {name}" not in self.cached]
            views = {}
            if missing or self.preprocess is None:
                image = decode_image(data, str(path))
            if self.preprocess is not None:
                for name in missing:
                    augment = None if name == "0" else self.augment
                    seed = int(digest_of([digest, name])[:13], 16)
                    views[name] = view(image, self.preprocess, augment, seed)
        except OSError as error:
            return f"{path}: {os_reason(error)}"
        except InputError as error:
            return str(error)
        return Picture(digest, stat, views)

    def rounds(
        self, indices: Sequence[int], batch_size: int, workers: int, title: str
    ) -> Iterator[dict[int, Picture | str]]:
        """Yield what `read` returns for these pictures, by index, one batch a round.

        Each process reads its share, in as many rounds as the others. title: of the progress bar.
        """
        rank, world = distributed.rank(), distributed.world()
        mine = indices[rank::world]
        starts = range(0, -(-len(indices) // world), batch_size)  # the last may be empty for some

        def read_batch(start: int) -> dict[int, Picture | str]:
            return {i: self.read(i) for i in mine[start : start + batch_size]}

        show = rank == 0 and len(indices) > 0
        with progress(title, len(indices), "images", show) as update:
            for pictures in prefetch(read_batch, starts, workers):
                yield pictures
                update(batch_size * world)


def digest_of(recipe: object) -> str:
    """Return 20 hexadecimal digits that identify plain data, such as a cache's recipe."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:20]


def _stat(path: Path) -> tuple[int, int]:
    stat = os.stat(path)
    return stat.st_size, stat.st_mtime_ns
