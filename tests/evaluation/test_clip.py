"""CLIPScore by hand; open_clip as the embedder, small and untrained."""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from captioner.errors import InputError, Unavailable
from captioner.evaluation import clip
from captioner.metrics.clipscore import clip_score


def test_by_hand():
    image_BD = np.array([[2.0, 0], [0, 3]])
    caption_BD = np.array([[3.0, 4], [0, -1]])
    reference_RD = np.array([[1.0, 0], [4, 3], [0, -5]])
    scores = clip_score(image_BD, caption_BD, reference_RD, np.array([0, 0, 1]))
    score, best = 2.5 * 3 / 5, (3 * 4 + 4 * 3) / 25  # the second of the two references
    reference = 2 * score * best / (score + best)
    np.testing.assert_allclose(scores.per_image(), [[score, reference], [0, 0]])
    assert scores.corpus() == pytest.approx({"CLIPScore": score / 2, "RefCLIPScore": reference / 2})


def test_half_precision_is_enough_to_be_normalised():
    vectors = np.full((1, 512), 300, np.float16)  # whose squares would be infinite
    scores = clip_score(vectors, vectors, vectors, np.array([0]))
    assert scores.corpus()["CLIPScore"] == pytest.approx(2.5)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A CLIP of open_clip's own with random weights, by name and file."""
    open_clip = pytest.importorskip("open_clip")
    folder = tmp_path_factory.mktemp("clip")
    sizes = {"width": 64, "layers": 1}
    config = {
        "embed_dim": 8,
        "vision_cfg": sizes | {"image_size": 32, "patch_size": 16},
        "text_cfg": sizes | {"context_length": 77, "heads": 1, "vocab_size": 49408},
    }
    (folder / "small-test.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / "small-test.json")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*No pretrained weights")
        torch.manual_seed(0)
        model = open_clip.create_model("small-test")
    torch.save(model.state_dict(), folder / "weights.pt")
    return clip.OpenClip("small-test", str(folder / "weights.pt"))


def test_a_picture_and_a_caption_have_vectors_in_one_space(small, scenes_dir):
    paths = sorted((scenes_dir / "images").iterdir())[:3]
    image_BD, text_ND = small.images(paths), small.texts(["a red circle", "a blue star", "x"])
    assert image_BD.shape == text_ND.shape == (3, 8)
    np.testing.assert_allclose(small.images(paths[1:2]), image_BD[1:2], atol=1e-5)
    np.testing.assert_allclose(small.texts(["a blue star"]), text_ND[1:2], atol=1e-5)
    assert not np.allclose(text_ND[0], text_ND[1])


def test_a_long_caption_is_cut_before_its_end_of_text(small):
    """77 tokens: start, the 75 first of the text, end, where the embedding is read."""
    long = "word " * 200
    tokens = small.tokenizer([clip.PREFIX + long])[0]
    end = small.tokenizer.eot_token_id
    assert len(tokens) == 77 and tokens[-1] == end and end not in tokens[:-1]
    np.testing.assert_allclose(small.texts([long]), small.texts([long + "other"]), atol=1e-6)
    shorter = "word " * 71  # and the prefix's three words: one token less
    assert not np.allclose(small.texts([long]), small.texts([shorter]), atol=1e-6)


def test_openais_weights_get_the_activation_that_they_were_trained_with(monkeypatch):
    """Or open_clip warns of a mismatch, and the scores are not the paper's."""
    open_clip = pytest.importorskip("open_clip")
    asked = []

    def create(name, **options):
        asked.append(options)
        raise RuntimeError("seen enough")

    monkeypatch.setattr(open_clip, "create_model_and_transforms", create)
    for weights in ("openai", "laion2b_s34b_b79k", "file.pt"):
        with pytest.raises(InputError, match="seen enough"):
            clip.OpenClip("ViT-B-32", weights)
    assert [options["force_quick_gelu"] for options in asked] == [True, False, False]


def test_what_open_clip_cannot_load_is_named_and_no_code_runs(small, tmp_path):
    class Code:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"x": Code()}, tmp_path / "code.pt")
    (tmp_path / "broken.pt").write_bytes(b"no weights")
    for name, weights, message in (
        ("small-test", "code.pt", "code.pt"),
        ("small-test", "broken.pt", "broken.pt"),
        ("no-such-model", "code.pt", "clip.name=no-such-model"),
    ):
        with pytest.raises(InputError, match=message):
            clip.OpenClip(name, str(tmp_path / weights))
    assert not (tmp_path / "ran").exists()


def test_without_open_clip_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(Unavailable, match=r"pip install captioner\[clip\]"):
        clip.OpenClip("ViT-B-32", "openai")
