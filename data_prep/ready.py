"""The last step of a preparation: read the records as training will, and say how to go on."""

import re
import shlex
from collections import Counter
from pathlib import Path

from captioner import records


def report(data: str, root: Path, annotations: str, splits: list[str]) -> None:
    """Prints the number of pictures and captions of each split, and the command that comes next.

    Raises InputError where records.read does: a picture is missing, or a caption file is broken.
    """
    found = records.read(root, captions=annotations)
    pictures = Counter(record.split for record in found)
    captions = Counter(record.split for record in found for _ in record.captions)
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
