"""Is an AI judge as good as a person? Its agreement with people beside theirs with one another, and its leanings.

Measured on pairs that people have decided, before a judge's labels are learned from. A judge that always names what
stands first, or the longer text, must not look good here: both rules stand beside it, and both leanings are measured.
n counts prompts, since pairs of one prompt and votes on one pair are not independent.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from tutelage.errors import DataError
from tutelage.evaluate.calibration import calibrate
from tutelage.evaluate.statistics import Mean, Rate, bootstrap_mean, clustered_rate
from tutelage.judge.compare import Judged, Verdict
from tutelage.questions import Question
from tutelage.records import Comparison, Completion, Prompt, content_id

SURE = 1e-3  # a label of certainty is taken as this far from it, where log-odds are needed


@dataclass(frozen=True)
class LabelledPair:
    """Two answers that people have compared. Which of them is listed first says nothing: their hashes decide."""

    question: Question
    votes: dict[str, float]
    """By annotator's id: 1 the first is better, 0 the second is, 0.5 a tie."""
    shown_first: dict[str, float]
    """The same for whichever stood first on that annotator's screen."""


@dataclass(frozen=True)
class JudgeFigures:
    """A judge on pairs that people decided. Agreement is with each vote that is no tie; a judge's tie counts half."""

    judge: str
    pairs: int
    """Pairs put to the judge, in both orders."""
    judged: int
    not_judged: dict[str, int]
    """How often, by kind of reason: one count an order."""
    agreement: Rate
    one_order: Rate
    """Agreement when each pair is asked in one order only."""
    people: Rate | None
    """What another person reaches in the judge's place; None where nobody judged twice."""
    longer_wins: Rate
    """What the rule "the text with more characters is better" reaches."""
    first_wins: Rate
    """What the rule "whatever stood first on the person's screen is better" reaches."""
    consistency: Rate
    """Pairs on which both orders favour the same text."""
    position_bias: Mean
    """What standing first is worth in one order, from -1 to 1; 0 is none."""
    length_bias: Mean | None
    """The judge's preference for the longer text less people's, from -1 to 1; None when all are equally long."""
    calibration_error: float
    """Expected calibration error of the soft labels against the votes, 15 bins."""
    calibration_error_hard: float
    """The same when the label is certain of the likelier text: one minus its accuracy."""


def labelled_pairs(comparisons: Iterable[Comparison]) -> list[LabelledPair]:
    """Every pair that some person or simulation decided, with all their votes, in the order of its first vote.

    What AI judges said is left out: agreeing with another model proves nothing.
    """
    votes: dict[tuple[str, str, str], dict[str, float]] = defaultdict(dict)
    shown: dict[tuple[str, str, str], dict[str, float]] = defaultdict(dict)
    found: dict[tuple[str, str, str], tuple[Prompt, Completion, Completion]] = {}
    for c in comparisons:
        if c.annotator.kind == "model":
            continue
        place = {index: place for place, index in enumerate(c.shown)}
        for i, j in combinations(range(len(c.ranks)), 2):
            if c.completions[i].text == c.completions[j].text:
                continue
            i, j = sorted((i, j), key=lambda k: _order(c.prompt, c.completions[k]))
            one, other = c.completions[i], c.completions[j]
            key = c.prompt.id, one.text, other.text
            found.setdefault(key, (c.prompt, one, other))
            vote = 0.5 + 0.5 * float(np.sign(c.ranks[j] - c.ranks[i]))
            votes[key][c.annotator.id] = vote
            shown[key][c.annotator.id] = vote if place[i] < place[j] else 1 - vote
    return [
        LabelledPair(Question(prompt=prompt, completions=(one, other)), votes[key], shown[key])
        for key, (prompt, one, other) in found.items()
        if any(vote != 0.5 for vote in votes[key].values())
    ]


