"""Read many pictures in all processes: those that are complete, and why the others are not."""

import hashlib
import json
import os
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from captioner import distributed, files
from captioner.console import note
from captioner.errors import InputError, os_reason, printable
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
            f"{len(errors)} of {count} pictures cannot be read: mend or remove them, or go on "
            f"without them by data.skip_bad=true\n  {lines}"
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
    stamp: tuple[int, ...]
    views: dict[str, Tensor]  # by name, (3, S, S)


class PictureDigests:
    """The digests of complete pictures, in FOLDER/hashes.jsonl.

    A line is [path, size, mtime_ns, ctime_ns, inode, digest of the bytes, checksum of the line]. A
    file is read again if any of its path, size, times and inode has changed. What is promised is
    what the file system promises: that a write to a file changes its ctime.
    """

    def __init__(self, folder: Path):
        files.make_folder(folder)
        self.path = folder / "hashes.jsonl"
        self.digests: dict[tuple[str | int, ...], str] = {}
        *lines, rest = files.read_lines(self.path)
        # A kill cut a line off, two processes wrote at once, the disk is damaged, or an earlier
        # version wrote lines of another kind: those pictures are hashed again.
        self.unreadable = len(lines) + bool(rest)
        for line in lines:
            content, _, checksum = line.rpartition(", ")
            if checksum != f'"{files.checksum(content.encode())}"]':
                continue
            with suppress(ValueError, RecursionError):
                match json.loads(line):
                    case [str(), int(), int(), int(), int(), str(digest), _] as entry:
                        self.digests[tuple(entry[:5])] = digest
                        self.unreadable -= 1

    def lookup(self, path: Path) -> str | None:
        """Return the digest of a picture's bytes, or None if it is not known for the file as is."""
        try:
            return self.digests.get((os.path.abspath(path), *_stamp(path)))
        except OSError:
            return None

    def add(self, paths: Sequence[Path], pictures: Mapping[int, Picture | str]) -> dict[int, str]:
        """Remember the complete pictures of all processes; return the errors of the others."""
        outcomes = {
            i: picture if isinstance(picture, str) else (picture.digest, picture.stamp)
            for i, picture in pictures.items()
        }
        errors: dict[int, str] = {}
        new: dict[tuple[str | int, ...], str] = {}
        for i, outcome in chain.from_iterable(map(dict.items, distributed.gather(outcomes))):
            if isinstance(outcome, str):
                errors[i] = outcome
            else:
                new[os.path.abspath(paths[i]), *outcome[1]] = outcome[0]
        self.digests |= new
        if distributed.rank() == 0:
            if self.unreadable:
                problem = f"lines damaged or of an earlier version, left out: {self.unreadable}"
                note(f"{printable(self.path)}: {problem}")
                files.write_atomic(self.path, _lines(self.digests))
            else:
                files.append_bytes(self.path, _lines(new).encode())
        self.unreadable = 0
        return errors


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
            stamp = _stamp(path)
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
        return Picture(digest, stamp, views)

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


def _stamp(path: Path) -> tuple[int, ...]:
    """Return what changes if a file does: size, mtime_ns, ctime_ns, inode."""
    stat = os.stat(path)
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


def _lines(digests: Mapping[tuple[str | int, ...], str]) -> str:
    contents = (json.dumps([*key, digest])[:-1] for key, digest in digests.items())
    return "".join(f'{text}, "{files.checksum(text.encode())}"]\n' for text in contents)
