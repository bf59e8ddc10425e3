"""What to ask next: the pairs about which an ensemble of reward models disagrees most, beside a random arm.

The gain of asking about a pair is what its answer would teach a Bayesian whose posterior the ensemble samples:

    gain = log(1 + p (1 - p) v) / 2      p = mean probability that the first is better, v = variance of the margin

which for a linear reward is the D-optimal choice. A closed question (p near 0 or 1) and one on which all models agree
(v = 0) both gain nothing. The gain is an item's `priority` at the desk, which leaves a share of the places to chance
and keeps which arm an item came from: on language-model rewards published gains are often nil, so `compare_arms`
reports both.

Source: Chaloner and Verdinelli 1995, section 2 (D-optimality); ensembles for reward models: Gleave and Irving 2022.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tutelage.errors import DataError
from tutelage.evaluate.accuracy import pair_accuracy
from tutelage.evaluate.statistics import Paired, Rate, paired
from tutelage.quality.votes import Floats


@dataclass(frozen=True)
class Arms:
    """Two reward models, one trained on each arm's labels, on the same held-out pairs."""

    active: Rate
    random: Rate
    difference: Paired
    """Active minus random, in accuracy, a prompt at a time."""


def information_gain(margins: ArrayLike) -> Floats:
    """(n,) In nats, from the margins r(first) - r(second) of M models on n pairs, (M, n).

    Raises:
        DataError: not of that shape, fewer than two models, or a margin that is not finite.
    """
    m = np.asarray(margins, dtype=np.float64)
    if m.ndim != 2 or len(m) < 2 or not np.all(np.isfinite(m)):
        raise DataError(f"margins of shape {m.shape}: give (M, n) finite numbers, from at least two reward models")
    p = (1 / (1 + np.exp(-np.clip(m, -500, 500)))).mean(axis=0)
    gain: Floats = np.log1p(p * (1 - p) * m.var(axis=0, ddof=1)) / 2
    return gain


def ranking_gain(scores: ArrayLike) -> Floats:
    """(n,) Of ranking K completions each, from scores (M, n, K): summed over the pairs, as a ranking answers them all.

    Raises:
        DataError: not of that shape, fewer than two models or completions, or a score that is not finite.
    """
    s = np.asarray(scores, dtype=np.float64)
    if s.ndim != 3 or s.shape[2] < 2:
        raise DataError(f"scores of shape {s.shape}: give (M, n, K), at least two completions a question")
    pairs = [(i, j) for i in range(s.shape[2]) for j in range(i + 1, s.shape[2])]
    gains: Floats = np.sum([information_gain(s[:, :, i] - s[:, :, j]) for i, j in pairs], axis=0)
    return gains


def compare_arms(active: ArrayLike, random: ArrayLike, prompts: Sequence[str]) -> Arms:
    """Both arms' models on the same held-out pairs, from r(better) - r(worse), (n,) each; n counts prompts.

    Raises:
        DataError: no pairs, of different lengths, or not one prompt for each.
    """
    rates = pair_accuracy(active, prompts), pair_accuracy(random, prompts)
    _, index = np.unique(np.asarray(prompts), return_inverse=True)
    by_prompt = [
        np.bincount(index, weights=(np.asarray(m) > 0) + 0.5 * (np.asarray(m) == 0)) / np.bincount(index)
        for m in (active, random)
    ]
    return Arms(active=rates[0], random=rates[1], difference=paired(by_prompt[0], by_prompt[1]))
