import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # oversubscribed, torch is many times slower

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)

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
