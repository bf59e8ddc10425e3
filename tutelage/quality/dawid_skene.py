"""Dawid and Skene's model: what is true and how well each rater sees it, from the votes alone.

Each unit has a true answer; a rater with truth c says l with probability confusion[c, l]. EM goes between the truth's
posterior and the raters' confusion. With `one_coin`, a rater is right with one probability whatever the truth, and the
wrong answers are as common as the `shares` given say, or equally likely; that needs far fewer votes than a full matrix.

Source: Dawid and Skene 1979; the one-coin model: Zhang, Chen, Zhou and Jordan 2016, section 2; standard errors from the
sum of squared scores: Berndt, Hall, Hall and Hausman 1974, by Fisher's identity (the score is the complete one's mean).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tutelage.errors import DataError
from tutelage.evaluate.statistics import Z_95, Rate
from tutelage.quality.votes import Floats, Votes

ROUNDS = 2000
TOLERANCE = 1e-11  # nats a vote between two rounds of EM


@dataclass(frozen=True)
class DawidSkene:
    """The fitted model. U units, R raters, K answers."""

    posterior: Floats
    """(U, K) Probability of each answer being the true one."""
    shares: Floats
    """(K,) How common each true answer is."""
    confusion: Floats
    """(R, K, K) confusion[r, c, l]: probability that r says l where c is true."""
    log_likelihood: float
    """Of the votes, in nats."""


def dawid_skene(
    votes: Votes, *, one_coin: bool = False, shares: ArrayLike | None = None, pseudo_votes: float = 1.0
) -> DawidSkene:
    """Fit by EM from the majority's answers.

    `shares` fixes how common the true answers are, (K,); without it they are estimated. `pseudo_votes` are added for
    every rater (full matrices: for every rater and truth), spread evenly over the answers (one coin: half right, half
    wrong): 0 is plain maximum likelihood.

    Raises:
        DataError: no votes, or fewer than two answers.
    """
    k = len(votes.labels)
    if len(votes.unit) == 0 or k < 2:
        raise DataError(f"{len(votes.unit)} votes and {k} different answers: there is nothing to weigh")
    fixed = None if shares is None else np.asarray(shares, dtype=np.float64)
    guess = np.full(k, 1 / k) if fixed is None else fixed
    posterior = votes.counts / votes.votes_on[:, None]
    before = -np.inf
    for _ in range(ROUNDS):
        common = posterior.mean(axis=0) if fixed is None else fixed
        if one_coin:
            confusion = _coins(votes, posterior, guess, pseudo_votes)
        else:
            confusion = _matrices(votes, posterior, pseudo_votes)
        posterior, likelihood = _truth(votes, common, confusion)
        if likelihood - before < TOLERANCE * len(votes.unit):
            break
        before = likelihood
    return DawidSkene(posterior, common, confusion, likelihood)


def coin(right: ArrayLike, guess: ArrayLike) -> Floats:
    """(R, K, K) Confusion of raters who are right so often, (R,); wrong answers are as common as in `guess`, (K,)."""
    p, shares = np.asarray(right, dtype=np.float64), np.asarray(guess, dtype=np.float64)
    wrong = np.tile(shares, (len(shares), 1)) * (1 - np.eye(len(shares)))
    wrong /= wrong.sum(axis=1, keepdims=True)
    return np.asarray(p[:, None, None] * np.eye(len(shares)) + (1 - p)[:, None, None] * wrong)


def posterior(votes: Votes, shares: ArrayLike, confusion: ArrayLike) -> Floats:
    """(U, K) What is true, for raters whose confusion, (R, K, K), is known."""
    return _truth(votes, np.asarray(shares, dtype=np.float64), np.asarray(confusion, dtype=np.float64))[0]


def abilities(votes: Votes, fitted: DawidSkene, *, pseudo_votes: float = 1.0) -> list[Rate | None]:
    """(R,) How often each rater is right, with an interval that counts that the truth is not known; None without votes.

    For a one-coin model fitted on these votes with as many `pseudo_votes`.
    """
    num_raters = len(votes.raters)
    right = fitted.confusion[:, 0, 0]
    seen = fitted.posterior[votes.unit, votes.label]  # (n,) probability that this vote is right
    scores = np.zeros((len(votes.units), num_raters))
    np.add.at(scores, (votes.unit, votes.rater), seen - right[votes.rater])  # of the log-odds of being right
    information = scores.T @ scores + np.diag(pseudo_votes * right * (1 - right))
    errors = np.sqrt(np.diag(np.linalg.pinv(information, hermitian=True)))
    cast = np.bincount(votes.rater, minlength=num_raters)
    made: list[Rate | None] = []
    for p, error, n in zip(right, errors, cast, strict=True):
        log_odds, half = np.log(p / (1 - p)) if 0 < p < 1 else np.inf * (p - 0.5), Z_95 * error
        low, high = (float(1 / (1 + np.exp(-(log_odds + side)))) for side in (-half, half))
        made.append(Rate(rate=float(p), low=low, high=high, n=int(n)) if n else None)
    return made


def _coins(votes: Votes, posterior: Floats, guess: Floats, pseudo_votes: float) -> Floats:
    """(R, K, K) The M step with one probability a rater; without any vote it is even chances."""
    num_raters = len(votes.raters)
    seen = np.bincount(votes.rater, weights=posterior[votes.unit, votes.label], minlength=num_raters) + pseudo_votes / 2
    cast = np.bincount(votes.rater, minlength=num_raters) + pseudo_votes
    return coin(np.divide(seen, cast, out=np.full(num_raters, 1 / len(guess)), where=cast > 0), guess)


def _matrices(votes: Votes, posterior: Floats, pseudo_votes: float) -> Floats:
    """(R, K, K) The M step with a full matrix a rater; a truth without votes gets even chances."""
    k, num_raters = len(votes.labels), len(votes.raters)
    cells = np.full((num_raters, k, k), pseudo_votes / k)
    for c in range(k):
        weight = posterior[votes.unit, c]
        cells[:, c] += np.bincount(votes.rater * k + votes.label, weight, num_raters * k).reshape(-1, k)
    totals = cells.sum(axis=2, keepdims=True)
    return np.asarray(np.divide(cells, totals, out=np.full_like(cells, 1 / k), where=totals > 0))


def _truth(votes: Votes, shares: Floats, confusion: Floats) -> tuple[Floats, float]:
    """(U, K) The E step, and the log-likelihood of the votes in nats."""
    tiny = np.finfo(np.float64).tiny
    log_confusion = np.log(np.maximum(confusion, tiny))
    joint = np.tile(np.log(np.maximum(shares, tiny)), (len(votes.units), 1))
    for c in range(len(shares)):
        joint[:, c] += np.bincount(votes.unit, log_confusion[votes.rater, c, votes.label], len(votes.units))
    highest = joint.max(axis=1, keepdims=True)
    weights = np.exp(joint - highest)
    total = weights.sum(axis=1, keepdims=True)
    return weights / total, float((highest + np.log(total)).sum())
