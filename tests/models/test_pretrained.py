"""The model that comes with the installation: what its card says, it is."""

import re

import pytest
import torch
from safetensors.torch import load_file

import captioner
from captioner import PRETRAINED
from captioner.data import records
from captioner.metrics.score import score


def test_it_is_small_and_brings_no_weights_that_pip_brings():
    tensors = load_file(PRETRAINED / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert not any(name.startswith("encoder.") for name in tensors)
    assert sum(file.stat().st_size for file in PRETRAINED.iterdir()) <= 24e6


def test_it_captions_without_being_asked_which(scenes_dir):
    picture = min((scenes_dir / "images").iterdir())
    (result,) = captioner.load().caption([picture])
    assert result.error is None and len(result.caption.split()) > 3


@pytest.mark.slow
def test_its_scores_are_those_of_its_card(real_data):
    """The whole of val, from pictures and not from a cache, as `caption` does it."""
    val = records.read_records(real_data / "flickr8k", "val")
    captions = captioner.load().caption([record.image for record in val])
    captions = {i: caption.caption for i, caption in enumerate(captions)}
    scores = score({i: list(record.captions) for i, record in enumerate(val)}, captions)["corpus"]
    card = (PRETRAINED / "README.md").read_text(encoding="utf-8")
    for name in ("BLEU-4", "CIDEr"):
        value = float(re.search(rf"{name} (\d+\.\d)", card)[1])
        assert 100 * scores[name.replace("BLEU-4", "Bleu_4")] == pytest.approx(value, abs=0.1)
