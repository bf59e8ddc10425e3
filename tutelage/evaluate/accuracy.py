"""How often a reward model agrees with the annotators, beside what is possible and what is trivial.

An accuracy alone says nothing: labels are noisy, so there is a ceiling, and answers differ in length and words, so
there is a floor. Every function here that returns one gives its interval; pairs of one prompt count as one case.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tutelage.errors import DataError
from tutelage.evaluate.calibration import Calibration, calibrate
from tutelage.evaluate.statistics import Rate, clustered_rate
from tutelage.records import Comparison

PairKey = tuple[str, str, str]
"""A pair of texts that somebody may judge: the prompt's id, and the two texts in the order of their characters."""


@dataclass(frozen=True)
class TextPair:
    """One decided pair: which of two answers an annotator found better."""

    prompt: str
    """The prompt's id: pairs of one prompt are never independent, and never in two folds."""
    better: str
    worse: str


@dataclass(frozen=True)
class RewardAccuracy:
    """A reward model's accuracy with its ceiling, its baselines and its calibration, all on the same pairs."""

    accuracy: Rate
    pairs: int
    ceiling: float | None
    """The best accuracy any model can reach against these labels; None where nobody knows the noise."""
    agreement: float | None
    """How often two annotators agree with each other."""
    longer_wins: Rate
    bag_of_words: Rate | None
    calibration: Calibration


def text_pairs(comparisons: Iterable[Comparison]) -> list[TextPair]:
    """Every decided pair of every comparison; ties are left out."""
    return [
        TextPair(prompt=c.prompt.id, better=c.completions[i].text, worse=c.completions[j].text)
        for c in comparisons
        for i, j in c.pairs()
    ]


def pair_accuracy(margins: ArrayLike, prompts: Sequence[str]) -> Rate:
    """Share of pairs with r(better) − r(worse) > 0, equal rewards counting half. Shape (n,); n counts prompts.

    Raises:
        DataError: no pairs, not one prompt for each, or a margin that is not finite.
    """
    m = np.asarray(margins, dtype=np.float64)
    if m.ndim != 1 or not np.all(np.isfinite(m)):
        raise DataError(f"margins of shape {m.shape}: give one finite number a pair")
    return clustered_rate((m > 0) + 0.5 * (m == 0), prompts)


def judge_reward(
    pairs: Sequence[TextPair],
    margins: ArrayLike,
    *,
    training: Sequence[TextPair] = (),
    ceiling: float | None = None,
    agreement: float | None = None,
) -> RewardAccuracy:
    """All the numbers about a reward model on held-out pairs; `margins[i]` is r(better) − r(worse) of `pairs[i]`.

    The bag-of-words baseline learns from `training`, the pairs that the reward model learned from; without any it is
    left out.

    Raises:
        DataError: fewer than two pairs, or not one finite margin for each.
    """
    prompts = [pair.prompt for pair in pairs]
    return RewardAccuracy(
        accuracy=pair_accuracy(margins, prompts),
        pairs=len(pairs),
        ceiling=ceiling,
        agreement=agreement,
        longer_wins=longer_wins(pairs),
        bag_of_words=pair_accuracy(bag_of_words(training, pairs), prompts) if training else None,
        calibration=calibrate(margins),
    )


def longer_wins(pairs: Sequence[TextPair]) -> Rate:
    """Accuracy of "the text with more characters is better"; equal lengths count half."""
    return pair_accuracy([len(p.better) - len(p.worse) for p in pairs], [p.prompt for p in pairs])


