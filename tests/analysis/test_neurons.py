"""Units that tell a property are found, and nothing is found by chance."""

import numpy as np
import pytest
import torch

from captioner.analysis import activations, neurons, neurons_page, properties
from captioner.analysis.activations import Reading
from captioner.commands.main import main
from captioner.data import text
from tests.helpers.models import tiny_language_model

CODE = '''"""A module's page."""
import os  # for "paths"

if os.name == "nt":
    x = ['a, b', f"{1}", 3]
'''


def marked(name):
    """The characters for which it is 1."""
    value = properties.of_text(CODE, code=True)[name]
    return "".join(c if v == 1 else "." for c, v in zip(CODE, value))


def test_strings_comments_and_conditions_of_python():
    lines = marked("inside a string").split("\n") if "\n" in marked("inside a string") else None
    assert lines is None  # no line break stands in a string here
    assert (
        marked("inside a string").replace(".", "")
        == '"""A module\'s page""' + '"nt' + "'a, b" + 'f"{1}'
    )
    assert marked("inside a comment").strip(".") == '# for "paths"'
    assert marked("inside the condition of an if").strip(".") == 'if os.name == "nt"'
    values = properties.of_text(CODE, code=True)
    at = CODE.index("x = ")
    assert values["indentation of the line"][at] == 4
    assert np.isnan(values["indentation of the line"][at - 1])
    assert values["position in the line"][at] == 4
    assert values["depth of brackets"][CODE.index('f"')] == 1
    assert values["depth of brackets"][-1] == 0


def test_brackets_in_comments_and_strings_do_not_count():
    code = "x = f(1)  # see below (really)\ny = [')', 1]\n"
    depth = properties.of_text(code, code=True)["depth of brackets"]
    assert depth[-1] == 0 and depth[code.index("'") + 3] == 1 and depth.max() == 1


def test_quotes_and_words_of_prose():
    said = 'He said "no, not I" and left.'
    values = properties.of_text(said, code=False)
    inside = "".join(c for c, v in zip(said, values["inside quotes"]) if v)
    assert inside == '"no, not I'
    ends = "".join(c for c, v in zip(said, values["last letter of a word"]) if v == 1)
    assert ends == "edotIdt"


def test_properties_of_a_caption():
    words = "two dogs running on a red ball".split()
    values = properties.of_caption(words, ["a dog and a man"], ["dog", "cat"])
    told = {name: [w for w, v in zip(words, value) if v == 1] for name, value in values.items()}
    assert told["a number"] == ["two"] and told["an object"] == ["dogs", "ball"]
    assert told["a verb in -ing"] == ["running"] and told["a preposition"] == ["on"]
    assert told["an article"] == ["a"] and told["a colour"] == ["red"]
    assert told["dog in the picture"] == words and told["cat in the picture"] == []
    assert values["position in the sentence"].tolist() == list(range(7))


NAMES = [f"unit {u}" for u in range(30)]


def readings(count=20, T=200, U=30, seed=0):
    """Unit 7 knows the number, unit 11 the mark (upside down); nobody knows the third."""
    rng = np.random.default_rng(seed)
    made = []
    for n in range(count):
        state_TU = rng.normal(size=(T, U))
        number, mark, none = rng.normal(size=T), rng.random(T) < 0.2, rng.random(T) < 0.5
        state_TU[:, 7] = number + 0.1 * rng.normal(size=T)
        state_TU[:, 11] = -3.0 * mark + rng.normal(size=T)
        number[::5] = np.nan
        values = {"number": number, "mark": mark.astype(float), "none": none.astype(float)}
        made.append(Reading(["x"] * T, state_TU, values | {"always": np.ones(T)}, n))
    return made


