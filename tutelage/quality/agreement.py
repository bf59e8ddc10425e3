"""Krippendorff's alpha: agreement beyond chance, for any number of raters with gaps, with a bootstrap interval.

alpha = 1 - D_o / D_e: the disagreement observed within units over the one expected if answers were dealt out anew. 1 is
agreement, 0 is chance, below 0 worse than chance. Krippendorff asks for 0.8, and 0.667 where conclusions are tentative;
preferences between good answers rarely reach either.

Source: Krippendorff 2011, "Computing Krippendorff's alpha-reliability"; the bootstrap over units: Zapf, Castell,
Morawietz and Karch 2016, section "Bootstrap confidence intervals".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, assert_never

import numpy as np

from tutelage.errors import DataError
from tutelage.evaluate.statistics import Rate, clustered_rate
from tutelage.quality.votes import Floats, Votes, prompt_of

Scale = Literal["nominal", "ordinal", "interval"]
"""Whether answers only differ, have an order, or have distances."""


@dataclass(frozen=True)
class Alpha:
    """Agreement beyond chance with its 95 % interval."""

    alpha: float
    low: float
    high: float
    n: int
    """Units that two or more raters judged."""
    votes: int
    """Votes on them."""

    def __str__(self) -> str:
        return f"{self.alpha:.3f} [{self.low:.3f}, {self.high:.3f}], n = {self.n:,}"


def krippendorff_alpha(
    votes: Votes, scale: Scale, *, groups: Sequence[str] | None = None, resamples: int = 1000, seed: int = 0
) -> Alpha:
    """Alpha of the units with two or more votes.

    The interval draws units with replacement, or whole `groups` of them (the group of each unit): pairs out of one
    ranking are not independent. Draws without any variation have no alpha and are left out.

    Raises:
        DataError: no unit has two votes, all answers are the same, or not one group for each unit.
    """
    if groups is not None and len(groups) != len(votes.units):
        raise DataError(f"{len(votes.units)} units but {len(groups)} groups: give the group of each unit")
    counted = votes.votes_on >= 2
    if not counted.any():
        raise DataError("no unit was judged by two raters: agreement needs overlap")
    coincidences = _coincidences(votes)[counted]  # (U, K, K)
    values = np.array(votes.labels, dtype=np.float64)
    alpha = float(_alpha(coincidences.sum(axis=0), values, scale))
    if np.isnan(alpha):
        raise DataError("every answer is the same: with nothing to confuse, agreement beyond chance has no meaning")
    names = np.asarray(range(len(votes.units)) if groups is None else groups)[counted]
    _, index = np.unique(names, return_inverse=True)
    clusters = np.zeros((index.max() + 1, len(values) ** 2))
    np.add.at(clusters, index, coincidences.reshape(len(coincidences), -1))
    rng, drawn = np.random.default_rng(seed), np.empty((resamples, clusters.shape[1]))
    for i in range(resamples):
        weights = np.bincount(rng.integers(0, len(clusters), len(clusters)), minlength=len(clusters))
        drawn[i] = weights.astype(np.float64) @ clusters
    low, high = np.nanquantile(_alpha(drawn.reshape(resamples, len(values), -1), values, scale), [0.025, 0.975])
    n, pairable = int(counted.sum()), int(votes.votes_on[counted].sum())
    return Alpha(alpha=alpha, low=float(min(low, alpha)), high=float(max(high, alpha)), n=n, votes=pairable)


def agreement_with_others(votes: Votes) -> dict[str, Rate]:
    """How often each rater says what another one says of the same unit, by id; n counts prompts.

    For votes of `pair_votes` or `rating_votes`. Those who never met another are left out.
    """
    others, met = votes.votes_on - 1, votes.counts[votes.unit, votes.label] - 1
    made: dict[str, Rate] = {}
    for number, rater in enumerate(votes.raters):
        mine = np.flatnonzero((votes.rater == number) & (others[votes.unit] > 0))
        if len(mine):
            same = met[mine] / others[votes.unit[mine]]
            made[rater] = clustered_rate(same, [prompt_of(votes.units[u]) for u in votes.unit[mine]])
    return made


def _coincidences(votes: Votes) -> Floats:
    """(U, K, K): how often each two answers meet within a unit, each unit's votes counting once in all."""
    counts = votes.counts
    met = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(len(votes.labels))
    made: Floats = met / np.maximum(votes.votes_on - 1, 1)[:, None, None]
    return made


def _alpha(met: Floats, values: Floats, scale: Scale) -> Floats:
    """From sums of coincidences, (..., K, K) to (...); NaN where all answers are the same."""
    totals = met.sum(axis=-1)
    distance = _distance(totals, values, scale)
    observed = (met * distance).sum(axis=(-2, -1))
    expected = (totals[..., :, None] * totals[..., None, :] * distance).sum(axis=(-2, -1))
    ratio = np.divide(observed, expected, out=np.full_like(expected, np.nan), where=expected > 0)
    return np.asarray(1 - (totals.sum(axis=-1) - 1) * ratio)


def _distance(totals: Floats, values: Floats, scale: Scale) -> Floats:
    """How far apart two answers are, squared: (..., K, K). On the ordinal scale, how many votes lie between them."""
    match scale:
        case "nominal":
            return 1 - np.eye(len(values))
        case "ordinal":
            place = np.cumsum(totals, axis=-1) - totals / 2
        case "interval":
            place = values
        case _:
            assert_never(scale)
    squared: Floats = (place[..., :, None] - place[..., None, :]) ** 2
    return squared
