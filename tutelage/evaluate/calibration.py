"""Does a reward model that says "80 % sure" hold in 80 of 100 cases? P(A beats B) = σ(r_A − r_B), against the labels.

Departures from Guo et al. 2017, "On calibration of modern neural networks":
1. A pair has no natural first text, so each is turned to the side that the model favours; confidences lie in [0.5, 1],
   and the 15 bins share that half.
2. An error estimated from few pairs is too high even for a perfect model; `chance` is what a perfect one would show.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tutelage.errors import DataError

BINS = 15
COLDEST, HOTTEST = 0.01, 100.0


@dataclass(frozen=True)
class Bin:
    """One point of the reliability curve."""

    confidence: float
    """Mean stated probability of the favoured text."""
    observed: float
    """Share of pairs in which the favoured text is the labelled winner."""
    n: int


@dataclass(frozen=True)
class Calibration:
    """Stated against observed probabilities over `n` pairs."""

    error: float
    """Expected calibration error over 15 bins of equal width: Σ n_b/n · |observed − confidence|."""
    chance: float
    """The mean error that a perfectly calibrated model of the same confidences shows on as many pairs."""
    temperature: float
    """Dividing margins by this minimises the log loss; above 1 the model is too sure."""
    error_scaled: float
    """The error once margins are divided by a temperature fitted on the other half of the pairs."""
    bins: tuple[Bin, ...]
    n: int


def calibrate(margins: ArrayLike, targets: ArrayLike | None = None, *, seed: int = 0) -> Calibration:
    """Calibration of reward differences.

    `margins[i]` is r(first) − r(second) in nats; `targets[i]` is the label, the probability that the first is better
    (1, 0, or 0.5 for a tie). Without targets every margin is better − worse. Shapes (n,).

    Raises:
        DataError: fewer than two pairs, not one target for each, or numbers that are not finite or no probabilities.
    """
    m, t = _turned(margins, targets)
    if len(m) < 2:
        raise DataError("one pair cannot show calibration: give at least two")
    bins, error = _reliability(m, t)
    halves = [(np.arange(len(m)) + side) % 2 == 0 for side in (0, 1)]
    scaled = np.concatenate([m[half] / fit_temperature(m[~half], t[~half]) for half in halves])
    rng = np.random.default_rng(seed)
    confidence = _sigmoid(m)
    chance = [_reliability(m, (rng.random(len(m)) < confidence).astype(np.float64))[1] for _ in range(100)]
    return Calibration(
        error=error,
        chance=float(np.mean(chance)),
        temperature=fit_temperature(m, t),
        error_scaled=_reliability(scaled, np.concatenate([t[half] for half in halves]))[1],
        bins=bins,
        n=len(m),
    )


def fit_temperature(margins: ArrayLike, targets: ArrayLike | None = None) -> float:
    """The temperature T for which σ(margin / T) has the smallest log loss (Guo et al. 2017, section 4.2).

    The loss is convex in 1/T; its slope is bisected. Kept within 0.01 to 100: outside, the margins separate the labels
    entirely or say nothing. Arguments and errors as for `calibrate`.
    """
    m, t = _turned(margins, targets)

    def slope(inverse: float) -> float:
        return float((m * (_sigmoid(inverse * m) - t)).sum())

    low, high = 1 / HOTTEST, 1 / COLDEST
    if slope(low) >= 0:
        return HOTTEST
    if slope(high) <= 0:
        return COLDEST
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 2 / (low + high)


def _turned(margins: ArrayLike, targets: ArrayLike | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Margins and labels turned to the side the model favours, so that no margin is negative."""
    m = np.asarray(margins, dtype=np.float64)
    t = np.ones_like(m) if targets is None else np.asarray(targets, dtype=np.float64)
    if m.ndim != 1 or len(m) == 0 or m.shape != t.shape or not np.all(np.isfinite(m)):
        raise DataError(f"margins of shape {m.shape}, targets of {t.shape}: give one finite margin and target a pair")
    if not np.all((t >= 0) & (t <= 1)):
        raise DataError("a target lies outside 0 to 1: it is the probability that the first text is better")
    turned = np.where(m < 0, 1 - t, t)
    return np.abs(m), np.where(m == 0, 0.5, turned)  # a model that favours neither is right half the time


def _reliability(m: NDArray[np.float64], t: NDArray[np.float64]) -> tuple[tuple[Bin, ...], float]:
    confidence = _sigmoid(m)
    place = np.minimum(((confidence - 0.5) * 2 * BINS).astype(int), BINS - 1)
    bins: list[Bin] = []
    for b in range(BINS):
        inside = place == b
        if inside.any():
            bins.append(Bin(float(confidence[inside].mean()), float(t[inside].mean()), int(inside.sum())))
    return tuple(bins), _error(bins, len(m))


def _error(bins: Sequence[Bin], n: int) -> float:
    return sum(b.n / n * abs(b.observed - b.confidence) for b in bins)


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    p: NDArray[np.float64] = np.exp(-np.logaddexp(0, -x))
    return p