def test_the_best_unit_is_found_and_chance_finds_none():
    found = {one.name: one for one in neurons.find_units(readings(), NAMES)}
    assert set(found) == {"number", "mark", "none"}  # "always" cannot be told
    assert (found["number"].unit, found["mark"].unit) == (7, 11)
    assert found["number"].numeric and found["number"].score > 0.95
    assert not found["mark"].numeric and found["mark"].score < 0.05
    assert abs(found["none"].score - 0.5) < 0.06
    for one in found.values():
        assert abs(one.control - (0 if one.numeric else 0.5)) < 0.06


def test_auc_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng(1)
    state_PU, value_P = rng.normal(size=(60, 3)), (rng.random(60) < 0.4).astype(float)
    expected = [
        np.mean([[a > b for b in column[value_P == 0]] for a in column[value_P == 1]])
        for column in state_PU.T
    ]
    assert neurons._scores(state_PU, value_P, False) + 0.5 == pytest.approx(np.array(expected))


def test_rho_is_the_correlation_of_ranks():
    x_P, value_P = np.array([0.1, 5.0, 0.3, 0.3, -9.0]), np.array([2, 7, 2, 4, 0])
    order = np.array([1, 4, 2.5, 2.5, 0]), np.array([1.5, 4, 1.5, 3, 0])  # equal ones share ranks
    (rho,) = neurons._scores(x_P[:, None], value_P, True)
    assert rho == pytest.approx(np.corrcoef(*order)[0, 1])
    (of_cube,) = neurons._scores(x_P[:, None] ** 3, value_P, True)
    assert of_cube == pytest.approx(rho)


def test_a_unit_that_never_moves_tells_nothing():
    value_P = np.array([1.0] * 100 + [0.0] * 300)
    assert neurons._scores(np.zeros((400, 2)), value_P, False).tolist() == [0.0, 0.0]
    assert neurons._scores(np.zeros((400, 2)), value_P, True).tolist() == [0.0, 0.0]


def test_where_nothing_differs_there_is_no_score():
    for value in (0, 1):
        assert np.isnan(neurons._scores(np.random.rand(9, 2), np.full(9, value), False)).all()


def test_what_is_the_same_in_all_documents_is_not_in_the_control():
    """A unit that counts, as in every document."""
    made = [
        Reading(["x"] * 40, np.stack([np.arange(40.0), noise], 1), {"place": np.arange(40.0)}, n)
        for n, noise in enumerate(np.random.default_rng(0).normal(size=(20, 40)))
    ]
    (one,) = neurons.find_units(made, ["counts", "noise"])
    assert one.label == "counts" and one.score > 0.99 and abs(one.control) < 0.3


def test_what_documents_have_in_common_is_in_the_control():
    """Units and a property that are constant in a document, which is read in three pieces: few
    documents agree by chance."""
    rng = np.random.default_rng(0)
    far = []
    for _ in range(20):
        documents = [
            Reading(
                ["x"] * 50, np.tile(rng.normal(size=500), (50, 1)), {"it": np.full(50, n % 2.0)}, n
            )
            for n in range(20)
        ]
        made = [piece for document in documents for piece in [document] * 3]
        (one,) = neurons.find_units(made, [str(u) for u in range(500)])
        far.append((abs(one.score - 0.5), abs(one.control - 0.5)))
    scores, controls = np.mean(far, axis=0)
    assert scores > 0.1 and 0.5 < controls / scores < 2


def test_what_stands_late_in_long_documents_has_a_control():
    """Short documents beside long ones, with a mark that only the long ones reach."""
    made = [
        one._replace(
            values={"late": (np.arange(length) > 50).astype(float)},
            state_TU=one.state_TU[:length],
            document=n,
        )
        for n, (one, length) in enumerate(zip(readings(24), [20, 100] * 12))
    ]
    (one,) = neurons.find_units(made, NAMES)
    assert 0 <= one.control <= 1


