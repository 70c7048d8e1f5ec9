"""Units that track a property are found, none is by chance, and a page shows them."""

import numpy as np
import pytest
from scipy import stats

from captioner.analysis import neurons, neurons_page
from captioner.analysis.activations import Reading
from captioner.commands.main import main
from tests.helpers.models import tiny_language_model

NAMES = [f"unit {u}" for u in range(30)]


def readings(count=20, T=200, U=30, seed=0):
    """Unit 7 knows the number, unit 11 the mark (upside down); nobody knows the third."""
    rng = np.random.default_rng(seed)
    documents = []
    for n in range(count):
        state_TU = rng.normal(size=(T, U))
        number, mark, none = rng.normal(size=T), rng.random(T) < 0.2, rng.random(T) < 0.5
        state_TU[:, 7] = number + 0.1 * rng.normal(size=T)
        state_TU[:, 11] = -3.0 * mark + rng.normal(size=T)
        number[::5] = np.nan
        values = {"number": number, "mark": mark.astype(float), "none": none.astype(float)}
        documents.append(Reading(["x"] * T, state_TU, values | {"always": np.ones(T)}, n))
    return documents


def test_the_best_unit_is_found_and_chance_finds_none():
    matches = {match.name: match for match in neurons.find_units(readings(), NAMES)}
    assert set(matches) == {"number", "mark", "none"}  # "always" cannot be told
    number, mark, none = matches["number"], matches["mark"], matches["none"]
    assert number.unit == 7 and number.measure == "rho" and number.score > 0.95
    assert mark.unit == 11 and mark.measure == "AUC" and mark.score < 0.05
    assert abs(none.score - 0.5) < 0.06 and abs(number.control) < 0.06
    assert abs(mark.control - 0.5) < 0.06 and abs(none.control - 0.5) < 0.06


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
    expected = [stats.spearmanr(x, number_P).statistic for x in state_PU.T]
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
    documents = [
        Reading(["x"] * 40, np.stack([np.arange(40.0), noise], 1), {"place": np.arange(40.0)}, n)
        for n, noise in enumerate(np.random.default_rng(0).normal(size=(20, 40)))
    ]
    (one,) = neurons.find_units(documents, ["counts", "noise"])
    assert one.label == "counts" and one.score > 0.99 and abs(one.control) < 0.3


def test_what_documents_have_in_common_is_in_the_control():
    """Units and a property that are constant in a document, which is read in three pieces: few
    documents agree by chance."""
    rng = np.random.default_rng(0)
    far = []
    for _ in range(20):
        pieces = []
        for n in range(20):
            state_TU = np.tile(rng.normal(size=500), (50, 1))
            pieces += [Reading(["x"] * 50, state_TU, {"it": np.full(50, n % 2.0)}, n)] * 3
        (one,) = neurons.find_units(pieces, [str(u) for u in range(500)])
        far.append((abs(one.score - 0.5), abs(one.control - 0.5)))
    scores, controls = np.mean(far, axis=0)
    assert scores > 0.1 and 0.5 < controls / scores < 2


def test_what_stands_late_in_long_documents_has_a_control():
    """Short documents beside long ones, with a mark that only the long ones reach."""
    documents = []
    for reading, length in zip(readings(24), [20, 100] * 12):
        late = {"late": (np.arange(length) > 50) * 1.0}
        documents.append(reading._replace(values=late, state_TU=reading.state_TU[:length]))
    (one,) = neurons.find_units(documents, NAMES)
    assert 0 <= one.control <= 1


def test_the_command_on_text_and_on_captions(tmp_path, model_dir, scenes_dir, capsys):
    model = tiny_language_model(layers=1)
    model.decoder.float()
    model.save(tmp_path / "lm")
    for n in range(30):
        (tmp_path / f"{n}.txt").write_text("the cat sat on the mat\nthe dog\n" * 4)
    (tmp_path / "one.md").write_text("the cat sat on the mat\nthe dog\n" * 5000)
    out = tmp_path / "sub/page.html"

    def run(model, data, *more):
        return main(["neurons", str(model), str(data), f"--out={out}", *more])

    assert run(tmp_path / "lm", tmp_path, "--pattern=*.txt", "--val-share=0") == 0
    assert "position in the line" in capsys.readouterr().out
    page = out.read_text()
    assert page.startswith("<!doctype html>") and "position in the line" in page
    assert "http" not in page
    assert run(tmp_path / "lm", tmp_path / "one.md") == 0
    assert "position in the line" in capsys.readouterr().out
    assert run(model_dir, scenes_dir, "--split=train") == 0
    assert "position in the sentence" in capsys.readouterr().out
    assert "data:image/jpeg" in out.read_text()
    assert run(tmp_path / "lm", tmp_path / "none") == 2
    assert "no such file" in capsys.readouterr().err


def test_text_on_the_page_is_escaped():
    documents = [reading._replace(units=["<b>"] * 200) for reading in readings()]
    page = neurons_page.render_page(documents, neurons.find_units(documents, NAMES))
    assert "<b>" not in page and "&lt;b&gt;" in page
