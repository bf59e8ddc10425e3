"""Whether a system's texts are still language: collapse shows here before it shows in a win rate."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from tutelage.errors import DataError
from tutelage.evaluate.arena import System, word_counts
from tutelage.evaluate.statistics import Mean, Rate, mean, wilson
from tutelage.records import Finish

TOKEN = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")


@dataclass(frozen=True)
class Health:
    """Text-health numbers of one system."""

    name: str
    words: Mean
    distinct_1: float
    """Different words over words, over all texts."""
    distinct_2: float
    """Different word pairs over word pairs, over all texts."""
    repetition: float
    """Mean over texts of the share of word pairs that stood in the text before."""
    duplicates: float
    """Share of texts that another text repeats word for word."""
    ended: Rate | None
    """Share that the model ended itself; None where that is not known."""
    perplexity: float | None
    """Under the base model, where somebody measured it."""


def health(system: System, *, finishes: Sequence[Finish] | None = None, perplexity: float | None = None) -> Health:
    """Text-health numbers of one system. Distinct-n depends on the amount of text: compare equal numbers of texts.

    Source of distinct-n: Li et al. 2016, A diversity-promoting objective function, section 5.2.

    Raises:
        DataError: no texts, or not one finish for each.
    """
    texts = system.texts
    if not texts or (finishes is not None and len(finishes) != len(texts)):
        found = "no" if finishes is None else len(finishes)
        raise DataError(f"{len(texts)} texts of {system.name} and {found} finishes: give texts, and a finish for each")
    tokens = [[t.lower() for t in TOKEN.findall(text)] for text in texts]
    pairs = [list(pairwise(line)) for line in tokens]
    copies = Counter(text.strip() for text in texts)
    return Health(
        name=system.name,
        words=mean(word_counts(texts)),
        distinct_1=_distinct([t for line in tokens for t in line]),
        distinct_2=_distinct([p for line in pairs for p in line]),
        repetition=float(np.mean([1 - _distinct(line) if line else 0.0 for line in pairs])),
        duplicates=float(np.mean([copies[text.strip()] > 1 for text in texts])),
        ended=None if finishes is None else wilson(sum(f == "stop" for f in finishes), len(finishes)),
        perplexity=perplexity,
    )


def _distinct(items: Sequence[object]) -> float:
    return len(set(items)) / len(items) if items else 0.0
