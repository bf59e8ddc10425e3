"""Everything about the quality of a store's labels in one frozen value: for a table, for JSON, for the leads' pages."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from tutelage.errors import DataError
from tutelage.evaluate.accuracy import PairKey, annotator_agreement, verdicts
from tutelage.evaluate.statistics import Rate, clustered_rate
from tutelage.feedback.oversight import Oversight
from tutelage.feedback.store import Store
from tutelage.quality.agreement import Alpha, agreement_with_others, krippendorff_alpha
from tutelage.quality.habits import (
    NOBODY,
    Drift,
    Habits,
    Outcome,
    drift,
    gold_outcomes,
    habits,
    judged,
    over_prompts,
    periods,
    repeat_outcomes,
)
from tutelage.quality.targets import Belief, weigh
from tutelage.quality.tastes import CrowdBradleyTerry, Mixture, crowd_bradley_terry, mixture
from tutelage.quality.votes import Floats, Votes, pair_votes, prompt_of, rating_votes
from tutelage.records import Annotator, Comparison, Rating, Split

Checks = tuple[Sequence[float], Sequence[float]]
"""Of one rater: how right each answer to a gold item was, and how alike each repeat was to the first answer, 0 to 1."""
NO_CHECKS: Checks = ((), ())
UNCHECKED: Mapping[str, Checks] = {}
FEWEST_FOR_GROUPS = 4  # raters; of fewer, tastes cannot be told from noise


@dataclass(frozen=True)
class Published:
    """A figure that others reported, in percent: how often two people agree on which of two answers is better."""

    who: str
    percent: str
    source: str


PUBLISHED = (
    Published("InstructGPT, training labelers", "72.6 ± 1.5", "Ouyang et al. 2022, section 3.4"),
    Published("InstructGPT, held-out labelers", "77.3 ± 1.3", "Ouyang et al. 2022, section 3.4"),
    Published(
        "Summaries, researchers with each other and with labelers", "73 to 77", "Stiennon et al. 2020, section 3.3"
    ),
    Published("Helpful and harmless, researchers with crowdworkers", "63", "Bai et al. 2022, section 2.2"),
)


@dataclass(frozen=True)
class RaterQuality:
    """One rater. A figure is None where nothing was seen that it could be computed from."""

    rater: Annotator
    ability: Rate | None
    """How often right, by Dawid and Skene's one-coin model, on pairs that somebody else judged too."""
    agreement: Rate | None
    """How often another rater says the same of the same pair."""
    gold: Rate | None
    """How often right where the answer is known."""
    steadiness: Rate | None
    """How often they say the same of the same pair again."""
    habits: Habits


@dataclass(frozen=True)
class Period:
    """The labels of one round."""

    name: str
    agreement: Rate | None
    alpha: Alpha | None
    habits: Habits


@dataclass(frozen=True)
class RaterDrift:
    """What moved for one rater (None: for all together) from one period to the next."""

    rater: str | None
    before: str
    after: str
    moved: Drift


@dataclass(frozen=True)
class Models:
    """Which model is liked best, where labels compare several."""

    names: tuple[str, ...]
    wins: tuple[Rate, ...]
    """How often each was put above another one; n counts prompts."""
    fitted: CrowdBradleyTerry
    """Strengths that take the raters' ability into account."""
    one_taste: Mixture
    two_tastes: Mixture | None
    """None for fewer than four raters."""


@dataclass(frozen=True)
class Quality:
    """The quality of comparisons and ratings."""

    prompts: int
    overlap: Rate | None
    """Share of judged pairs of texts that two or more raters judged; n counts prompts."""
    agreement: Rate | None
    """How often two raters say the same of the same pair: first better, second better, or equal."""
    alpha: Alpha | None
    """Krippendorff's, ordinal, of the same."""
    rating_alpha: Alpha | None
    """Krippendorff's, ordinal, of ratings from 1 to 7."""
    noise: float | None
    """Mean share of wrong answers, by the ability of the raters."""
    all: Habits
    raters: tuple[RaterQuality, ...]
    periods: tuple[Period, ...]
    drift: tuple[RaterDrift, ...]
    models: Models | None
    published: tuple[Published, ...] = PUBLISHED


def summarise(
    comparisons: Sequence[Comparison],
    ratings: Sequence[Rating] = (),
    *,
    gold: Mapping[PairKey, int] | None = None,
    wages: Mapping[str, float] = NOBODY,
    rounds: Mapping[str, str] | None = None,
    checks: Mapping[str, Checks] = UNCHECKED,
) -> Quality:
    """All figures at once.

    `gold`: known answers. `wages`: an hour's by rater's id, for the cost. `rounds`: a comparison's id → the name
    of its period, in order of time; without it the rounds that the completions record. `checks`: what a desk's gold
    items and repeats showed, by rater's id.
    """
    chosen, cut = judged(comparisons), _periods(comparisons, rounds)
    votes = pair_votes(chosen)
    belief = weigh(votes) if votes.shared().units else None
    shared = [(float(count >= 2), prompt_of(unit)) for unit, count in zip(votes.units, votes.votes_on, strict=True)]
    return Quality(
        prompts=len({c.prompt.id for c in comparisons} | {r.prompt.id for r in ratings}),
        overlap=over_prompts(shared),
        agreement=annotator_agreement(chosen),
        alpha=_alpha(votes),
        rating_alpha=_alpha(rating_votes(ratings)),
        noise=None if belief is None else 1 - belief.typical,
        all=habits(comparisons, wages),
        raters=_raters(comparisons, votes, belief, gold or {}, wages, checks),
        periods=tuple(
            Period(name, annotator_agreement(judged(those)), _alpha(pair_votes(judged(those))), habits(those, wages))
            for name, those in cut.items()
        ),
        drift=tuple(_drifts(cut)),
        models=_models(chosen),
    )


