"""Laws of scenes and their pictures."""

from dataclasses import replace

import numpy as np
import pytest

from captioner.scenes import Scene, scene
from captioner.scenes.drawing import COLOURS, HELD_OUT, SHAPES, SPLITS, TEXTURES, render
from tests.helpers.scenes import DRAWN, a_scene, thing


def test_test_pictures_hold_pairs_never_seen_in_training():
    pairs = {
        split: [{(t.shape, t.colour) for t in scene(0, split, i).things} for i in range(300)]
        for split in SPLITS
    }
    train, held_out = set().union(*pairs["train"]), set(HELD_OUT)
    assert not held_out & train.union(*pairs["val"])
    assert all(held_out & pair for pair in pairs["test"])
    assert {word for pair in held_out for word in pair} <= {word for pair in train for word in pair}


def test_shapes_neither_touch_nor_leave_the_picture():
    for drawn in DRAWN:
        for i, a in enumerate(drawn.things):
            assert min(a.x, a.y, 1 - a.x, 1 - a.y) > a.radius
            assert all(
                np.hypot(a.x - b.x, a.y - b.y) > a.radius + b.radius for b in drawn.things[:i]
            )


@pytest.mark.parametrize("texture", TEXTURES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_shows_its_colour_inside_and_the_background_outside(texture, shape):
    for seed, (colour, rgb) in enumerate(COLOURS.items()):
        drawn = Scene((thing(colour, shape, size="large"),), texture, seed)
        picture = np.asarray(render(drawn)).astype(int)
        bare = np.asarray(render(replace(drawn, things=()))).astype(int)
        assert picture.shape == (224, 224, 3)
        assert np.abs(picture[108:116, 108:116] - rgb).max() <= 12
        far = np.hypot(*(np.mgrid[:224, :224] - 112)) > 0.12 * 224 + 2
        assert (picture == bare)[far].all()
        assert np.abs(bare - rgb).max(-1).min() > 40  # visible everywhere


def test_anti_aliasing():
    picture = np.asarray(render(a_scene(thing("black", size="large")))).astype(int)[..., 0]
    assert len(np.unique(picture)) > 20  # a plain background, a fill, an edge, and what is between
