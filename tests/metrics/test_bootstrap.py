"""Intervals and paired tests against formulas, exact enumeration, and laws."""

import itertools
import math

import numpy as np
import pytest

from captioner.errors import InputError
from captioner.metrics import bootstrap
from captioner.metrics.bleu import bleu
from captioner.metrics.ngrams import References
from captioner.metrics.statistics import as_text, mean, shares

RNG = np.random.default_rng(0)


def test_the_interval_of_a_mean_is_that_of_the_normal_law():
    value_B = RNG.normal(0.3, 0.2, 4000)
    ((low, high),) = bootstrap.intervals([mean("x", value_B)], 4000).values()
    error = value_B.std() / math.sqrt(len(value_B))
    assert low == pytest.approx(value_B.mean() - 1.96 * error, abs=0.12 * error)
    assert high == pytest.approx(value_B.mean() + 1.96 * error, abs=0.12 * error)


def test_bleu_is_resampled_by_its_counts():
    """A resample's BLEU is that of the corpus with the images drawn, not a mean of images."""
    words = [" ".join(RNG.choice(list("abcd"), 8)) for _ in range(30)]
    references = [[" ".join(RNG.choice(list("abcd"), 8)) for _ in range(2)] for _ in range(30)]
    sums = bleu(References(references).match(words))
    drawn = RNG.integers(0, 30, 30)
    again = bleu(References([references[i] for i in drawn]).match([words[i] for i in drawn]))
    of_drawn = sums.score(sums.image_BS[drawn].sum(0))
    np.testing.assert_allclose(of_drawn, list(again.corpus().values()), rtol=1e-12)
    intervals = bootstrap.intervals([sums], 500)
    for name, value in sums.corpus().items():
        low, high = intervals[name]
        assert low < value < high
    assert not intervals["Bleu_4"][0] < sums.per_image()[:, 3].mean() < intervals["Bleu_4"][1]


def test_the_paired_interval_is_that_of_the_differences():
    """Two systems that differ by 0.01 on every image: surely, though each varies far more."""
    value_B = RNG.random(500)
    result = bootstrap.compare([mean("x", value_B + 0.01)], [mean("x", value_B)], 1000)["x"]
    assert result[2:] == pytest.approx((0.01, 0.01, 0.01, 1 / 1001))
    itself = bootstrap.compare([mean("x", value_B)], [mean("x", value_B)], 100)["x"]
    assert itself[2:] == (0, 0, 0, 1)


def test_the_p_value_is_that_of_all_swaps():
    a_B, b_B = RNG.random(10), RNG.random(10)
    observed = abs((a_B - b_B).mean())
    signs = np.array(list(itertools.product([1, -1], repeat=10)))
    exact = np.mean(abs((signs * (a_B - b_B)).mean(1)) >= observed - 1e-12)
    result = bootstrap.compare([mean("x", a_B)], [mean("x", b_B)], 5000)["x"]
    assert result.p == pytest.approx(exact, abs=0.02)


def test_what_has_no_value_in_some_images_or_in_any():
    part_B1, whole_B1 = np.array([[1.0], [0], [0]]), np.array([[2.0], [0], [0]])
    sums = shares(["x"], part_B1, whole_B1)
    assert sums.corpus() == {"x": 0.5} and np.isnan(sums.per_image()[1:]).all()
    assert bootstrap.intervals([sums], 200)["x"] == (0.5, 0.5)  # some resamples have none
    result = bootstrap.compare([sums], [shares(["x"], 0 * part_B1, 0 * whole_B1)], 100)["x"]
    assert np.isnan(result.difference) and np.isnan(result.p)
    nothing = shares(["x"], np.zeros((3, 1)), np.zeros((3, 1)))
    assert np.isnan(bootstrap.intervals([nothing], 100)["x"]).all()


def test_the_same_seed_gives_the_same_and_other_metrics_change_nothing():
    a, b = mean("a", RNG.random(60)), mean("b", RNG.random(60))
    both = bootstrap.intervals([a, b], 200, seed=3)
    assert both["b"] == pytest.approx(bootstrap.intervals([b], 200, seed=3)["b"])
    assert both["b"] != bootstrap.intervals([b], 200, seed=4)["b"]
    with pytest.raises(InputError, match="resamples=10"):
        bootstrap.intervals([b], 10)


def test_values_are_printed_by_what_they_are():
    named = {"CIDEr": 0.521, "vocabulary": 687.0, "median_rank": 3.5, "perplexity": 18.377}
    assert [as_text(n, v) for n, v in named.items()] == ["52.1", "687", "3.5", "18.38"]
    assert as_text("CIDEr", None) == as_text("CIDEr", float("nan")) == "-"