def of_store(
    store: Store, *, gold: str | None = None, wage: float | None = None, split: Split | None = None
) -> Quality:
    """All figures of a store.

    `gold`: name or id of an annotator whose rankings are right, and whose labels are left out of every other figure.
    Raises DataError when there is nothing to measure, or nobody of that name.
    """
    comparisons, ratings = list(store.comparisons(split)), list(store.ratings(split))
    experts = {one.id for one in store.annotators() if gold in (one.name, one.id)}
    if gold is not None and not experts:
        raise DataError(f"no annotator has the name or id '{gold}': `tutelage quality` lists those there are")
    answers = known_answers([c for c in comparisons if c.annotator.id in experts])
    rest = [c for c in comparisons if c.annotator.id not in experts]
    ratings = [r for r in ratings if r.annotator.id not in experts]
    if not rest and not ratings:
        raise DataError("the store holds no rankings or ratings to measure: `tutelage label` or import some first")
    wages = {} if wage is None else {one.id: wage for one in store.annotators()}
    checks = {who: (work.gold, work.repeats) for who, work in Oversight(store).work().items()}
    return summarise(rest, ratings, gold=answers, wages=wages, checks=checks)


def known_answers(comparisons: Sequence[Comparison]) -> dict[PairKey, int]:
    """What these labels, an expert's, say of each pair: answers to measure others against."""
    return {key: verdict for c in comparisons for key, verdict in verdicts(c)}


def _periods(comparisons: Sequence[Comparison], rounds: Mapping[str, str] | None) -> dict[str, list[Comparison]]:
    if rounds is None:
        return periods(comparisons)
    made: dict[str, list[Comparison]] = {name: [] for name in dict.fromkeys(rounds.values())}
    for c in comparisons:
        if c.id in rounds:
            made[rounds[c.id]].append(c)
    return {name: those for name, those in made.items() if those}


def _alpha(votes: Votes) -> Alpha | None:
    """Ordinal alpha with whole prompts drawn; None without overlap, or where there is one answer only."""
    used = votes.shared()
    if not used.units or len(set(used.label.tolist())) < 2:
        return None
    return krippendorff_alpha(used, "ordinal", groups=[prompt_of(unit) for unit in used.units])


def _by_rater(comparisons: Sequence[Comparison]) -> dict[str, list[Comparison]]:
    made: dict[str, list[Comparison]] = defaultdict(list)
    for c in comparisons:
        made[c.annotator.id].append(c)
    return made


def _raters(
    comparisons: Sequence[Comparison],
    votes: Votes,
    belief: Belief | None,
    gold: Mapping[PairKey, int],
    wages: Mapping[str, float],
    checks: Mapping[str, Checks],
) -> tuple[RaterQuality, ...]:
    """The busiest first."""
    agreement = agreement_with_others(votes)
    made = [
        RaterQuality(
            rater=theirs[-1].annotator,
            ability=None if belief is None else belief.ability.get(rater),
            agreement=agreement.get(rater),
            gold=_checked(gold_outcomes(theirs, gold), checks.get(rater, NO_CHECKS)[0]),
            steadiness=_checked(repeat_outcomes(theirs), checks.get(rater, NO_CHECKS)[1]),
            habits=habits(theirs, wages),
        )
        for rater, theirs in _by_rater(comparisons).items()
    ]
    return tuple(sorted(made, key=lambda one: -one.habits.labels))


def _checked(outcomes: Sequence[Outcome], checks: Sequence[float]) -> Rate | None:
    """Both together; each of a desk's checks counts as a prompt of its own."""
    return over_prompts([*outcomes, *((one, f"check {i}") for i, one in enumerate(checks))])


def _drifts(cut: Mapping[str, Sequence[Comparison]]) -> list[RaterDrift]:
    made = []
    for (before, old), (after, new) in pairwise(cut.items()):
        made += [RaterDrift(None, before, after, moved) for moved in drift(old, new)]
        earlier, later = _by_rater(old), _by_rater(new)
        for rater in sorted(earlier.keys() & later.keys()):
            made += [RaterDrift(rater, before, after, moved) for moved in drift(earlier[rater], later[rater])]
    return made


def _models(comparisons: Sequence[Comparison]) -> Models | None:
    """Strengths of the models compared; None unless two or more models met."""
    met = [
        (c.annotator.id, c.completions[i].source.model, c.completions[j].source.model, c.prompt.id)
        for c in comparisons
        for i, j in c.pairs()
        if c.completions[i].source.model != c.completions[j].source.model
    ]
    if not met:
        return None
    raters = {rater: r for r, rater in enumerate(sorted({rater for rater, *_ in met}))}
    names = {name: i for i, name in enumerate(sorted({name for _, *both, _ in met for name in both}))}
    wins: Floats = np.zeros((len(raters), len(names), len(names)))
    for rater, better, worse, _ in met:
        wins[raters[rater], names[better], names[worse]] += 1
    return Models(
        names=tuple(names),
        wins=tuple(_wins(name, met) for name in names),
        fitted=crowd_bradley_terry(wins),
        one_taste=mixture(wins, groups=1),
        two_tastes=mixture(wins, groups=2) if len(raters) >= FEWEST_FOR_GROUPS else None,
    )


def _wins(name: str, met: Sequence[tuple[str, str, str, str]]) -> Rate:
    """Of (rater, better, worse, prompt) those with this model: how often it is the better one."""
    of_it = [(float(name == better), prompt) for _, better, worse, prompt in met if name in (better, worse)]
    return clustered_rate([won for won, _ in of_it], [prompt for _, prompt in of_it])
