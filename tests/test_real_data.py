"""The thinnest road on real photographs: 200 of Flickr8k in, 200 of COCO captioned."""

import json

import pytest

import captioner
import eval as eval_command
import train as train_command
from captioner.data import records
from tests.helpers.runs import run


@pytest.mark.slow
def test_two_hundred_photographs_are_enough_to_beat_the_blind(real_data, tmp_path):
    options = [
        f"data.root={real_data / 'flickr8k'}", f"data.cache={tmp_path / 'cache'}", "data=flickr8k",
        "data.limit=200", "decoder.hidden_size=128", "decoder.embed_size=128", "optimizer.lr=0.005",
        "data.batch_size=8", "trainer.max_epochs=25", "trainer.check_val_every_n_epoch=5",
    ]  # fmt: skip
    seeing = run(train_command, *options, f"run_dir={tmp_path / 'seeing'}")
    blind = run(train_command, *options, "encoder=blind", f"run_dir={tmp_path / 'blind'}")
    assert seeing > 1.3 * blind > 0

    model = tmp_path / "seeing" / "model"
    zero_shot = run(
        eval_command, f"model={model}", "data=coco", f"data.root={real_data / 'coco_sample'}",
        f"data.cache={tmp_path / 'cache'}", f"run_dir={tmp_path / 'coco'}",
    )  # fmt: skip
    predictions = json.loads((tmp_path / "coco" / "predictions.json").read_text())
    assert len(predictions) == len({p["image_id"] for p in predictions}) == 200
    assert zero_shot > 0
    paths = [record.image for record in records.read_records(real_data / "coco_sample")[:20]]
    captions = captioner.load(model).caption(paths)
    assert all(c.error is None and c.caption for c in captions)
