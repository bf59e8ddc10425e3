"""From votes to the reward model's loss: how noisy each rater is, and what to believe of each pair.

Where several people judged the same pair, the model of Dawid and Skene says how often each of them is right, and with
that how probable it is that the first text is better. That probability is the pair's soft target: a pair on which three
careful raters agree counts for more than the word of a hasty one. Raters who never judged what another did are taken to
be as good as the others are on average.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from tutelage.errors import DataError
from tutelage.evaluate.accuracy import PairKey
from tutelage.evaluate.statistics import Rate
from tutelage.quality.dawid_skene import abilities, coin, dawid_skene, posterior
from tutelage.quality.votes import Votes, pair_votes
from tutelage.records import Comparison

FIRST, TIE, SECOND = range(3)  # the answers of `pair_votes`
MOST_TIES = 0.98  # so that a first or a second better stays possible where nobody has seen one


@dataclass(frozen=True)
class Belief:
    """What the votes together say."""

    ability: Mapping[str, Rate]
    """How often a rater is right on what somebody else judged too, by id; those without such a vote are not in it."""
    typical: float
    """The mean of these: what is believed of everybody else."""
    first: Mapping[PairKey, float]
    """Probability that the first text of a pair is the better one, a tie counting half."""

    def noise(self, rater: str) -> float:
        """How often this rater's answer is not the true one."""
        return 1 - (self.ability[rater].rate if rater in self.ability else self.typical)


def believe(comparisons: Iterable[Comparison]) -> Belief:
    """Fit the raters on the pairs that two or more of them judged, and weigh every pair's votes by it.

    Neither side of a pair is likelier to be better than the other beforehand. Raises DataError when no pair was judged
    by two raters: then nothing tells noise from taste, and `reward.label_noise` has to be given.
    """
    return weigh(pair_votes(comparisons))


def weigh(votes: Votes) -> Belief:
    """`believe`, for votes already collected."""
    both = votes.shared()
    if not both.units:
        raise DataError(
            "no pair of texts was judged by two raters, so nobody knows how noisy they are: let some items be judged "
            "twice (overlap), or say how noisy: --reward.label_noise, or --dpo.loss.kind conservative"
        )
    ties = min(float(np.mean(both.label == TIE)), MOST_TIES)
    shares = np.array([(1 - ties) / 2, ties, (1 - ties) / 2])
    fitted = dawid_skene(both, one_coin=True, shares=shares)
    rates = abilities(both, fitted)
    known = {rater: rate for rater, rate in zip(votes.raters, rates, strict=True) if rate is not None}
    typical = float(np.mean([rate.rate for rate in known.values()]))
    right = [known[rater].rate if rater in known else typical for rater in votes.raters]
    truth = posterior(votes, shares, coin(right, shares))
    better = truth[:, FIRST] + truth[:, TIE] / 2
    return Belief(known, typical, dict(zip(votes.units, better.tolist(), strict=True)))


def pair_targets(comparison: Comparison, belief: Belief) -> tuple[float, ...]:
    """Probability that completion i is better than j, for each i < j as listed: (0, 1), (0, 2), ..., (1, 2), ..."""
    made = []
    for one, other in combinations((done.text for done in comparison.completions), 2):
        a, b = sorted((one, other))
        first = belief.first[comparison.prompt.id, a, b]
        made.append(first if one == a else 1 - first)
    return tuple(made)


def soft_targets(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The pairs with `target` set to what the votes together say; rankings and targets already there stay as they are.

    Raises DataError when no pair of texts was judged by two raters.
    """
    belief = believe(comparisons)
    return [
        c.model_copy(update={"target": pair_targets(c, belief)[0]})
        if len(c.completions) == 2 and c.target is None
        else c
        for c in comparisons
    ]
