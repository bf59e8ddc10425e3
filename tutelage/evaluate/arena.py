"""Two systems answer the same prompts; a judge who does not know which is which says whose answer is better.

The judge is asked in both orders, so a taste for the first place cancels, and is reported. A case is a prompt, not a
judgement: n counts prompts. Every win rate stands beside the lengths, since the cheapest way to win is to write more.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tutelage.errors import DataError
from tutelage.evaluate.statistics import Mean, Rate, mean, win_rate

Judge = Callable[[str, str, str], float]
"""(prompt, first text, second text) -> preference for the first: 1 it is better, 0 the second is, 0.5 no difference."""


@dataclass(frozen=True)
class System:
    """A name and its answers, one for each prompt."""

    name: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """One judge's answer for one prompt, both orders put together."""

    preference: float
    """For the first system, in [0, 1]: the mean over both orders."""
    consistent: bool
    """Both orders favoured the same text, or neither order favoured any."""
    first_place: float
    """Mean preference for whatever stood first: 0.5 is no position bias."""


@dataclass(frozen=True)
class Match:
    """First system against second, by one judge."""

    first: str
    second: str
    judge: str
    win_rate: Rate
    """Of the first system over prompts. A prompt is won when the mean of both orders is above 0.5, half won at 0.5."""
    ties: float
    """Share of prompts without a winner."""
    consistency: float
    """Share of prompts on which the two orders agree."""
    position_bias: float
    """How much standing first is worth, from -1 to 1; 0 is none."""
    first_words: Mean
    second_words: Mean
    when_not_longer: Rate | None
    """Win rate among the prompts where the first system's text is not the longer one; None when there is none."""
    verdicts: tuple[Verdict, ...]


def compare(
    prompts: Sequence[str], first: System, second: System, judges: Mapping[str, Judge], *, tie_margin: float = 0.0
) -> tuple[Match, ...]:
    """Blind comparison of two systems on the same prompts by each judge, both orders.

    A judge sees only texts and never a name. A mean preference within `tie_margin` of 0.5 is a tie.

    Raises:
        DataError: no prompts, not one text for each, no judges, or a preference outside [0, 1].
    """
    if not prompts or not judges or len(first.texts) != len(prompts) or len(second.texts) != len(prompts):
        raise DataError(
            f"{len(prompts)} prompts, {len(first.texts)} texts of {first.name}, {len(second.texts)} of {second.name}, "
            f"{len(judges)} judges: give at least one prompt and one judge, and one text a system for each prompt"
        )
    return tuple(_match(prompts, first, second, name, judge, tie_margin) for name, judge in judges.items())


def _match(prompts: Sequence[str], first: System, second: System, name: str, judge: Judge, tie_margin: float) -> Match:
    verdicts = tuple(
        _verdict(judge, name, prompt, a, b) for prompt, a, b in zip(prompts, first.texts, second.texts, strict=True)
    )
    outcomes = np.array([_outcome(v.preference, tie_margin) for v in verdicts])
    words_a, words_b = word_counts(first.texts), word_counts(second.texts)
    not_longer = outcomes[words_a <= words_b]
    return Match(
        first=first.name,
        second=second.name,
        judge=name,
        win_rate=win_rate(outcomes),
        ties=float(np.mean(outcomes == 0.5)),
        consistency=float(np.mean([v.consistent for v in verdicts])),
        position_bias=2 * float(np.mean([v.first_place for v in verdicts])) - 1,
        first_words=mean(words_a),
        second_words=mean(words_b),
        when_not_longer=win_rate(not_longer) if len(not_longer) else None,
        verdicts=verdicts,
    )


def _verdict(judge: Judge, name: str, prompt: str, a: str, b: str) -> Verdict:
    forward, backward = judge(prompt, a, b), judge(prompt, b, a)
    for preference in (forward, backward):
        if not 0 <= preference <= 1:
            raise DataError(f"judge {name} gave the preference {preference}: it must lie between 0 and 1")
    return Verdict(
        preference=(forward + 1 - backward) / 2,
        consistent=bool(np.sign(forward - 0.5) == np.sign(0.5 - backward)),
        first_place=(forward + backward) / 2,
    )


def _outcome(preference: float, tie_margin: float) -> float:
    if abs(preference - 0.5) <= tie_margin + 1e-12:
        return 0.5
    return 1.0 if preference > 0.5 else 0.0


def score_judge(score: Callable[[Sequence[str]], ArrayLike], *, margin: float = 0.0, whole: bool = False) -> Judge:
    """A judge that prefers the text with the higher score; scores within `margin` of each other are a tie.

    It looks at the answer alone, or at prompt and answer together (`whole`, for continuations). Scores are remembered,
    so both orders cost one scoring.
    """
    known: dict[str, float] = {}

    def of(text: str) -> float:
        if text not in known:
            known[text] = float(np.asarray(score([text]), dtype=np.float64)[0])
        return known[text]

    def judge(prompt: str, first: str, second: str) -> float:
        before = prompt if whole else ""
        gap = of(before + first) - of(before + second)
        return 0.5 if abs(gap) <= margin else float(gap > 0)

    return judge


def probability_judge(score: Callable[[str, str], float]) -> Judge:
    """A judge from a reward in nats of (prompt, text): it prefers the first with σ(difference), Bradley-Terry."""

    def judge(prompt: str, first: str, second: str) -> float:
        gap = score(prompt, first) - score(prompt, second)
        return float(1 / (1 + np.exp(-np.clip(gap, -500, 500))))

    return judge


def word_counts(texts: Sequence[str]) -> NDArray[np.float64]:
    """Words of each text, split at white space. Shape (len(texts),)."""
    return np.array([len(text.split()) for text in texts], dtype=np.float64)
