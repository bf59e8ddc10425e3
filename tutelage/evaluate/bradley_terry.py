"""Strengths of items from who beat whom. Source: Bradley and Terry 1952; existence of the maximum: Ford 1957."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tutelage.errors import DataError

PRIOR = 0.1
"""Precision of the normal prior that stands in where the data alone have no finite maximum."""


@dataclass(frozen=True)
class BradleyTerry:
    """P(i beats j) = σ(strengths[i] − strengths[j])."""

    strengths: NDArray[np.float64]
    """Shape (K,), in nats, mean 0. Times 173.7 they are Elo points."""
    errors: NDArray[np.float64]
    """Shape (K,): standard errors under that constraint, from the inverse Fisher information."""
    note: str | None
    """Why a prior was added, or None when this is the plain maximum likelihood."""

    def log_likelihood(self, wins: ArrayLike) -> float:
        """Of counts `wins[i, j]`, how often i beat j, shape (K, K), under these strengths: in nats, at most 0."""
        return _likelihood(np.asarray(wins, dtype=np.float64), self.strengths, 0.0)


def fit_bradley_terry(wins: ArrayLike) -> BradleyTerry:
    """Maximum-likelihood strengths by Newton's method with step halving.

    `wins[i, j]` counts how often i beat j, shape (K, K); a tie is half a win each way. The maximum is finite and unique
    exactly when every item can be reached from every other along wins; otherwise a normal prior of precision 0.1 is
    added and `note` says so.

    Raises:
        DataError: not a square matrix of at least two items, negative or not finite counts, or no comparisons at all.
    """
    w = np.array(wins, dtype=np.float64)
    if w.ndim != 2 or w.shape[0] != w.shape[1] or len(w) < 2 or not np.all(np.isfinite(w)) or np.any(w < 0):
        raise DataError(f"wins of shape {w.shape}: give a square matrix of counts, wins[i, j] = how often i beat j")
    np.fill_diagonal(w, 0.0)
    if w.sum() == 0:
        raise DataError("nobody beat anybody: strengths need at least one comparison")
    note = _no_maximum(w)
    prior = PRIOR if note else 0.0
    strengths = _newton(w, prior)
    centre = np.eye(len(w)) - 1 / len(w)  # the prior gives their mean a variance too, but that is held at 0
    covariance = centre @ np.linalg.pinv(_information(w, strengths, prior), hermitian=True) @ centre
    return BradleyTerry(strengths=strengths, errors=np.sqrt(np.diag(covariance)), note=note)


def _no_maximum(w: NDArray[np.float64]) -> str | None:
    """Why the likelihood has no finite maximum, in words; None when it has one."""
    from scipy.sparse.csgraph import connected_components

    graph = w > 0
    parts, _ = connected_components(graph, directed=True, connection="weak")
    if parts > 1:
        cause = f"the comparisons fall into {parts} groups that never met"
    elif connected_components(graph, directed=True, connection="strong")[0] > 1:
        always = [int(i) for i in np.flatnonzero((w.sum(axis=1) > 0) & (w.sum(axis=0) == 0))]
        cause = f"items {always} never lost" if always else "one group of items never lost to the others"
    else:
        return None
    return f"{cause}, so strengths have no finite maximum: a normal prior of precision {PRIOR} was added"


def _newton(w: NDArray[np.float64], prior: float) -> NDArray[np.float64]:
    r = np.zeros(len(w))
    value = _likelihood(w, r, prior)
    for _ in range(100):
        gradient = _gradient(w, r, prior)
        if np.abs(gradient).max() < 1e-12 * w.sum():
            break
        # The information is singular along "add a constant to all": the pseudo-inverse keeps the mean at 0.
        step = np.linalg.pinv(_information(w, r, prior), hermitian=True) @ gradient
        size = 1.0
        while _likelihood(w, r + size * step, prior) < value and size > 1e-6:
            size /= 2
        r = r + size * step
        value = _likelihood(w, r, prior)
        if np.abs(size * step).max() < 1e-13:
            break
    centred: NDArray[np.float64] = r - r.mean()
    return centred


def _likelihood(w: NDArray[np.float64], r: NDArray[np.float64], prior: float) -> float:
    return float(-(w * np.logaddexp(0, r[None, :] - r[:, None])).sum() - prior / 2 * (r @ r))


def _gradient(w: NDArray[np.float64], r: NDArray[np.float64], prior: float) -> NDArray[np.float64]:
    surprise = w * _beaten(r).T  # σ(r_j − r_i): the probability that the loser j would have won
    gradient: NDArray[np.float64] = surprise.sum(axis=1) - surprise.sum(axis=0) - prior * r
    return gradient


def _information(w: NDArray[np.float64], r: NDArray[np.float64], prior: float) -> NDArray[np.float64]:
    p = _beaten(r)
    weight = (w + w.T) * p * (1 - p)
    information: NDArray[np.float64] = np.diag(weight.sum(axis=1)) - weight + prior * np.eye(len(r))
    return information


def _beaten(r: NDArray[np.float64]) -> NDArray[np.float64]:
    """P(i beats j), shape (K, K)."""
    p: NDArray[np.float64] = np.exp(-np.logaddexp(0, r[None, :] - r[:, None]))
    return p
