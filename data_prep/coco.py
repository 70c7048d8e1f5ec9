"""Download COCO's pictures and captions into the layout that captioner/data/records.py reads.

    python data_prep/coco.py data/coco --year 2017
    python data_prep/coco.py data/coco --karpathy

DIR/train2014/*.jpg ..      pictures: 20 GB a year, and as much again for their archives
DIR/annotations/            captions_train2014.json ..: COCO's captions, no other annotations
DIR/dataset_coco.json       Karpathy's split of 2014's pictures (--karpathy)
DIR/archives/               the downloads; --delete-archives deletes each once it is unpacked (to
                            restore a picture that is lost later, it is downloaded again)

An archive that you already have can be put there; it is verified and not downloaded again.

Run the command again to continue where it stopped and to restore missing or truncated pictures; if
nothing is missing, it takes seconds. Every archive is compared with the size and the SHA-256 that
TensorFlow Datasets publishes; COCO itself publishes none.
"""

import sys
from argparse import Namespace
from pathlib import Path
from typing import NamedTuple

from captioner.console import Parser, say
from captioner.data import records
from captioner.errors import InputError
from data_prep import archive, disk, download, manifest, ready

HOST = "http://images.cocodataset.org"
KARPATHY_HOST = "https://cs.stanford.edu/people/karpathy/deepimagesent"


class Archive(NamedTuple):
    """One download. place: path on the mirror. keep: the files to unpack; () for all."""

    host: str
    place: str
    size: int
    sha256: str
    keep: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.place.rpartition("/")[2]

    def path_of(self, entry: str) -> str | None:
        """Return where an entry of the archive is unpacked; None if it is not kept."""
        return entry if not self.keep or entry in self.keep else None


def _captions(year: int) -> tuple[str, str]:
    return f"annotations/captions_train{year}.json", f"annotations/captions_val{year}.json"


ARCHIVES = {
    "annotations2014": Archive(
        HOST, "annotations/annotations_trainval2014.zip", 252_872_794,
        "031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009", _captions(2014),
    ),
    "annotations2017": Archive(
        HOST, "annotations/annotations_trainval2017.zip", 252_907_541,
        "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268", _captions(2017),
    ),
    "karpathy": Archive(
        KARPATHY_HOST, "caption_datasets.zip", 36_745_453,
        "4cfd70132527b80933105e5829dc9034eaab9573482e2e680abbab6130244817", ("dataset_coco.json",),
    ),
    "train2014": Archive(
        HOST, "zips/train2014.zip", 13_510_573_713,
        "ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775",
    ),
    "train2017": Archive(
        HOST, "zips/train2017.zip", 19_336_861_798,
        "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
    ),
    "val2014": Archive(
        HOST, "zips/val2014.zip", 6_645_013_297,
        "fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0",
    ),
    "val2017": Archive(
        HOST, "zips/val2017.zip", 815_585_330,
        "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
    ),
}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run the command. Returns its exit code: 2 for an error, 130 after an interrupt."""
    parser = Parser(description="Download COCO for captioning.")
    parser.add_argument("folder", type=Path, metavar="DIR", help="made if it does not exist")
    parser.add_argument("--year", type=int, choices=(2014, 2017), help="default: 2014")
    parser.add_argument("--karpathy", action="store_true", help="Karpathy's split; year 2014")
    parser.add_argument("--splits", nargs="+", choices=("train", "val"), help="default: both")
    parser.add_argument("--no-images", action="store_true", help="captions only")
    parser.add_argument("--mirror", metavar="URL", help="where else zips/train2014.zip .. lie")
    parser.add_argument("--delete-archives", action="store_true", help="once they are unpacked")
    options = parser.parse_args(arguments)
    if options.karpathy and (options.year == 2017 or options.splits):
        parser.error("--karpathy divides all of 2014: leave --year and --splits away")
    return ready.exit_code(options.folder, lambda: _prepare(options))


def _prepare(options: Namespace) -> list[str]:
    root, year = options.folder, options.year or 2014
    splits = [split for split in ("train", "val") if split in (options.splits or ("train", "val"))]
    if options.karpathy:
        wanted, annotations = ["karpathy"], "dataset_coco.json"
    else:
        wanted = [f"annotations{year}"]
        annotations = f"annotations/captions_{'*' if len(splits) == 2 else splits[0]}{year}.json"
    if not options.no_images:
        wanted += [f"{split}{year}" for split in splits]
    missing = {name: manifest.missing(root, ARCHIVES[name].name) for name in wanted}
    new = [ARCHIVES[name] for name in wanted if missing[name] is None]
    with disk.reporting_errors(root):
        disk.require_space(root, _required_space(root, new, options.delete_archives), "COCO")
    for name in wanted:
        if missing[name] != []:
            _obtain(root, ARCHIVES[name], missing[name], options.mirror, options.delete_archives)
    if options.no_images:
        for path in sorted(root.glob(annotations)):
            say(f"{path}: captions of {len(records.read_references(path)):,} pictures")
    else:
        ready.print_summary(
            "coco", root, annotations, [*splits, *(["test"] if options.karpathy else [])]
        )
    return []


def _required_space(root: Path, new: list[Archive], delete: bool) -> int:
    """Return the peak need in bytes. JPEGs need as much unpacked as in their archive."""
    stored = peak = 0
    for item in new:
        path = root / "archives" / item.name
        part = path.with_name(f"{path.name}.part")
        if path.exists():  # unpacking then checks for itself
            continue
        present = part.stat().st_size if part.exists() else 0
        peak = max(peak, stored + 2 * item.size - present)
        stored += (1 if delete else 2) * item.size - present
    return peak


def _obtain(
    root: Path, item: Archive, missing: list[str] | None, mirror: str | None, delete: bool
) -> None:
    """Download an archive and unpack it (None), or only the files that are `missing`."""
    path = root / "archives" / item.name
    url = f"{(mirror or item.host).rstrip('/')}/{item.place}"
    download.fetch(url, path, item.size, item.sha256, magic=b"PK")
    if missing is None:
        sizes = archive.unpack(path, root, item.path_of)
        if absent := set(item.keep) - set(sizes):
            raise InputError(f"{path}: does not hold {', '.join(sorted(absent))}")
        manifest.write(root, item.name, sizes)
    else:
        names = {name: name for name in missing}
        archive.unpack(path, root, names.get)
    if delete:
        path.unlink()


if __name__ == "__main__":
    sys.exit(main())
