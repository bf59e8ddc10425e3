"""Who said what about which unit, as numbers: what agreement and ability are computed from."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tutelage.errors import DataError
from tutelage.evaluate.accuracy import PairKey, verdicts
from tutelage.records import Comparison, Rating

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Votes:
    """n votes by R raters on U units; a rater has at most one vote on a unit."""

    units: tuple[Any, ...]
    """(U,) What was judged: a pair of texts, or one text."""
    raters: tuple[str, ...]
    """(R,) Ids."""
    labels: tuple[int, ...]
    """(K,) The answers there are, in their order."""
    unit: Ints
    """(n,) Index into `units`."""
    rater: Ints
    """(n,) Index into `raters`."""
    label: Ints
    """(n,) Index into `labels`."""

    @classmethod
    def of(cls, said: Iterable[tuple[Hashable, str, int]], labels: Sequence[int] = ()) -> "Votes":
        """From (unit, rater, answer); of several by one rater on one unit the last counts.

        `labels` names every answer there is; without it, those that occur. Raises DataError for an answer outside it.
        """
        last = {(unit, rater): answer for unit, rater, answer in said}
        units = {unit: i for i, unit in enumerate(dict.fromkeys(unit for unit, _ in last))}
        raters = {rater: i for i, rater in enumerate(sorted({rater for _, rater in last}))}
        known = {label: i for i, label in enumerate(labels or sorted(set(last.values())))}
        strange = sorted(set(last.values()) - set(known))
        if strange:
            raise DataError(f"the votes hold the answers {strange}, but only {sorted(known)} are known: name them all")
        return cls(
            units=tuple(units),
            raters=tuple(raters),
            labels=tuple(known),
            unit=np.array([units[unit] for unit, _ in last], dtype=np.int64),
            rater=np.array([raters[rater] for _, rater in last], dtype=np.int64),
            label=np.array([known[answer] for answer in last.values()], dtype=np.int64),
        )

    @property
    def votes_on(self) -> Ints:
        """(U,) How many votes each unit has."""
        return np.bincount(self.unit, minlength=len(self.units))

    @property
    def counts(self) -> Floats:
        """(U, K) How many votes each answer of each unit has."""
        k = len(self.labels)
        flat = np.bincount(self.unit * k + self.label, minlength=len(self.units) * k)
        return np.asarray(flat.reshape(-1, k), dtype=np.float64)

    def shared(self) -> "Votes":
        """Only the units that two or more raters judged, numbered anew; raters and answers keep their numbers."""
        kept = self.votes_on >= 2
        number = np.cumsum(kept) - 1
        chosen = kept[self.unit]
        return Votes(
            units=tuple(unit for unit, there in zip(self.units, kept, strict=True) if there),
            raters=self.raters,
            labels=self.labels,
            unit=number[self.unit[chosen]],
            rater=self.rater[chosen],
            label=self.label[chosen],
        )


def pair_votes(comparisons: Iterable[Comparison]) -> Votes:
    """A vote for every pair of texts in every comparison: -1 the first of the key is better, 0 a tie, 1 the second."""
    return Votes.of(((key, c.annotator.id, said) for c in comparisons for key, said in verdicts(c)), labels=(-1, 0, 1))


def rating_votes(ratings: Iterable[Rating]) -> Votes:
    """A vote of 1 to 7 for every rated text; its unit is the prompt's id and the text."""
    return Votes.of(((r.prompt.id, r.completion.text), r.annotator.id, r.score) for r in ratings)


def prompt_of(unit: PairKey | tuple[str, str]) -> str:
    """The prompt that a unit of `pair_votes` or `rating_votes` belongs to."""
    return unit[0]