def test_pieces_are_read_with_what_stands_before_them(tmp_path, monkeypatch):
    """Units, values and states of each piece are those of the whole text."""
    monkeypatch.setattr(activations, "LENGTH", 60)
    monkeypatch.setattr(activations, "WARM_UP", 25)
    model = tiny_language_model(layers=1)
    model.decoder.float()
    whole = "".join(f"the cat {'on' * (n % 4)} Zé\n# the mat" + "\n" * (n % 3) for n in range(12))
    (tmp_path / "a.py").write_bytes(b"\xef\xbb\xbf" + whole.replace("\n", "\r\n").encode())
    some = text.documents(str(tmp_path))
    made = activations.read_texts(model, some, 99)
    assert [u for reading in made for u in reading.units] == model.tokenizer.split(whole)
    assert len({reading.document for reading in made}) == len(made) > 3  # too few documents
    told = properties.of_text(whole, code=True)
    for number, reading in enumerate(made):
        begin = 60 * number
        for name, value in reading.values.items():
            np.testing.assert_array_equal(value, told[name][begin : begin + 60])
        read = whole[max(0, begin - 25) : begin + 60]
        memory, state = model.decoder.start(None, 1)
        with torch.no_grad():
            for token in [1, *model.tokenizer.encode(read)]:
                _, state = model.decoder.step(torch.tensor([token]), memory, state)
        expected = torch.cat([state["h0"][0], state["c0"][0]]).numpy()
        assert reading.state_TU[-1] == pytest.approx(expected, abs=1e-5)


def test_states_are_those_after_each_character(tmp_path):
    model = tiny_language_model(layers=2)
    model.decoder.float()
    (tmp_path / "a.txt").write_text("the cat sat\n")
    (tmp_path / "b.txt").write_text("on the mat, the dog\n")
    some = text.documents(str(tmp_path))
    for reading in activations.read_texts(model, some, 9):
        content = "".join(reading.units)
        memory, state = model.decoder.start(None, 1)
        with torch.no_grad():
            for at, token in enumerate([1, *model.tokenizer.encode(content)]):
                _, state = model.decoder.step(torch.tensor([token]), memory, state)
                if at:
                    expected = torch.cat([state[name][0] for name in ("h0", "c0", "h1", "c1")])
                    assert reading.state_TU[at - 1] == pytest.approx(expected.numpy(), abs=1e-5)
    assert activations.unit_labels(model)[7 * 3 + 2] == "c1[2]"


def test_the_command_on_text_and_on_captions(tmp_path, model_dir, scenes_dir, capsys):
    model = tiny_language_model(layers=1)
    model.decoder.float()
    model.save(tmp_path / "lm")
    for n in range(30):
        (tmp_path / f"{n}.txt").write_text("the cat sat on the mat\nthe dog\n" * 4)
    out = tmp_path / "sub/page.html"
    order = [str(tmp_path / "lm"), str(tmp_path), "--pattern=*.txt", f"--out={out}"]
    assert main(["neurons", *order, "--val-share=0"]) == 0
    assert "position in the line" in capsys.readouterr().out
    page = out.read_text()
    assert (
        page.startswith("<!doctype html>") and "http" not in page and "position in the line" in page
    )
    (tmp_path / "one.md").write_text("the cat sat on the mat\nthe dog\n" * 5000)
    one = [str(tmp_path / "lm"), str(tmp_path / "one.md"), f"--out={out}"]
    assert main(["neurons", *one]) == 0 and "position in the line" in capsys.readouterr().out
    assert main(["neurons", str(model_dir), str(scenes_dir), "--split=train", f"--out={out}"]) == 0
    assert "position in the sentence" in capsys.readouterr().out
    assert "data:image/jpeg" in out.read_text()
    assert main(["neurons", str(tmp_path / "lm"), str(tmp_path / "none")]) == 2
    assert "no such file" in capsys.readouterr().err


def test_text_on_the_page_is_escaped():
    some = [one._replace(units=["<b>"] * 200) for one in readings()]
    page = neurons_page.render_page(some, neurons.find_units(some, NAMES))
    assert "<b>" not in page and "&lt;b&gt;" in page