def validate(labelled: Sequence[LabelledPair], verdicts: Sequence[Verdict]) -> JudgeFigures:
    """All the figures of one judge: `verdicts[i]` is what it says of `labelled[i].question`.

    Raises:
        DataError: not one verdict for each pair, or fewer than two pairs judged.
    """
    if len(labelled) != len(verdicts):
        raise DataError(f"{len(labelled)} pairs but {len(verdicts)} verdicts: give one for each")
    known = [(pair, v) for pair, v in zip(labelled, verdicts, strict=True) if v.preference is not None]
    reasons = Counter(reason.partition(":")[0] for v in verdicts for reason in v.reasons)
    if len(known) < 2:
        why = ", ".join(f"{reason} ({count})" for reason, count in reasons.most_common(3)) or "nothing was asked"
        raise DataError(f"{len(known)} of {len(labelled)} pairs were judged, at least two are needed. Why not: {why}")
    pairs = [pair for pair, _ in known]
    preference = [v.preference or 0.0 for _, v in known]
    longer = [float(np.sign(len(a.text) - len(b.text))) for a, b in (p.question.completions for p in pairs)]
    prompts = [pair.question.prompt.id for pair in pairs]
    soft, hard, targets = _against_votes(pairs, preference)
    return JudgeFigures(
        judge=known[0][1].judge,
        pairs=len(labelled),
        judged=len(known),
        not_judged=dict(reasons),
        agreement=_agreement(pairs, preference),
        one_order=_agreement(pairs, [v.forward or 0.0 for _, v in known]),
        people=_people(pairs),
        longer_wins=_agreement(pairs, [0.5 + 0.5 * side for side in longer]),
        first_wins=_first_wins(pairs),
        consistency=clustered_rate([float(v.consistent) for _, v in known], prompts),
        position_bias=bootstrap_mean([2 * (v.first_place or 0.0) - 1 for _, v in known], groups=prompts),
        length_bias=_length_bias(pairs, preference, longer),
        calibration_error=calibrate(soft, targets).error,
        calibration_error_hard=calibrate(hard, targets).error,
    )


def validate_panel(labelled: Sequence[LabelledPair], judged: Sequence[Judged]) -> list[JudgeFigures]:
    """Figures of each judge of a panel, and behind them, when they are several, of the panel's mean."""
    judges = [[one.verdicts[i] for one in judged] for i in range(len(judged[0].verdicts))] if judged else []
    together = [[one.together for one in judged]] if len(judges) > 1 else []
    return [validate(labelled, verdicts) for verdicts in [*judges, *together]]


def _order(prompt: Prompt, completion: Completion) -> str:
    return content_id("side", prompt.id, completion.text)


def _decided(pair: LabelledPair) -> list[float]:
    return [vote for vote in pair.votes.values() if vote != 0.5]


def _agrees(preference: float, vote: float) -> float:
    return 0.5 if preference == 0.5 else float((preference > 0.5) == (vote > 0.5))


def _agreement(pairs: Sequence[LabelledPair], preference: Sequence[float]) -> Rate:
    outcomes = [
        (_agrees(p, vote), pair.question.prompt.id)
        for pair, p in zip(pairs, preference, strict=True)
        for vote in _decided(pair)
    ]
    return clustered_rate([o for o, _ in outcomes], [prompt for _, prompt in outcomes])


def _people(pairs: Sequence[LabelledPair]) -> Rate | None:
    """Each person judged by each other one's decided vote."""
    outcomes, prompts = [], []
    for pair in pairs:
        for who, vote in pair.votes.items():
            others = [other for them, other in pair.votes.items() if them != who and other != 0.5]
            outcomes += [_agrees(vote, other) for other in others]
            prompts += [pair.question.prompt.id] * len(others)
    return clustered_rate(outcomes, prompts) if outcomes else None


def _first_wins(pairs: Sequence[LabelledPair]) -> Rate:
    outcomes = [(v, p.question.prompt.id) for p in pairs for v in p.shown_first.values() if v != 0.5]
    return clustered_rate([v for v, _ in outcomes], [prompt for _, prompt in outcomes])


def _length_bias(pairs: Sequence[LabelledPair], preference: Sequence[float], longer: Sequence[float]) -> Mean | None:
    excess = [
        (side * (p - float(np.mean(list(pair.votes.values())))), pair.question.prompt.id)
        for pair, p, side in zip(pairs, preference, longer, strict=True)
        if side
    ]
    return bootstrap_mean([x for x, _ in excess], groups=[prompt for _, prompt in excess]) if excess else None


def _against_votes(
    pairs: Sequence[LabelledPair], preference: Sequence[float]
) -> tuple[list[float], list[float], list[float]]:
    """Log-odds of the soft label, of the label made certain, and the vote: one of each for every decided vote."""
    soft, hard, targets = [], [], []
    for pair, p in zip(pairs, preference, strict=True):
        inside = min(max(p, SURE), 1 - SURE)
        for vote in _decided(pair):
            soft.append(float(np.log(inside / (1 - inside))))
            hard.append(float(np.sign(p - 0.5) * np.log((1 - SURE) / SURE)))
            targets.append(vote)
    return soft, hard, targets
