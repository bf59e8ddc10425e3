"""Strengths when raters differ: oracle O12's two groups, choix and evalica as references, gradients, recovery."""

import choix
import evalica
import numpy as np
import pytest

from tutelage.errors import DataError
from tutelage.evaluate.bradley_terry import fit_bradley_terry
from tutelage.quality.tastes import crowd_bradley_terry, mixture


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x)))


def votes(strengths, follows, per_rater, rng):
    """wins[r, i, j] of raters who follow the strengths with these probabilities."""
    k = len(strengths)
    wins = np.zeros((len(follows), k, k))
    for r, eta in enumerate(follows):
        for _ in range(per_rater):
            i, j = rng.choice(k, 2, replace=False)
            first = rng.random() < sigmoid(strengths[i] - strengths[j])
            if rng.random() > eta:
                first = not first
            wins[(r, i, j) if first else (r, j, i)] += 1
    return wins


def agreement(own, guess):
    """Share of pairs that two strengths order alike."""
    i, j = np.triu_indices(len(own), 1)
    return np.mean((own[i] > own[j]) == (guess[i] > guess[j]))


def test_two_groups_with_opposed_tastes():
    """Oracle O12: one Bradley-Terry model is right on .702 of what raters think, a mixture of two on .980."""
    rng = np.random.default_rng(0)
    strengths = rng.normal(0, 1.5, 10)
    sides = np.array([1] * 28 + [-1] * 12)  # seven of ten raters like what the others dislike
    wins = np.concatenate([votes(side * strengths, [1.0], 60, rng) for side in sides])
    one, two = mixture(wins, groups=1), mixture(wins)
    alone = np.mean([agreement(side * strengths, one.groups[0].strengths) for side in sides])
    of_group = [two.groups[g].strengths for g in two.membership.argmax(axis=1)]
    both = np.mean([agreement(side * strengths, own) for side, own in zip(sides, of_group, strict=True)])
    assert alone == pytest.approx(0.702, abs=0.05)
    assert both >= 0.97
    assert two.shares == pytest.approx([0.7, 0.3], abs=0.01)
    assert (two.membership.argmax(axis=1) == (sides < 0)).all()
    assert two.criterion < one.criterion - 100


def test_one_taste_is_not_called_two():
    wins = votes(np.linspace(-1, 1, 5), [1.0] * 10, 60, np.random.default_rng(1))
    assert mixture(wins, groups=1).criterion < mixture(wins).criterion


def test_one_group_is_plain_bradley_terry_and_both_packages_agree():
    wins = votes(np.linspace(-1, 1, 5), [1.0] * 4, 100, np.random.default_rng(2))
    whole = wins.sum(axis=0)
    plain = fit_bradley_terry(whole).strengths
    assert mixture(wins, groups=1).groups[0].strengths == pytest.approx(plain, abs=1e-6)
    data = [(i, j) for i in range(5) for j in range(5) for _ in range(int(whole[i, j]))]
    assert plain == pytest.approx(choix.opt_pairwise(5, data) - choix.opt_pairwise(5, data).mean(), abs=1e-4)
    beaten, better = [b for _, b in data], [a for a, _ in data]
    scores = evalica.bradley_terry(better, beaten, [evalica.Winner.X] * len(data), tolerance=1e-10).scores
    logs = np.log(scores.loc[range(5)].to_numpy())
    assert plain == pytest.approx(logs - logs.mean(), abs=1e-4)


def test_the_careless_and_the_contrary_are_found():
    rng = np.random.default_rng(3)
    strengths, follows = np.linspace(-2, 2, 8), np.array([1.0, 0.95, 0.9, 0.85, 0.5, 0.5, 0.05, 0.5])
    wins = votes(strengths, follows, 400, rng)
    found = crowd_bradley_terry(wins)
    assert found.follows == pytest.approx(follows, abs=0.07)
    naive = fit_bradley_terry(wins.sum(axis=0)).strengths
    error = np.sqrt(np.mean((found.strengths - strengths) ** 2))
    assert error < 0.25
    assert error < 0.35 * np.sqrt(np.mean((naive - strengths) ** 2))  # the plain model shrinks everything


def test_no_step_makes_it_likelier():
    wins = votes(np.linspace(-1, 1, 4), [0.9, 0.7, 0.95], 80, np.random.default_rng(4))
    found = crowd_bradley_terry(wins)

    def loss(s, odds):
        eta, p = sigmoid(odds), sigmoid(s[:, None] - s[None, :])
        said = eta[:, None, None] * p + (1 - eta[:, None, None]) * (1 - p)
        return -(wins * np.log(said)).sum() + 0.05 * (s @ s) - np.log(eta * (1 - eta)).sum()

    odds = np.log(found.follows / (1 - found.follows))
    best, rng = loss(found.strengths, odds), np.random.default_rng(5)
    for size in (1e-3, 1e-2, 0.3):
        for _ in range(50):
            step = rng.normal(0, size, 7)
            assert loss(found.strengths + step[:4] - step[:4].mean(), odds + step[4:]) > best - 1e-7


@pytest.mark.parametrize("fit", [crowd_bradley_terry, mixture])
def test_bad_counts_are_refused(fit):
    with pytest.raises(DataError, match="shape"):
        fit(np.zeros((3, 3)))
    with pytest.raises(DataError, match="nobody beat anybody"):
        fit(np.zeros((2, 3, 3)))
    with pytest.raises(DataError, match="3 groups of 2 raters"):
        mixture(np.ones((2, 3, 3)), groups=3)
