"""Bradley-Terry strengths: the exact logit, a slow twin, and what happens without a finite maximum (oracle O3)."""

import math
import re

import numpy as np
import pytest

from tutelage.errors import DataError
from tutelage.evaluate.bradley_terry import fit_bradley_terry


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x)))


def test_two_items_give_the_exact_logit():
    fit = fit_bradley_terry([[0, 73], [27, 0]])
    assert fit.strengths[0] - fit.strengths[1] == pytest.approx(math.log(73 / 27), abs=1e-12)
    assert fit.note is None
    # Standard error of the difference is 1/sqrt(n p q); each of the two carries half of it.
    assert fit.errors == pytest.approx([0.5 / math.sqrt(100 * 0.73 * 0.27)] * 2)


def zermelo(w, rounds=20_000):
    """The slow twin: Zermelo's iteration of 1929, one item at a time."""
    k, s = len(w), np.ones(len(w))
    for _ in range(rounds):
        for i in range(k):
            s[i] = w[i].sum() / sum((w[i, j] + w[j, i]) / (s[i] + s[j]) for j in range(k) if j != i)
        s /= np.exp(np.log(s).mean())
    return np.log(s)


def test_many_items_equal_the_slow_twin():
    rng = np.random.default_rng(9)
    truth = rng.normal(0, 1, 6)
    w = np.zeros((6, 6))
    for i in range(6):
        for j in range(i):
            n = int(rng.integers(3, 9)) if (i + j) % 3 else 0  # not everybody meets
            w[i, j] = rng.binomial(n, sigmoid(truth[i] - truth[j])) + 0.5 * (n > 0)  # a tie apiece
            w[j, i] = n + (n > 0) - w[i, j]
    fit = fit_bradley_terry(w)
    assert fit.note is None
    np.testing.assert_allclose(fit.strengths, zermelo(w, 3000), atol=1e-6)
    order = rng.permutation(6)
    np.testing.assert_allclose(fit_bradley_terry(w[np.ix_(order, order)]).strengths, fit.strengths[order], atol=1e-9)
    np.testing.assert_allclose(fit_bradley_terry(w.T).strengths, -fit.strengths, atol=1e-9)


def test_strengths_come_back_from_many_comparisons():
    truth = np.array([1.2, 0.3, -0.4, -1.1])
    p = sigmoid(truth[:, None] - truth[None, :])
    fit = fit_bradley_terry(1e6 * p)
    np.testing.assert_allclose(fit.strengths, truth, atol=1e-9)


@pytest.mark.parametrize(
    ("wins", "why"),
    [
        ([[0, 3, 0, 0], [2, 0, 0, 0], [0, 0, 0, 5], [0, 0, 1, 0]], "2 groups that never met"),
        ([[0, 4, 5], [0, 0, 2], [0, 3, 0]], r"items \[0\] never lost"),
        ([[0, 1, 2, 1], [1, 0, 1, 1], [0, 0, 0, 1], [0, 0, 1, 0]], "one group of items never lost to the others"),
    ],
)
def test_without_a_finite_maximum_it_regularises_and_says_so(wins, why):
    fit = fit_bradley_terry(wins)
    assert fit.note is not None
    assert re.search(why, fit.note)
    assert "prior" in fit.note
    assert np.all(np.isfinite(fit.strengths))
    assert np.abs(fit.strengths).max() < 10
    assert fit.strengths[0] > fit.strengths[-1] or "never met" in fit.note


def test_errors_under_the_prior_are_those_of_centred_strengths():
    """Two items: only d, the difference, is left, so each error is half of d's. That the mean could move too would add
    1 / (0.1 · 2) = 5 to each variance."""
    fit = fit_bradley_terry([[0, 10], [0, 0]])
    d = fit.strengths[0] - fit.strengths[1]
    p = sigmoid(d)
    assert 10 * (1 - p) == pytest.approx(0.1 * d / 2)  # the slope: what the data say against what the prior does
    curvature = 10 * p * (1 - p) + 0.1 / 2
    assert fit.errors == pytest.approx([0.5 / math.sqrt(curvature)] * 2)


def test_bad_win_counts():
    for wins in ([[0, 1]], [[0, -1], [1, 0]], [[0, math.nan], [1, 0]], [[0, 0], [0, 0]], [[0]]):
        with pytest.raises(DataError):
            fit_bradley_terry(wins)
