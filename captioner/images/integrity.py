"""Many pictures at once: read by all processes and their readers, whole or listed as bad."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL.Image import Image
from torch import Tensor
from tqdm import tqdm

from captioner import distributed, files, images
from captioner.errors import InputError
from captioner.prefetch import prefetch


class BadPictures(InputError):
    """Some of many pictures cannot be used. errors: the number of each -> the reason."""

    def __init__(self, errors: Mapping[int, str], count: int):
        self.errors, self.count = dict(sorted(errors.items())), count
        lines = "\n  ".join(self.errors.values())
        super().__init__(
            f"{len(errors)} of {count} pictures cannot be read:\n  {lines}\n"
            "mend or remove them, or go on without them by data.skip_bad=true"
        )


def check_images(paths: Sequence[Path], folder: str | Path, workers: int = 1) -> None:
    """Opens all pictures that FOLDER/hashes.jsonl does not know as whole, and remembers those that
    are. Raises BadPictures with all that are not."""
    whole = Whole(Path(folder))
    todo = [i for i, path in enumerate(paths) if whole.digest(path) is None]
    bad: dict[int, str] = {}
    todo = distributed.gather(todo)[0]
    for items in rounds(Pictures(paths), todo, 32, workers, "pictures") if todo else ():
        bad |= whole.add(paths, items)
    if bad:
        raise BadPictures(bad, len(paths))


class Item(NamedTuple):
    """A picture that was read whole."""

    digest: str  # of its bytes
    stat: tuple[int, int]  # size, modification time
    views: list[str]  # those that are missing
    pixels: list[Tensor]  # (3, S, S) each


class Whole:
    """Which files were seen to be whole pictures: FOLDER/hashes.jsonl.

    Path, size and modification time -> digest of the bytes; nothing is read again while they stay.
    """

    def __init__(self, folder: Path):
        files.make_folder(folder)
        self.path = folder / "hashes.jsonl"
        self.open()

    def open(self) -> None:
        """(Re)reads the file."""
        self.known: dict[tuple[str, int, int], str] = {}
        for line in files.whole_lines(self.path):
            try:
                path, size, mtime, digest = json.loads(line)
                self.known[path, size, mtime] = digest
            except ValueError:  # two processes wrote at once: those pictures are hashed again
                continue

    def digest(self, path: Path) -> str | None:
        """The digest of the picture's bytes, where size and modification time have not changed."""
        try:
            return self.known.get((os.path.abspath(path), *_stat(path)))
        except OSError:
            return None

    def add(self, paths: Sequence[Path], items: Mapping[int, "Item | str"]) -> dict[int, str]:
        """Remembers the good ones of all processes; returns the bad ones' errors."""
        found = {i: x if isinstance(x, str) else (x.digest, x.stat) for i, x in items.items()}
        bad: dict[int, str] = {}
        lines = []
        for part in distributed.gather(found):
            for i, item in part.items():
                if isinstance(item, str):
                    bad[i] = item
                    continue
                digest, stat = item
                self.known[os.path.abspath(paths[i]), *stat] = digest
                lines.append(json.dumps([os.path.abspath(paths[i]), *stat, digest]) + "\n")
        if distributed.rank() == 0:
            files.append(self.path, "".join(lines).encode())
        return bad

    def mend(self) -> None:
        """Ends a line that a kill cut off."""
        if self.path.exists() and not self.path.read_bytes().endswith(b"\n"):
            files.append(self.path, b"\n")


class Pictures:
    """Reads, hashes and decodes, in readers' threads. Without preprocessing, only that."""

    def __init__(self, paths, preprocess=None, augment=None, views=(), index=()):
        self.paths, self.preprocess, self.augment = paths, preprocess, augment
        self.views, self.index = views, index

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> Item | str:
        path = self.paths[i]
        try:
            stat = _stat(path)
            data = images.read_bytes(path)
            digest = hashlib.sha256(data).hexdigest()
            missing = [view for view in self.views if f"{digest} {view}" not in self.index]
            pixels = []
            if missing or not self.views:
                picture = images.decode(data, str(path))
                pixels = [self._view(picture, digest, view) for view in missing]
        except OSError as error:
            return f"{path}: {error.strerror}"
        except InputError as error:
            return str(error)
        return Item(digest, stat, missing, pixels)

    def _view(self, picture: Image, digest: str, view: str) -> Tensor:
        augment = None if view == "0" else self.augment
        seed = int(digest_of([digest, view])[:13], 16)
        return images.view(picture, self.preprocess, augment, seed)


def rounds(
    pictures: Pictures, todo: Sequence[int], batch_size: int, workers: int, title: str
) -> Iterator[dict[int, Item | str]]:
    """Pictures `todo` by number, a batch a round: each process reads its share in as many rounds.

    A string stands for a bad picture: it says which and why.
    """
    rank, world = distributed.rank(), distributed.world()
    mine = todo[rank::world]
    starts = range(0, -(-len(todo) // world), batch_size)  # one round more may find none of mine

    def read(start: int) -> dict[int, Item | str]:
        return {i: pictures[i] for i in mine[start : start + batch_size]}

    with tqdm(total=len(todo), desc=title, unit=" images", disable=rank > 0) as progress:
        for items in prefetch(read, starts, workers):
            yield items
            progress.update(min(batch_size * world, len(todo) - progress.n))


def digest_of(recipe: object) -> str:
    """20 letters that stand for plain data."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:20]


def _stat(path: Path) -> tuple[int, int]:
    stat = os.stat(path)
    return stat.st_size, stat.st_mtime_ns
