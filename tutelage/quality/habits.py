"""How somebody labels: leanings to a side and to length, ties, pace, cost; and how that moves from round to round."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tutelage.evaluate.accuracy import PairKey, annotator_agreement, longer_wins, pair_accuracy, text_pairs, verdicts
from tutelage.evaluate.statistics import Mean, Median, Rate, clustered_rate, difference, mean, median
from tutelage.feedback.answering import WRITTEN_BY_HAND
from tutelage.records import Comparison

SECONDS_PER_HOUR = 3600
NOBODY: Mapping[str, float] = {}
Outcome = tuple[float, str]
"""Between 0 and 1, and the prompt it is about."""


@dataclass(frozen=True)
class Habits:
    """What somebody's comparisons have in common. Shares of 1/2 are no leaning; None where there is nothing to see.

    Edits count as labels, with their time and cost; what is said of pairs is said of those that somebody judged.
    """

    labels: int
    first_shown: Rate | None
    """How often, of decided pairs, the text shown further left or higher up was called better; n counts prompts."""
    longer: Rate | None
    """How often the one with more characters was, equal lengths counting half."""
    ties: Rate | None
    """Share of pairs called equal; n counts prompts."""
    seconds: Median | None
    """Time for a label, idle time left out."""
    cost: Mean | None
    """Of a label, in the currency of the wage."""


def judged(comparisons: Iterable[Comparison]) -> list[Comparison]:
    """Those in which somebody chose between texts; an edit is put above what it was without anybody choosing."""
    return [c for c in comparisons if all(done.source != WRITTEN_BY_HAND for done in c.completions)]


def over_prompts(outcomes: Sequence[Outcome]) -> Rate | None:
    """Their mean, with an interval over prompts; n counts prompts. None without any."""
    return clustered_rate([one for one, _ in outcomes], [prompt for _, prompt in outcomes]) if outcomes else None


def habits(comparisons: Sequence[Comparison], wages: Mapping[str, float] = NOBODY) -> Habits:
    """Of these comparisons. `wages` are an hour's, by the rater's id; labels of raters without one have no cost."""
    chosen = judged(comparisons)
    pairs = text_pairs(chosen)
    ties = [(1.0, c.prompt.id) for c in chosen for _ in c.ties()]
    timed = [(c.annotator.id, c.seconds) for c in comparisons if c.seconds is not None]
    costs = [seconds / SECONDS_PER_HOUR * wages[who] for who, seconds in timed if who in wages]
    return Habits(
        labels=len(comparisons),
        first_shown=first_shown(chosen),
        longer=longer_wins(pairs) if pairs else None,
        ties=over_prompts([*ties, *((0.0, pair.prompt) for pair in pairs)]),
        seconds=median([seconds for _, seconds in timed]) if timed else None,
        cost=mean(costs) if costs else None,
    )


def first_shown(comparisons: Iterable[Comparison]) -> Rate | None:
    """How often the better text of a decided pair stood before the worse one; n counts prompts. None without pairs."""
    places = [(c.shown.index(j) - c.shown.index(i), c.prompt.id) for c in comparisons for i, j in c.pairs()]
    return pair_accuracy([gap for gap, _ in places], [prompt for _, prompt in places]) if places else None


def repeat_outcomes(comparisons: Iterable[Comparison]) -> list[Outcome]:
    """1 or 0 for each time a rater met the same two texts again: whether they said the same as the first time."""
    said: dict[tuple[str, PairKey], list[int]] = defaultdict(list)
    for c in comparisons:
        for key, verdict in verdicts(c):
            said[c.annotator.id, key].append(verdict)
    again = ((key[0], answers[0], answer) for (_, key), answers in said.items() for answer in answers[1:])
    return [(float(first == answer), prompt) for prompt, first, answer in again]


def gold_outcomes(comparisons: Iterable[Comparison], gold: Mapping[PairKey, int]) -> list[Outcome]:
    """1 or 0 for each pair in `gold`: whether the answer is the known one (-1, 0 or 1, as in `verdicts`)."""
    return [(float(gold[key] == said), c.prompt.id) for c in comparisons for key, said in verdicts(c) if key in gold]


def periods(comparisons: Iterable[Comparison]) -> dict[str, list[Comparison]]:
    """By the round that made the completions; where that is not recorded, all labels are of one period."""
    made: dict[str, list[Comparison]] = defaultdict(list)
    for c in comparisons:
        rounds = [done.source.round for done in c.completions if done.source.round is not None]
        made[f"round {max(rounds)}" if rounds else "no round"].append(c)
    return {name: made[name] for name in sorted(made, key=lambda n: (n != "no round", len(n), n))}


@dataclass(frozen=True)
class Drift:
    """How one figure moved between two periods."""

    figure: str
    before: Rate
    after: Rate
    change: Mean
    """after - before."""

    @property
    def clear(self) -> bool:
        """Whether the interval of the change leaves out 0: without any drift, that happens once in twenty times."""
        return not self.change.low <= 0 <= self.change.high


def drift(before: Sequence[Comparison], after: Sequence[Comparison]) -> list[Drift]:
    """What moved from one period to the next: leanings, ties, and agreement between raters, where both have them."""
    old, new = habits(before), habits(after)
    figures = (
        ("first_shown", old.first_shown, new.first_shown),
        ("longer", old.longer, new.longer),
        ("ties", old.ties, new.ties),
        ("agreement", annotator_agreement(judged(before)), annotator_agreement(judged(after))),
    )
    return [Drift(name, a, b, difference(b, a)) for name, a, b in figures if a is not None and b is not None]
