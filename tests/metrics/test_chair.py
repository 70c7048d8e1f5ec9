"""CHAIR by hand, the words for COCO's 80 objects, and the file that lists a picture's objects."""

import json
import math
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioner.errors import InputError
from captioner.metrics.chair import chair, mentions, phrases, read_objects

COCO = """
person/people, bicycle, car, motorcycle, airplane, bus/buses, train, truck, boat, traffic light,
fire hydrant, stop sign, parking meter, bench/benches, bird, cat, dog, horse, sheep/sheep, cow,
elephant, bear, zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis/skis,
snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket,
bottle, wine glass/wine glasses, cup, fork, knife/knives, spoon, bowl, banana, apple,
sandwich/sandwiches, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch/couches,
potted plant, bed, dining table, toilet, tv, laptop, mouse/mice, remote, keyboard, cell phone,
microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors/scissors, teddy bear,
hair drier, toothbrush/toothbrushes
"""
NAMES = [name.strip().partition("/")[::2] for name in COCO.replace("\n", " ").split(",")]
WORDS = sorted({word for phrase, _ in phrases() for word in phrase.split()})


# --- the score


def test_by_hand():
    references = [["a man on a bench", "someone sits in a park"], ["a dog and a frisbee"]]
    references += [["nothing to see"], ["a red bus"]]
    captions = [
        "a woman and a dog on a bench near a dog",  # person, dog, bench, dog: two of four are not
        "a dog catches a frisbee near a car",  # one of three, but for the file
        "a wall",  # no mention
        "a train and a bus",  # one of two
    ]
    objects_B = [frozenset(), frozenset({"dog", "car"}), frozenset({"cat"}), frozenset()]
    sums = chair(references, captions, objects_B)
    assert sums.names == ("CHAIR_i", "CHAIR_s")
    assert sums.corpus() == {"CHAIR_i": 3 / 9, "CHAIR_s": 2 / 4}
    np.testing.assert_array_equal(sums.per_image(), [[2 / 4, 1], [0, 0], [math.nan, 0], [1 / 2, 1]])
    with pytest.raises(ValueError):
        chair(references, captions, objects_B[:3])


texts = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)


@given(st.lists(texts, min_size=1, max_size=4), st.data())
def test_a_reference_never_hallucinates(references, data):
    caption = data.draw(st.sampled_from(references))
    (i, s), *_ = chair([references], [caption], [frozenset()]).per_image()
    assert s == 0 and (i == 0 if mentions(caption) else math.isnan(i))


@given(texts, texts)
def test_mentions_are_of_the_80_and_the_file_can_allow_them_all(caption, reference):
    known = {name for name, _ in NAMES}
    assert set(mentions(caption)) <= known
    assert chair([[reference]], [caption], [frozenset(known)]).per_image()[0, 1] == 0
    bare = chair([[""]], [caption], [frozenset()])
    assert bare.image_BS[0].tolist() == [n := len(mentions(caption)), n > 0, n, 1]


# --- the table


def test_every_category_finds_itself_singular_and_plural():
    assert len(NAMES) == 80
    assert {category for _, category in phrases()} == {name for name, _ in NAMES} | {""}
    for name, plural in NAMES:
        article = "an" if name[0] in "aeiou" else "a"
        assert mentions(f"{article} {name}") == [name]
        assert mentions(f"two {plural or name + 's'} here") == [name]


def test_no_phrase_means_two_things_and_each_is_found():
    twice = [phrase for phrase, n in Counter(phrase for phrase, _ in phrases()).items() if n > 1]
    assert not twice
    for phrase, category in phrases():
        assert phrase == phrase.lower().strip()
        mentioned = mentions(phrase.removesuffix(" ."))
        assert mentioned == ([category] if category else []), (phrase, mentioned)


