"""The end of a preparation: its exit code, and a summary of the records as training reads them."""

import re
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from captioner.console import note, report, say
from captioner.data import records
from captioner.errors import InputError
from data_prep import disk


def exit_code(folder: Path, prepare: Callable[[], Sequence[str]]) -> int:
    """Prepare a folder under a lock, and report failures on stderr.

    Returns 0; 1 if `prepare` returns lines that say what is missing; 2 for an error; 130 after an
    interrupt.
    """
    try:
        with disk.lock(folder):
            missing = prepare()
    except InputError as error:
        return report(error)
    except KeyboardInterrupt:
        note("interrupted: run the command again and it goes on where it stopped")
        return 130
    for line in missing:
        note(line)
    return 1 if missing else 0


def print_summary(data: str, root: Path, annotations: str, splits: list[str]) -> None:
    """Print the number of pictures and captions of each split, and the next command to run.

    Raises InputError as records.read_records: a missing picture, a broken caption file.
    """
    entries = records.read_records(root, captions=annotations)
    pictures = Counter(record.split for record in entries)
    captions = Counter(record.split for record in entries for _ in record.captions)
    for split in splits:
        say(f"{split}: {pictures[split]:,} pictures, {captions[split]:,} captions")
    root_option = _override("data.root", str(root.resolve()))
    options = [f"data={data}", root_option, _override("data.annotations", annotations)]
    if {"train", "val"} <= set(splits):
        say(" ".join(["python train.py", *options]))
    else:
        say(" ".join(["python eval.py model=MODEL", *options, f"split={splits[0]}"]))


def _override(key: str, value: str) -> str:
    """Return KEY=VALUE, quoted for Hydra and for the shell."""
    if not re.fullmatch(r"[\w./*~+-]+", value, re.ASCII):
        # Hydra halves backslashes before a quote and at the end, and leaves others alone.
        value = "'" + re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + "\\'" * bool(m[2]), value) + "'"
    return shlex.quote(f"{key}={value}")
