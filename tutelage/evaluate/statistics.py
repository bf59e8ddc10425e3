"""Rates, means and differences, each with its interval and n; and the laws of best-of-n.

A number without an interval and n is not a result, so the functions here return the three together. Ties count half
everywhere.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tutelage.errors import DataError

Z_95 = 1.959963984540054
ELO_PER_NAT = 400 / math.log(10)
"""Elo points for one unit of reward: 173.7, since both are logits of the same win rate in other units (O8)."""


@dataclass(frozen=True)
class Rate:
    """A share between 0 and 1 with its 95 % interval, out of `n` independent cases."""

    rate: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.rate:.1%} [{self.low:.1%}, {self.high:.1%}], n = {self.n:,}"


@dataclass(frozen=True)
class Mean:
    """A mean with its 95 % interval, over `n` independent values; of one it is infinite, which JSON says by null."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        interval = f"{self.low:.3f}, {self.high:.3f}" if self.n > 1 else "no interval"
        return f"{self.mean:.3f} [{interval}], n = {self.n:,}"


@dataclass(frozen=True)
class Median:
    """A median with its 95 % interval, of `n` independent values."""

    median: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.median:.1f} [{self.low:.1f}, {self.high:.1f}], n = {self.n:,}"


@dataclass(frozen=True)
class Paired:
    """Two systems measured on the same prompts: the mean difference, and how often the first is ahead."""

    difference: Mean
    ahead: Rate
    p_value: float
    """Two-sided sign test over the prompts that are no ties: how likely so lopsided a count is between equals."""


def wilson(wins: float, n: int) -> Rate:
    """The share `wins` / `n` with Wilson's score interval. A tie is half a win, so `wins` need not be whole.

    With ties or with fractional preferences the interval is a little wide (their variance is below a coin's), never
    too narrow. Source: Wilson 1927, as in Brown, Cai and DasGupta 2001, equation 4.

    Raises:
        DataError: n < 1, or wins outside 0 to n.
    """
    if n < 1 or not 0 <= wins <= n:
        raise DataError(f"{wins} wins out of {n}: a rate needs at least one case, and wins between none and all")
    return _wilson(wins / n, n, n)


def win_rate(preferences: ArrayLike) -> Rate:
    """Wilson's rate of outcomes in [0, 1], one a prompt: 1 a win, 0 a loss, 0.5 a tie. Shape (n,).

    Raises:
        DataError: no outcomes, or one outside [0, 1] (or not a number).
    """
    outcomes = _values(preferences)
    if not np.all((outcomes >= 0) & (outcomes <= 1)):
        raise DataError("an outcome lies outside 0 to 1: give 1 for a win, 0 for a loss, 0.5 for a tie")
    return wilson(float(outcomes.sum()), len(outcomes))


def clustered_rate(outcomes: ArrayLike, groups: Sequence[str]) -> Rate:
    """The share of outcomes in [0, 1] when those of one group (a prompt) are not independent; n counts groups.

    The variance is the ratio estimator's over groups; the interval is Wilson's for the number of independent cases that
    would have that variance, never more than there are outcomes. With one outcome a group it is close to plain Wilson.

    Raises:
        DataError: no outcomes, one outside [0, 1], or not one group for each.
    """
    plain = win_rate(outcomes)
    x = _values(outcomes)
    if len(groups) != len(x):
        raise DataError(f"{len(x)} outcomes but {len(groups)} groups: give the group of each outcome")
    _, index = np.unique(np.asarray(groups), return_inverse=True)
    counts = np.bincount(index)
    num = len(counts)
    residuals = np.bincount(index, weights=x - plain.rate)
    variance = float((residuals**2).sum()) / len(x) ** 2 * num / max(num - 1, 1)
    coin = plain.rate * (1 - plain.rate)
    effective = min(coin / variance, float(len(x))) if variance > 0 and coin > 0 else float(num)
    return _wilson(plain.rate, effective, num)


def mean(values: ArrayLike) -> Mean:
    """The mean of independent values, shape (n,), with Student's t interval; a single value has an infinite one.

    Raises:
        DataError: no values, or one that is not finite.
    """
    from scipy.stats import t

    x = _values(values)
    if len(x) == 1:
        return Mean(mean=float(x[0]), low=-math.inf, high=math.inf, n=1)
    half = float(t.ppf(0.975, len(x) - 1)) * float(x.std(ddof=1)) / math.sqrt(len(x))
    return Mean(mean=float(x.mean()), low=float(x.mean()) - half, high=float(x.mean()) + half, n=len(x))


