import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # oversubscribed, torch is many times slower

from pathlib import Path

import pytest
import torch

from tests.helpers import forks

pytest_plugins = ["tests.helpers.budget"]
torch.set_num_threads(1)
os.fsync = lambda file: None  # no test cuts the power; a disk may take seconds


def pytest_configure(config):
    """One server of processes for all workers of pytest-xdist."""
    if not hasattr(config, "workerinput"):
        config.forks = forks.start_server()


def pytest_unconfigure(config):
    if getattr(config, "forks", None):
        forks.stop_server(config.forks)


DATA = Path(os.environ.get("CAPTIONER_DATA", Path(__file__).parents[1] / "../shared/data"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real photographs and golden values; their place is given by CAPTIONER_DATA."""
    if not DATA.is_dir():
        pytest.skip(f"no data at {DATA}: set CAPTIONER_DATA")
    return DATA.resolve()


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def server():
    """A local HTTP server; see served.py."""
    from tests.helpers.served import Server

    server = Server()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def scenes_dir(tmp_path_factory) -> Path:
    """A small copy of the embedded data set."""
    from captioner import scenes

    folder = tmp_path_factory.mktemp("scenes")
    scenes.write_scenes(folder, train=20, val=8, test=4)
    return folder


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory, scenes_dir) -> Path:
    """An untrained captioner with the default encoder, saved."""
    from captioner import tokenizers
    from captioner.data import records
    from captioner.models import caption_model

    train = records.read_records(scenes_dir, "train")
    tokenizer = tokenizers.train_tokenizer(text for record in train for text in record.captions)
    encoder = {"_target_": "captioner.encoders.Timm", "weights": "pip", "image_size": 64}
    decoder = {"_target_": "captioner.decoders.recurrent.Recurrent"}
    decoder |= {"embed_size": 16, "hidden_size": 16}
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(1)
    model = caption_model.build_captioner({"encoder": encoder, "decoder": decoder}, tokenizer)
    model.save(folder)
    return folder