AWKWARD = """
: - | a fruit bat: - | mickey mouse: - | a boat house: - | two babies: person
a clock tower: clock | in the men 's room: - | a man in orange: person | a bus at a bus stop: bus
sliding into home plate: - | a glass table: dining table | a toy car on train tracks: -
an orange and white cat: cat | toilet paper on a sink: sink | a pair of scissors: scissors
geese and sheep: bird, sheep | he swings a bat: baseball bat | busses and knives: bus, knife
a bus stop by the bus station: - | a hot dog and a dog: hot dog, dog
apples and oranges: apple, orange | a sofa with couches: couch, couch
a stuffed dog and a cat puppet: - | a woman 's purse: person, handbag
trains at the train station: train | a man ties his bow tie: person, tie
dogmatic carpet tables: dining table | an orange and a banana: orange, banana
a toilet bowl and a bowl: toilet, bowl | cupcakes and a carrot cake: cake, cake
a computer mouse and mice: mouse, mouse | cake on a table top: cake, dining table
a baby elephant and its mother: elephant | a statue of a man near a horse statue: -
an orange cat in the orange car: cat, car | a stop sign under street signs: stop sign
a remote control and a remote area: remote | a teddy bear holds a bear: teddy bear, bear
police officers and firemen: person, person | a hot-dog beside a dog/cat: hot dog, dog, cat
a glass of wine beside her glasses: wine glass | a skier with skis on a ski slope: person, skis
a couple of zebras watch a couple: zebra, person
a fire truck by a fire hydrant: truck, fire hydrant
a dog-shaped cake and a man shaping it: cake, person
a tennis racket and a racket: tennis racket, tennis racket
a stop light and a traffic signal: traffic light, traffic light
a puppy dog: dog | a jumbo jet airplane: airplane | a dog cat dog: dog, cat, dog
a dog and a dog and a cat: dog, dog, cat | two boys and women: person, person
"""
"""Captions and the categories that they mention."""


@pytest.mark.parametrize("row", re.split(r"\n| \| ", AWKWARD.strip()))
def test_awkward_phrases(row):
    caption, _, categories = row.partition(": ")
    assert mentions(caption) == re.findall(r"[a-z][a-z ]*", categories)


def test_words_of_real_captions_are_found(real_data):
    golden = real_data / "metrics_golden" / "coco_topk_tokenized.json"
    references = list(json.loads(golden.read_text())["refs"].values())
    mentioned = [{name for text in texts for name in mentions(text)} for texts in references]
    assert np.mean([bool(names) for names in mentioned]) > 0.97
    assert len(set.union(*mentioned)) == 80
    first = [texts[0] for texts in references]
    human = chair([texts[1:] for texts in references], first, [frozenset()] * len(first)).corpus()
    # People agree: what one mentions, most often one of four others mentions too.
    assert 0.02 < human["CHAIR_i"] < 0.07
    mixed = chair(references[1:] + references[:1], first, [frozenset()] * len(first)).corpus()
    assert mixed["CHAIR_i"] > 0.5


# --- the file


def instances(**changes):
    annotations = [(1, 18, 0), (1, 1, 1), (1, 18, 0), ("three", 1, 0)]
    keys = "image_id", "category_id", "iscrowd"
    return {
        "images": [{"id": 1}, {"id": 2}, {"id": "three"}],
        "annotations": [dict(zip(keys, values)) for values in annotations],
        "categories": [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}],
    } | changes


@pytest.fixture
def read(tmp_path):
    """Writes instances.json and reads its objects."""

    def read(content):
        path = tmp_path / "instances.json"
        path.write_text(json.dumps(content))
        return read_objects(path)

    return read


def test_coco_itself_is_known_and_other_categories_are_named(read):
    assert read(instances()) == {1: {"person", "dog"}, 2: set(), "three": {"person"}}
    names = [name for name, _ in NAMES]
    categories = [{"id": i, "name": name} for i, name in enumerate(names)]
    assert read(instances(categories=categories, annotations=[]))
    categories[3:5] = [{"id": 3, "name": "aardvark"}, {"id": 4, "name": "abacus"}]
    with pytest.raises(InputError, match=r"instances\.json: categories 'aardvark', 'abacus' are"):
        read(instances(categories=categories))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"categories": 3}, "categories is '3'; expected list"),
        (instances(images=None), "images is 'None'; expected list"),
        (instances(images=[{"id": True}]), r"images\[0\]: id is 'True'; expected int or str"),
        (instances(images=[{"id": 1}, {"id": 1}]), r"images\[1\]: id 1 is that of another"),
        (instances(categories=[{"id": 1}]), r"categories\[0\]: key 'name' is missing"),
        (instances(images=[{"id": 1}]), r"annotations\[3\]: image_id 'three' is none of"),
        (instances(categories=[{"id": 1, "name": "dog"}]), r"annotations\[0\]: category_id 18 is"),
        (instances(annotations=[{"image_id": 1}]), r"annotations\[0\]: key 'category_id'"),
    ],
)
def test_broken_files_are_named_with_their_key(read, content, message):
    with pytest.raises(InputError, match=rf"instances\.json: .*{message}"):
        read(content)