def bootstrap_mean(
    values: ArrayLike, *, groups: Sequence[str] | None = None, seed: int = 0, resamples: int = 2000
) -> Mean:
    """The mean with a percentile bootstrap interval; with `groups`, whole groups are drawn, and n counts groups.

    Several values of one prompt are not independent: pass each value's prompt as its group. The mean stays the mean of
    all values. A single value, or group, has an infinite interval. Source: Efron and Tibshirani 1993, section 13.3.

    Raises:
        DataError: no values, one that is not finite, or not one group for each.
    """
    x = _values(values)
    if groups is not None and len(groups) != len(x):
        raise DataError(f"{len(x)} values but {len(groups)} groups: give the group of each value")
    index = np.arange(len(x)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    sums, counts = np.bincount(index, weights=x), np.bincount(index)
    if len(sums) == 1:
        return Mean(mean=float(x.mean()), low=-math.inf, high=math.inf, n=1)
    rng = np.random.default_rng(seed)
    draws = np.empty(resamples)
    for i in range(resamples):
        chosen = rng.integers(0, len(sums), len(sums))
        draws[i] = sums[chosen].sum() / counts[chosen].sum()
    low, high = np.quantile(draws, [0.025, 0.975])
    return Mean(mean=float(x.mean()), low=float(low), high=float(high), n=len(sums))


def median(values: ArrayLike) -> Median:
    """The median, shape (n,) of values, with the interval between two of the values that holds it 95 % of the time.

    Nothing is assumed of the distribution; with fewer than six values no two of them are wide enough, and the interval
    is infinite. Source: Conover 1999, section 3.2, on the binomial distribution of the count below the median.

    Raises:
        DataError: no values, or one that is not finite.
    """
    from scipy.stats import binom

    x = np.sort(_values(values))
    below = int(binom.ppf(0.025, len(x), 0.5))  # the least k with P(at most k values below the median) >= 0.025
    if below == 0:
        return Median(median=float(np.median(x)), low=-math.inf, high=math.inf, n=len(x))
    return Median(median=float(np.median(x)), low=float(x[below - 1]), high=float(x[-below]), n=len(x))


def difference(first: Rate, second: Rate) -> Mean:
    """`first.rate` - `second.rate` of two independent groups, with an interval from the two Wilson intervals.

    Source: Newcombe 1998, "Interval estimation for the difference between independent proportions", method 10.
    """
    d = first.rate - second.rate
    low = math.hypot(first.rate - first.low, second.high - second.rate)
    high = math.hypot(first.high - first.rate, second.rate - second.low)
    return Mean(mean=d, low=d - low, high=d + high, n=first.n + second.n)


def paired(first: ArrayLike, second: ArrayLike) -> Paired:
    """Compare two systems' scores prompt by prompt: `first[i]` and `second[i]` belong to one prompt. Shapes (n,).

    Raises:
        DataError: of different lengths, empty, or not finite.
    """
    from scipy.stats import binomtest

    a, b = _values(first), _values(second)
    if len(a) != len(b):
        raise DataError(f"{len(a)} scores against {len(b)}: a paired comparison needs both for every prompt")
    above, below = int((a > b).sum()), int((a < b).sum())
    p_value = float(binomtest(above, above + below).pvalue) if above + below else 1.0
    ahead = wilson(above + (len(a) - above - below) / 2, len(a))
    return Paired(difference=mean(a - b), ahead=ahead, p_value=p_value)


def elo(rate: float) -> float:
    """The Elo difference at which the first wins this share: 400·log10(p/(1−p)); infinite at 0 and 1.

    Raises:
        DataError: a rate outside [0, 1].
    """
    if not 0 <= rate <= 1:
        raise DataError(f"a win rate of {rate} lies outside 0 to 1")
    if rate in (0, 1):
        return math.inf if rate else -math.inf
    return ELO_PER_NAT * math.log(rate / (1 - rate))


def best_of_n_kl(n: int) -> float:
    """KL in nats between best-of-n and the policy it samples: log n − (n−1)/n; with tied scores, an upper bound.

    Source: Stiennon et al. 2020, appendix G.3; Gao et al. 2022, equation 1.

    Raises:
        DataError: n < 1.
    """
    if n < 1:
        raise DataError(f"best of {n}: n is at least 1")
    return math.log(n) - (n - 1) / n


def best_of_n(proxy: ArrayLike, gold: ArrayLike, n: int) -> float:
    """Unbiased estimate of the gold score of the best of n by proxy, from N samples of one prompt. Shapes (N,).

    With samples sorted by proxy it is Σ_i C(i−1, n−1) / C(N, n) · gold_(i), the mean over every subset of n; the
    weights go through lgamma, since C(N, n) overflows. Tied proxies share their weight equally, so the order of the
    samples does not matter. Source: Nakano et al. 2021 (WebGPT), appendix I.

    Raises:
        DataError: n outside 1 to N, or scores of different lengths or not finite.
    """
    p, g = _values(proxy), _values(gold)
    total = len(p)
    if len(g) != total or not 1 <= n <= total:
        raise DataError(f"best of {n} from {total} proxy and {len(g)} gold scores: give N of each, and n from 1 to N")
    log_all = _log_choose(total, n)
    order = np.argsort(p, kind="stable")
    weights = np.zeros(total)
    for place in range(n, total + 1):
        weights[place - 1] = math.exp(_log_choose(place - 1, n - 1) - log_all)
    _, level = np.unique(p[order], return_inverse=True)
    shared = (np.bincount(level, weights=weights) / np.bincount(level))[level]
    return float(np.dot(shared, g[order]))


def _wilson(p: float, cases: float, n: int) -> Rate:
    z2 = Z_95**2 / cases
    centre = (p + z2 / 2) / (1 + z2)
    half = math.sqrt(z2 * (p * (1 - p) + z2 / 4)) / (1 + z2)
    return Rate(rate=p, low=min(p, max(0.0, centre - half)), high=max(p, min(1.0, centre + half)), n=n)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _values(values: ArrayLike) -> NDArray[np.float64]:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or len(x) == 0 or not np.all(np.isfinite(x)):
        raise DataError(f"values of shape {x.shape}: give a list of at least one number, all of them finite")
    return x
