"""Units that track a property are found, none is by chance, and a page shows them."""

import numpy as np
import pytest

from captioner.analysis import neurons, neurons_page
from captioner.analysis.activations import Reading
from captioner.commands.main import main
from tests.helpers.models import tiny_language_model

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


def mean_ranks(x_P):
    """Ranks by np.unique, as they were computed before scipy did."""
    _, which_P, count = np.unique(x_P, return_inverse=True, return_counts=True)
    return (count.cumsum() - (count + 1) / 2)[which_P]


@pytest.mark.parametrize("seed", range(5))
def test_scores_equal_their_formulas(seed):
    """AUC is the share of pairs in order; rho the correlation of ranks, whatever the scale."""
    rng = np.random.default_rng(seed)
    state_PU, mark_P = rng.integers(-9, 9, (60, 3)) / 3.0, (rng.random(60) < 0.4).astype(float)
    zeros_PU, ones_PU = state_PU[mark_P == 0], state_PU[mark_P == 1]
    order = np.sign(ones_PU[:, None] - zeros_PU) / 2 + 0.5  # a tie is half in order
    auc_U = neurons._scores(state_PU, mark_P, False) + 0.5
    np.testing.assert_allclose(auc_U, order.mean((0, 1)), atol=1e-12)
    number_P = rng.integers(0, 9, 60) - state_PU[:, 0]
    expected = [np.corrcoef(mean_ranks(x), mean_ranks(number_P))[0, 1] for x in state_PU.T]
    for scaled_PU in (state_PU, state_PU**3):
        rho_U = neurons._scores(scaled_PU, number_P, True)
        np.testing.assert_allclose(rho_U, expected, atol=1e-12)


def test_what_never_changes_has_no_score():
    value_P = np.array([1.0] * 100 + [0.0] * 300)
    for numeric in (False, True):
        assert neurons._scores(np.zeros((400, 2)), value_P, numeric).tolist() == [0.0, 0.0]
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
