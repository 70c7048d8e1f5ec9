"""The end of a preparation: its exit code, and a summary of the records as training reads them."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from captioner import shell
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
    paths = {"data.root": root.resolve(), "data.annotations": annotations}
    options = [f"data={data}", *(shell.override(key, path) for key, path in paths.items())]
    if {"train", "val"} <= set(splits):
        say(shell.command("python", "train.py", *options))
    else:
        say(shell.command("python", "eval.py", "model=MODEL", *options, f"split={splits[0]}"))
