"""Strengths of items (models, say) when raters differ: in ability, or in taste.

`crowd_bradley_terry`: a rater follows the common strengths with probability η and says the opposite otherwise:

    P(i beats j | rater) = η σ(s_i - s_j) + (1 - η) σ(s_j - s_i)

so careless raters weigh little and those who mix up the buttons are turned round. Source: Chen, Bennett,
Collins-Thompson and Horvitz 2013, "Pairwise ranking aggregation in a crowdsourced setting", equation 2.

`mixture`: raters belong to groups of their own taste, each with its own Bradley-Terry strengths; EM weighs every
rater's wins by the probability of the group. Whether two groups explain more than one, the information criterion says.
Source: the mixture of Plackett-Luce models of Gormley and Murphy 2008, section 3, for pairs.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tutelage.errors import DataError
from tutelage.evaluate.bradley_terry import PRIOR, BradleyTerry, fit_bradley_terry
from tutelage.quality.votes import Floats

ROUNDS = 200
TOLERANCE = 1e-6  # nats a vote between two rounds of EM
FOLLOWS = 0.8  # where the search for η begins: most raters mean what they say


@dataclass(frozen=True)
class CrowdBradleyTerry:
    """P(i beats j | rater r) = follows[r] σ(d) + (1 - follows[r]) σ(-d), with d = strengths[i] - strengths[j]."""

    strengths: Floats
    """(K,) In nats, mean 0."""
    follows: Floats
    """(R,) Probability that a rater follows the common strengths: 0.5 answers at random, 0 says the opposite."""


@dataclass(frozen=True)
class Mixture:
    """Groups of raters with strengths of their own; the largest group first."""

    groups: tuple[BradleyTerry, ...]
    shares: Floats
    """(G,) Of the raters."""
    membership: Floats
    """(R, G) Probability that a rater is of a group."""
    log_likelihood: float
    criterion: float
    """Bayesian information criterion, in nats: half of it is roughly minus the log evidence. Lower is better."""


def crowd_bradley_terry(wins: ArrayLike, *, pseudo_votes: float = 1.0) -> CrowdBradleyTerry:
    """Fit strengths and raters together, by L-BFGS from plain Bradley-Terry.

    `wins[r, i, j]` counts how often rater r put i above j, shape (R, K, K). A normal prior of precision 0.1 holds the
    strengths, `pseudo_votes` for and against hold each η off 0 and 1.

    Raises:
        DataError: not of that shape, or nobody beat anybody.
    """
    from scipy.optimize import minimize

    w = _wins(wins)
    num_raters, k = w.shape[:2]

    def loss(x: Floats) -> tuple[float, Floats]:
        s, odds = x[:k], x[k:]
        eta = 1 / (1 + np.exp(-odds))
        p = 1 / (1 + np.exp(s[None, :] - s[:, None]))  # P(i beats j) by the common strengths
        said = eta[:, None, None] * p + (1 - eta)[:, None, None] * (1 - p)
        per = w / said
        value = -(w * np.log(said)).sum() + PRIOR / 2 * (s @ s)
        value -= pseudo_votes * (np.log(eta) + np.log1p(-eta)).sum()
        by_margin = (per * (2 * eta - 1)[:, None, None]).sum(axis=0) * p * (1 - p)
        by_s = by_margin.sum(axis=1) - by_margin.sum(axis=0) - PRIOR * s
        by_eta = (per * (2 * p - 1)).sum(axis=(1, 2)) * eta * (1 - eta) + pseudo_votes * (1 - 2 * eta)
        return float(value), -np.concatenate([by_s, by_eta])

    start = np.concatenate([fit_bradley_terry(w.sum(axis=0)).strengths, np.full(num_raters, np.log(FOLLOWS / 0.2))])
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(-30, 30)] * len(start), tol=1e-12)
    strengths = found.x[:k] - found.x[:k].mean()
    return CrowdBradleyTerry(strengths=strengths, follows=1 / (1 + np.exp(-found.x[k:])))


def mixture(wins: ArrayLike, *, groups: int = 2, starts: int = 5, seed: int = 0) -> Mixture:
    """Fit groups by EM from several random memberships; the most likely end is kept.

    `wins[r, i, j]` as above. A group in which some item never lost gets Bradley-Terry's prior.

    Raises:
        DataError: not of that shape, nobody beat anybody, or more groups than raters.
    """
    w = _wins(wins)
    if not 1 <= groups <= len(w):
        raise DataError(f"{groups} groups of {len(w)} raters: give at least one, and a rater for each")
    rng = np.random.default_rng(seed)
    ends = [_climb(w, rng.dirichlet(np.ones(groups), len(w))) for _ in range(starts if groups > 1 else 1)]
    return max(ends, key=lambda end: end.log_likelihood)


def _climb(w: Floats, membership: Floats) -> Mixture:
    before = -np.inf
    for _ in range(ROUNDS):
        shares = np.maximum(membership.mean(axis=0), 1e-12)
        fits = [fit_bradley_terry(np.tensordot(m, w, 1) + 1e-9 * w.sum(axis=0)) for m in membership.T]
        joint = np.log(shares) + np.array([[fit.log_likelihood(rater) for fit in fits] for rater in w])
        highest = joint.max(axis=1, keepdims=True)
        weights = np.exp(joint - highest)
        likelihood = float((highest[:, 0] + np.log(weights.sum(axis=1))).sum())
        membership = weights / weights.sum(axis=1, keepdims=True)
        if likelihood - before < TOLERANCE * w.sum():
            break
        before = likelihood
    order = np.argsort(-shares)
    free = len(fits) * (w.shape[1] - 1) + len(fits) - 1
    return Mixture(
        groups=tuple(fits[g] for g in order),
        shares=shares[order],
        membership=membership[:, order],
        log_likelihood=likelihood,
        criterion=free * float(np.log(w.sum())) - 2 * likelihood,
    )


def _wins(wins: ArrayLike) -> Floats:
    w = np.array(wins, dtype=np.float64)
    if w.ndim != 3 or w.shape[1] != w.shape[2] or w.shape[1] < 2 or not np.all(np.isfinite(w)) or np.any(w < 0):
        raise DataError(f"wins of shape {w.shape}: give (R, K, K) counts, wins[r, i, j] = how often r put i above j")
    w[:, np.arange(w.shape[1]), np.arange(w.shape[1])] = 0.0
    if w.sum() == 0:
        raise DataError("nobody beat anybody: strengths need at least one comparison")
    return w