def bag_of_words(training: Sequence[TextPair], pairs: Sequence[TextPair]) -> NDArray[np.float64]:
    """Margins on `pairs` of a Bradley-Terry model whose reward is linear in the words, fitted on `training`.

    That is a logistic regression without intercept on differences of TF-IDF vectors. Shape (len(pairs),).

    Raises:
        DataError: fewer than two training pairs.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    if len(training) < 2:
        raise DataError(f"{len(training)} training pairs: a bag of words needs at least two")
    vectorizer = TfidfVectorizer(
        sublinear_tf=True, min_df=2 if len(training) >= 50 else 1, token_pattern=r"(?u)\b\w+\b|[!?]"
    )
    vectorizer.fit([text for p in training for text in (p.better, p.worse)])
    # Half of the differences are negated so that there are two classes; without an intercept that changes nothing else.
    sign = np.where(np.arange(len(training)) % 2 == 0, 1.0, -1.0)
    classifier = LogisticRegression(fit_intercept=False, C=1.0, max_iter=500)
    classifier.fit(_differences(vectorizer, training).multiply(sign[:, None]).tocsr(), sign)
    return np.asarray(classifier.decision_function(_differences(vectorizer, pairs)), dtype=np.float64)


def bag_of_words_accuracy(pairs: Sequence[TextPair], *, folds: int = 5, seed: int = 0) -> Rate:
    """Cross-validated accuracy of `bag_of_words`; the pairs of one prompt are always in the same fold.

    Raises:
        DataError: fewer prompts than folds, or fewer than two folds.
    """
    prompts = sorted({p.prompt for p in pairs})
    if not 2 <= folds <= len(prompts):
        raise DataError(f"{folds} folds over {len(prompts)} prompts: give at least two folds, and a prompt for each")
    order = np.random.default_rng(seed).permutation(len(prompts))
    fold_of = {prompts[i]: place % folds for place, i in enumerate(order)}
    fold = np.array([fold_of[p.prompt] for p in pairs])
    margins = np.zeros(len(pairs))
    for f in range(folds):
        rest = [pair for pair, place in zip(pairs, fold, strict=True) if place != f]
        margins[fold == f] = bag_of_words(rest, [pair for pair, place in zip(pairs, fold, strict=True) if place == f])
    return pair_accuracy(margins, [p.prompt for p in pairs])


def ceiling(probabilities: ArrayLike) -> float:
    """E[max(p, 1−p)]: the best accuracy possible against labels drawn with P(first is better) = p (O7)."""
    p = _probabilities(probabilities)
    return float(np.maximum(p, 1 - p).mean())


def agreement(probabilities: ArrayLike) -> float:
    """E[p² + (1−p)²]: how often two annotators who draw their labels independently from p agree (O7)."""
    p = _probabilities(probabilities)
    return float((p**2 + (1 - p) ** 2).mean())


def flip_rate(agreement: float) -> float:
    """How often each of two equal annotators flips the true label, if they agree this often: (1 − √(2A−1))/2.

    One minus it is the ceiling where nothing but the agreement is known. A = 0.726 gives 0.164.

    Raises:
        DataError: an agreement outside 0.5 to 1, which independent noise cannot produce.
    """
    if not 0.5 - 1e-9 <= agreement <= 1 + 1e-9:
        raise DataError(f"an agreement of {agreement}: independent flips give one between 0.5 and 1")
    return (1 - math.sqrt(max(0.0, 2 * agreement - 1))) / 2


def agreement_with_labels(accuracy: float, flips: float) -> float:
    """a(1−e) + (1−a)e: how often a model that is right `accuracy` of the time agrees with labels flipped at rate e."""
    return accuracy * (1 - flips) + (1 - accuracy) * flips


def verdicts(comparison: Comparison) -> Iterator[tuple[PairKey, int]]:
    """What it says of each pair of texts: -1 the first is better, 1 the second, 0 a tie.

    The texts of a key stand in the order of their characters, so that everybody who judges the same two texts of a
    prompt speaks of the same pair, however they were listed or shown.
    """
    ranked = sorted(zip((done.text for done in comparison.completions), comparison.ranks, strict=True))
    for (a, rank_a), (b, rank_b) in combinations(ranked, 2):
        yield (comparison.prompt.id, a, b), (rank_a > rank_b) - (rank_a < rank_b)


def annotator_agreement(comparisons: Iterable[Comparison]) -> Rate | None:
    """How often two annotators say the same (first better, second better, tie) about the same two texts.

    n counts prompts. None when no pair of texts was judged by two annotators.
    """
    said: dict[PairKey, dict[str, int]] = defaultdict(dict)
    for c in comparisons:
        for key, verdict in verdicts(c):
            said[key][c.annotator.id] = verdict
    same, prompts = [], []
    for (prompt, _, _), answers in said.items():
        for one, other in combinations(answers.values(), 2):
            same.append(float(one == other))
            prompts.append(prompt)
    return clustered_rate(same, prompts) if same else None


def _differences(vectorizer: Any, pairs: Sequence[TextPair]) -> Any:
    return vectorizer.transform([p.better for p in pairs]) - vectorizer.transform([p.worse for p in pairs])


def _probabilities(values: ArrayLike) -> NDArray[np.float64]:
    p = np.asarray(values, dtype=np.float64)
    if p.ndim != 1 or len(p) == 0 or not np.all((p >= 0) & (p <= 1)):
        raise DataError(f"probabilities of shape {p.shape}: give at least one, each between 0 and 1")
    return p
