"""What the commands of data_prep leave, as train.py reads it."""

import io
import shlex

from hydra import compose, initialize_config_dir
from PIL import Image

from captioner.experiment import schemas, sources
from tests.helpers.forks import ROOT


def jpeg(seed: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (40 * seed, 90, 200)).save(file, "JPEG")
    return file.getvalue()


def composed(command: str):
    """The data that the printed command would train on, as train.py reads it."""
    program, script, *overrides = shlex.split(command)
    assert (program, script) == ("python", "train.py")
    schemas.register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", overrides).data


def pictures_read(command: str) -> dict[str, list[str]]:
    data = composed(command)
    splits = (data.train_split, data.val_split)
    return {split: [r.image.name for r in sources.read_records(data, split)] for split in splits}
