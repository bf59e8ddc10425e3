"""Active selection: the gain by hand, and oracle O13: fewer labels than at random on a linear Bradley-Terry reward."""

import numpy as np
import pytest

from tutelage.errors import DataError
from tutelage.quality.choosing import compare_arms, information_gain, ranking_gain

DIMENSIONS, POOL, BATCH, MODELS = 16, 2000, 20, 8


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def fitted(x, y):
    """Bradley-Terry by Newton's method with a unit normal prior."""
    w = np.zeros(x.shape[1])
    for _ in range(8):
        p = sigmoid(x @ w)
        w = w + np.linalg.solve((x * (p * (1 - p))[:, None]).T @ x + np.eye(len(w)), x.T @ (y - p) - w)
    return w


def labels_needed(chosen_by, seed, scale=3.0, target=0.92):
    """Labels until the reward orders `target` of fresh pairs as the truth does."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=DIMENSIONS)
    truth *= scale / np.linalg.norm(truth)
    pool, fresh = rng.normal(size=(POOL, DIMENSIONS)), rng.normal(size=(4000, DIMENSIONS))
    answers = (rng.random(POOL) < sigmoid(pool @ truth)).astype(float)
    asked = list(rng.choice(POOL, BATCH, replace=False))
    while len(asked) < 800:
        w = fitted(pool[asked], answers[asked])
        if np.mean((fresh @ w > 0) == (fresh @ truth > 0)) >= target:
            break
        left = np.setdiff1d(np.arange(POOL), asked)
        asked += list(left[np.argsort(-chosen_by(pool, answers, asked, left, w, rng))[:BATCH]])
    return len(asked)


def at_random(pool, answers, asked, left, w, rng):
    return rng.random(len(left))


def by_disagreement(pool, answers, asked, left, w, rng):
    """Of an ensemble trained on resampled labels."""
    draws = [rng.choice(asked, len(asked)) for _ in range(MODELS)]
    models = np.array([fitted(pool[d], answers[d]) for d in draws])
    return information_gain(models @ pool[left].T)


def test_fewer_labels_than_at_random():
    """Oracle O13 measured 320 at random and 180 by D-optimality; the bar is three quarters."""
    random = np.mean([labels_needed(at_random, seed) for seed in range(8)])
    active = np.mean([labels_needed(by_disagreement, seed) for seed in range(8)])
    upside_down = labels_needed(lambda *a: -by_disagreement(*a), 0)
    assert active < 0.75 * random
    assert upside_down > 1.5 * random


def test_the_gain_by_hand():
    margins = np.array([[0.0, 8.0, 1.0, 5.0], [0.0, 8.0, -1.0, 9.0]])
    gain = information_gain(margins)
    assert gain[:2] == pytest.approx([0, 0], abs=1e-12)  # all agree: nothing to learn
    assert gain[2] == pytest.approx(np.log1p(0.25 * 2) / 2)
    assert gain[3] < gain[2]  # they differ more, but on what is settled


def test_a_rankings_gain_is_the_sum_over_its_pairs():
    scores = np.random.default_rng(0).normal(size=(4, 5, 3))
    loop = [
        sum(information_gain(scores[:, [q], i] - scores[:, [q], j])[0] for i in range(3) for j in range(i + 1, 3))
        for q in range(5)
    ]
    assert ranking_gain(scores) == pytest.approx(loop)
    assert ranking_gain(scores[:, :, :2]) == pytest.approx(information_gain(scores[:, :, 0] - scores[:, :, 1]))


def test_both_arms_are_reported():
    rng = np.random.default_rng(1)
    good, bad = rng.normal(1.0, 1.0, 600), rng.normal(0.3, 1.0, 600)
    prompts = [f"p{i // 2}" for i in range(600)]
    found = compare_arms(good, bad, prompts)
    assert (found.active.rate, found.active.n) == (np.mean(good > 0), 300)
    assert found.difference.difference.mean == pytest.approx(np.mean(good > 0) - np.mean(bad > 0))
    assert found.difference.difference.low > 0
    same = compare_arms(good, good, prompts).difference
    assert (same.difference.mean, same.p_value) == (0, 1)


def test_what_is_no_ensemble_is_refused():
    for margins in (np.zeros((1, 5)), np.zeros(5), np.full((2, 3), np.nan)):
        with pytest.raises(DataError, match="at least two reward models"):
            information_gain(margins)
    with pytest.raises(DataError, match="at least two completions"):
        ranking_gain(np.zeros((3, 2, 1)))
