"""predictions.json: read, written, and made of what a search found."""

import pytest
import torch

import captioner
from captioner import search
from captioner.data import records
from captioner.data.batches import PixelSource
from captioner.errors import InputError
from captioner.evaluation import predictions
from captioner.types import EOS


@pytest.mark.parametrize(
    "text, message",
    [
        ("{}", "not a list"),
        (
            '[{"image_id": 1, "caption": "x"}, {"caption": "x"}]',
            "entry 1: key 'image_id'",
        ),
        ('[{"image_id": 1, "caption": 2}]', "entry 0: caption is '2'; expected str"),
        ('[{"image_id": 1, "caption": "x", "captions": "x"}]', "entry 0: captions is 'x'"),
        ('[{"image_id": 1, "caption": "x", "captions": [2]}]', r"entry 0: captions is \[2\]"),
        ('[{"image_id": 1, "caption": "x", "captions": ["\\ud800"]}]', "entry 0: half a character"),
        ('[{"image_id": 1, "caption": "x", "finished": 1}]', "entry 0: finished is 1"),
        ('[{"image_id": 1.0, "caption": "x"}]', "entry 0: image_id is '1.0'; expected int or str"),
        ("[3]", "entry 0"),
    ],
)
def test_a_broken_file_is_named(tmp_path, text, message):
    path = tmp_path / "predictions.json"
    with pytest.raises(InputError, match=r"predictions\.json: No such file"):
        predictions.read_predictions(path)
    path.write_text(text)
    with pytest.raises(InputError, match=rf"predictions\.json: .*{message}"):
        predictions.read_predictions(path)


@pytest.fixture(scope="module")
def predict(model_dir, scenes_dir):
    """predict(strategy, end) of an untrained model; end: the bias of END."""
    model = captioner.load(model_dir).double()
    val = records.read_records(scenes_dir, "val")[:5]
    source = PixelSource([record.image for record in val], model.encoder.preprocess)

    def predict(strategy, end):
        with torch.no_grad():
            model.decoder.W_hy.bias[EOS] = end
        return predictions.predict(model, val, source, strategy, 2)

    return predict


def test_the_official_format_holds_one_caption_of_each_and_others_best_first(predict, scenes_dir):
    single = predict(search.Beam(3), end=5.0)
    assert [list(entry) for entry in single] == [["image_id", "caption"]] * 5
    ids = [record.id for record in records.read_records(scenes_dir, "val")[:5]]
    assert [entry["image_id"] for entry in single] == ids
    several = predict(search.Beam(3, n=2), end=5.0)
    for entry, alone in zip(several, single, strict=True):
        assert entry["caption"] == alone["caption"] == entry["captions"][0]
        assert len(set(entry["captions"])) == 2


def test_what_was_cut_off_is_marked(predict):
    for strategy in (search.Greedy(4), search.Beam(3, max_length=4)):
        assert all(entry["finished"] is False for entry in predict(strategy, end=-50.0))
        assert all("finished" not in entry for entry in predict(strategy, end=50.0))
