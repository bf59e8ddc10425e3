"""A grader of propositions on trial: how well its probabilities tell true from false, beside a bag of words.

The area under the ROC curve is the chance that a true case gets a higher probability than a false one, ties counting
half (Hanley and McNeil 1982). The macro area is the mean over propositions of which there are both kinds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tutelage.errors import DataError
from tutelage.evaluate.statistics import Mean, Rate, wilson
from tutelage.judge.propositions import Labelled, Numbers, Rulebook

RESAMPLES = 1000
Truth = NDArray[np.bool_]


@dataclass(frozen=True)
class PropositionFigures:
    """One proposition on held-out answers."""

    id: str
    true: int
    """Answers of which it is true."""
    auc: Mean | None
    """None where it is true of no answer, or of every one."""
    bag_of_words: float | None
    """The same of a grader on words alone."""
    accuracy: Rate
    """Right at probability ½."""
    majority: float
    """What always saying the likelier of true and false, by the labelled answers, reaches."""


@dataclass(frozen=True)
class GraderFigures:
    """All propositions on held-out answers."""

    propositions: tuple[PropositionFigures, ...]
    auc: Mean
    """Macro area, with a bootstrap over answers."""
    bag_of_words: float
    accuracy: float
    """Mean over propositions."""
    majority: float


def areas(probabilities: Numbers, truth: Truth) -> Numbers:
    """(P,) area under the ROC curve of each column, NaN where it has one kind of case; both (n, P)."""
    from scipy.stats import rankdata

    ranks = rankdata(probabilities, axis=0)
    true = truth.sum(0)
    pairs = true * (len(truth) - true)
    wins = np.where(truth, ranks, 0).sum(0) - true * (true + 1) / 2
    found: Numbers = np.where(pairs > 0, wins / np.maximum(pairs, 1), np.nan)
    return found


def grader_figures(
    labelled: Sequence[Labelled],
    probabilities: Numbers,
    book: Rulebook,
    *,
    words: Numbers,
    training: Sequence[Labelled],
    seed: int = 0,
) -> GraderFigures:
    """Figures of probabilities (n, P) given to labelled answers; `words` (n, P) are a bag of words'.

    `training`: what the grader learned from, for the majority. Raises DataError when no proposition has both kinds.
    """
    truth = np.array([[one.truth[id] for id in book.ids] for one in labelled], dtype=bool)
    found, trivial = areas(probabilities, truth), areas(words, truth)
    if np.isnan(found).all():
        raise DataError(f"each proposition is true of all {len(labelled)} answers or of none: there is nothing to tell")
    rng = np.random.default_rng(seed)
    draws = np.empty((RESAMPLES, len(book.ids)))
    for i in range(RESAMPLES):
        chosen = rng.integers(0, len(labelled), len(labelled))
        draws[i] = areas(probabilities[chosen], truth[chosen])
    often = np.array([np.mean([one.truth[id] for one in training]) >= 0.5 for id in book.ids])
    right, usual = (probabilities >= 0.5) == truth, often == truth
    rows = tuple(
        PropositionFigures(
            id=id,
            true=int(truth[:, k].sum()),
            auc=None if np.isnan(found[k]) else _with_interval(found[k], draws[:, k], len(truth)),
            bag_of_words=None if np.isnan(found[k]) else float(trivial[k]),
            accuracy=wilson(int(right[:, k].sum()), len(truth)),
            majority=float(usual[:, k].mean()),
        )
        for k, id in enumerate(book.ids)
    )
    told = ~np.isnan(found)
    macro = _with_interval(float(found[told].mean()), _mean_where_known(draws[:, told]), len(truth))
    return GraderFigures(rows, macro, float(trivial[told].mean()), float(right.mean()), float(usual.mean()))


def _mean_where_known(draws: Numbers) -> Numbers:
    """Mean of each row over what is no NaN: a resample may hold no true case of a rare proposition."""
    known = ~np.isnan(draws)
    found: Numbers = np.where(known, draws, 0).sum(1) / known.sum(1)
    return found


def _with_interval(value: float, draws: Numbers, n: int) -> Mean:
    low, high = np.quantile(draws[~np.isnan(draws)], [0.025, 0.975])
    return Mean(mean=float(value), low=float(low), high=float(high), n=n)
