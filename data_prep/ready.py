"""The ends of a preparation: its exit code; and reading the records as training will."""

import re
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from captioner.data import records
from captioner.errors import InputError
from captioner.errors import report as report_error
from data_prep import disk


def exit_code(folder: Path, prepare: Callable[[], Sequence[str]]) -> int:
    """Prepares a folder while no other process does; says on stderr how that failed.

    Returns 0; 1 where `prepare` returns lines that say what is missing; 2 for an error; 130 where
    it was interrupted.
    """
    try:
        with disk.lock(folder):
            lacking = prepare()
    except InputError as error:
        return report_error(error)
    except KeyboardInterrupt:
        print("interrupted: run the command again and it goes on where it stopped", file=sys.stderr)
        return 130
    for line in lacking:
        print(line, file=sys.stderr)
    return 1 if lacking else 0


def report(data: str, root: Path, annotations: str, splits: list[str]) -> None:
    """Prints the number of pictures and captions of each split, and the command that comes next.

    Raises InputError where records.read does: a picture is missing, or a caption file is broken.
    """
    entries = records.read_records(root, captions=annotations)
    pictures = Counter(record.split for record in entries)
    captions = Counter(record.split for record in entries for _ in record.captions)
    for split in splits:
        print(f"{split}: {pictures[split]:,} pictures, {captions[split]:,} captions")
    where = [
        f"data={data}",
        _override("data.root", str(root.resolve())),
        _override("data.annotations", annotations),
    ]
    if {"train", "val"} <= set(splits):
        print("python train.py", *where)
    else:
        print("python eval.py model=MODEL", *where, f"split={splits[0]}")


def _override(key: str, value: str) -> str:
    """KEY=VALUE as Hydra and the shell both understand it."""
    if not re.fullmatch(r"[\w./*~+-]+", value, re.ASCII):
        # Hydra halves backslashes before a quote and at the end, and leaves others alone.
        value = "'" + re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + "\\'" * bool(m[2]), value) + "'"
    return shlex.quote(f"{key}={value}")
