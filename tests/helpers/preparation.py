"""What the commands of data_prep are given, and what they leave, as train.py reads it."""

import io
import shlex
import tarfile
import zipfile
from pathlib import Path

from PIL import Image

from captioner.experiment import sources
from tests.helpers import runs
from tests.helpers.pictures import encode


def jpeg(seed: int) -> bytes:
    return encode(Image.new("RGB", (8, 8), (40 * seed, 90, 200)), "JPEG")


def zipped(path: Path, files, method=zipfile.ZIP_DEFLATED) -> Path:
    """A zip of these names (or ZipInfos) and bytes: a dict, or pairs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in files.items() if isinstance(files, dict) else files:
            file.writestr(name, data)
    return path


def tarred(path: Path, files) -> Path:
    """A tar of these names (or TarInfos) and bytes, packed if it is called .gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as file:
        for name, data in files.items() if isinstance(files, dict) else files:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def composed(command: str):
    """The data that the printed command would train on, as train.py reads it."""
    program, script, *overrides = shlex.split(command)
    assert (program, script) == ("python", "train.py")
    return runs.composed(*overrides).data


def pictures_read(command: str) -> dict[str, list[str]]:
    data = composed(command)
    splits = (data.train_split, data.val_split)
    return {split: [r.image.name for r in sources.read_records(data, split)] for split in splits}
