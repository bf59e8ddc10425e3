"""O4: six items whose scores are known, a thousand rankings of all six, and three estimates of the scores by Newton."""

import itertools

import numpy as np

ITEMS, RANKINGS = 6, 1000


def draw(seed):
    """Scores with mean 0, (6,), and rankings drawn from Plackett-Luce with them: items, best first, (1000, 6)."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=ITEMS)
    truth -= truth.mean()
    return truth, (-(truth + rng.gumbel(size=(RANKINGS, ITEMS)))).argsort(1)


def wins_in(order):
    """(6, 6) how often each item was ranked before each, in rankings of K items (n, K)."""
    wins = np.zeros((ITEMS, ITEMS))
    for i, j in itertools.combinations(range(order.shape[1]), 2):
        np.add.at(wins, (order[:, i], order[:, j]), 1)
    return wins


def one_of_each(order, seed):
    """One pair of each ranking, drawn at random: better and worse item, (1000, 2)."""
    places = np.random.default_rng([seed, 1]).random(order.shape).argsort(1)[:, :2]
    return np.take_along_axis(order, np.sort(places, 1), 1)


def plackett_luce_estimate(order):
    """The scores under which the rankings are likeliest, mean 0, (6,)."""

    def slopes(r):
        weight = np.exp(r[order])
        left = weight[:, ::-1].cumsum(1)[:, ::-1]  # of those still in the race at each place
        gradient, curvature = np.zeros(ITEMS), np.zeros((ITEMS, ITEMS))
        for k in range(ITEMS - 1):
            p, taken = np.zeros((2, *order.shape))
            np.put_along_axis(p, order[:, k:], weight[:, k:] / left[:, k : k + 1], 1)
            np.put_along_axis(taken, order[:, k : k + 1], 1, 1)
            gradient += (p - taken).sum(0)
            curvature += np.diag(p.sum(0)) - p.T @ p
        return gradient, curvature

    return newton(slopes)


def bradley_terry_estimate(wins):
    """The scores under which the wins are likeliest, mean 0, (6,)."""
    met = wins + wins.T

    def slopes(r):
        p = 1 / (1 + np.exp(r[None, :] - r[:, None]))
        weight = met * p * (1 - p)
        return (met * p - wins).sum(1), np.diag(weight.sum(1)) - weight

    return newton(slopes)


def newton(slopes):
    """Where the gradient vanishes; a shift of all scores changes nothing."""
    r = np.zeros(ITEMS)
    for _ in range(50):
        gradient, curvature = slopes(r)
        step = np.linalg.pinv(curvature) @ gradient
        r = r - step + step.mean()
        if np.abs(step - step.mean()).max() < 1e-9:
            return r
    raise AssertionError("Newton did not settle")


def squared_errors(seed):
    """Mean squared error of the scores by whole rankings, by all pairs and by one pair of each ranking, (3,)."""
    truth, order = draw(seed)
    found = (
        plackett_luce_estimate(order),
        bradley_terry_estimate(wins_in(order)),
        bradley_terry_estimate(wins_in(one_of_each(order, seed))),
    )
    return np.array([np.square(r - truth).mean() for r in found])
