"""Simulated annotators: made-up people with known tastes, noise and habits. NOBODY REAL JUDGED what they label.

They are the fake of the annotator's seam, for tests, for science and for `tutelage demo`. Every record they write says
so (`annotator.kind == "simulated"`). Each of them sees how a judge scores the texts and adds a person's shortcomings:

    u_i = slope · (score_i + length_taste · words_i) + first_bias · [i stands first] + Gumbel noise

Sorted by u this is the Plackett-Luce model, for two texts Bradley-Terry: P(a before b) = 1 / (1 + exp(u_b - u_a)), the
noise left out (Luce 1959; Yellott 1977 for the Gumbel form). Two neighbours whose u differ by less than `tie` are
called equal; for two texts this is the model of Rao and Kupper (1967) with threshold e^tie. With probability `lapse`
the annotator does not look, and the order is random.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from tutelage.records import Annotator, Comparison, Completion, Prompt

Floats = npt.NDArray[np.float64]
Judge = Callable[[Sequence[str]], Floats]
"""Scores texts, (n,): log-odds that a reader likes each."""
WORDS_PER_SECOND = 4.0  # a reader's pace
PAUSE_SECONDS = 2.0  # to decide


def count_words(texts: Sequence[str]) -> Floats:
    """Words of each text, (n,), split at white space."""
    return np.array([len(text.split()) for text in texts], dtype=np.float64)


@dataclass(frozen=True)
class SimulatedAnnotator:
    """One made-up person."""

    annotator: Annotator
    slope: float
    """How sharply they tell texts apart: a difference of 1 in the judge's log-odds is `slope` in theirs."""
    length_taste: float = 0.0
    """Log-odds for every word: positive likes long texts, negative short ones."""
    lapse: float = 0.0
    """Probability of a random answer."""
    first_bias: float = 0.0
    """Log-odds for standing first on the screen."""
    tie: float = 0.0
    """Closer than this, in log-odds with noise, is a tie."""

    def utilities(self, scores: Floats, words: Floats) -> Floats:
        """What texts of these scores and lengths are worth to this person, without noise or place: log-odds."""
        return self.slope * (scores + self.length_taste * words)

    def rank(
        self, prompt: Prompt, texts: Sequence[str], scores: Sequence[float] | Floats, rng: np.random.Generator
    ) -> tuple[int, ...]:
        """The place of each text, 1 for the best, ties equal. `texts` stand as shown; the prompt weighs nothing."""
        noise = rng.gumbel(size=len(texts))
        if rng.random() < self.lapse:
            return tuple(int(place) + 1 for place in rng.permutation(len(texts)))
        felt = self.utilities(np.asarray(scores, dtype=np.float64), count_words(texts)) + noise
        felt[0] += self.first_bias
        order = np.argsort(-felt)
        ranks = np.ones(len(texts), dtype=np.int64)
        for place, (above, below) in enumerate(pairwise(order), start=2):
            ranks[below] = ranks[above] if felt[above] - felt[below] < self.tie else place
        return tuple(int(rank) for rank in ranks)

    def wins(self, gap: Floats, num_shown: int = 2) -> Floats:
        """P(a is placed above b), ties not counted, from u_a - u_b without place. The order on the screen is even.

        Exact for pairs; in a ranking of `num_shown` > 2, exact without ties.
        """
        places = [(self.first_bias, 1 / num_shown), (-self.first_bias, 1 / num_shown), (0.0, 1 - 2 / num_shown)]
        looked = sum((share * _sigmoid(gap + bias - self.tie) for bias, share in places), np.zeros_like(gap))
        return (1 - self.lapse) * looked + self.lapse / 2


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(0.5 * (1 + np.tanh(x / 2)))


@dataclass(frozen=True)
class Panel:
    """Several simulated annotators around one judge. Each judgement is by one of them, drawn evenly."""

    people: tuple[SimulatedAnnotator, ...]
    judge: Judge

    @property
    def annotators(self) -> tuple[Annotator, ...]:
        """Who is on the panel."""
        return tuple(person.annotator for person in self.people)

    def compare(self, prompt: Prompt, completions: Sequence[Completion], rng: np.random.Generator) -> Comparison:
        """One person's ranking of 2 to 9 completions, shown in random order. The record's id comes from `rng` too."""
        person = self.people[rng.integers(len(self.people))]
        shown = tuple(int(i) for i in rng.permutation(len(completions)))
        texts = [completions[i].text for i in shown]
        ranks_shown = person.rank(prompt, texts, self.judge(texts), rng)
        place = {index: place for place, index in enumerate(shown)}
        reading = PAUSE_SECONDS + count_words(texts).sum() / WORDS_PER_SECOND
        return Comparison(
            id=rng.bytes(16).hex(),
            prompt=prompt,
            completions=tuple(completions),
            ranks=tuple(ranks_shown[place[i]] for i in range(len(completions))),
            shown=shown,
            annotator=person.annotator,
            seconds=round(float(reading * rng.lognormal(0.0, 0.3)), 1),
        )

    def probability(
        self,
        scores_a: Sequence[float] | Floats,
        scores_b: Sequence[float] | Floats,
        *,
        words_a: Sequence[float] | Floats | None = None,
        words_b: Sequence[float] | Floats | None = None,
        num_shown: int = 2,
    ) -> Floats:
        """P(a beats b | one of them won), (n,), for a person drawn from the panel: for pairs of `judge` scores, (n,).

        Lengths are in words; without them every pair is of equal length. The best anybody can do at guessing this
        panel's verdicts is mean(max(p, 1 - p)) over the pairs judged. Exact for pairs, and for pairs taken out of
        rankings of `num_shown` where nobody ties; with ties it is close (ties there join neighbours only).
        """
        a, b = np.asarray(scores_a, dtype=np.float64), np.asarray(scores_b, dtype=np.float64)
        length_a = np.zeros_like(a) if words_a is None else np.asarray(words_a, dtype=np.float64)
        length_b = np.zeros_like(b) if words_b is None else np.asarray(words_b, dtype=np.float64)
        won, lost = np.zeros_like(a), np.zeros_like(a)
        for person in self.people:
            gap = person.utilities(a, length_a) - person.utilities(b, length_b)
            won = won + person.wins(gap, num_shown)
            lost = lost + person.wins(-gap, num_shown)
        return np.asarray(won / (won + lost))

    def probability_of(self, texts_a: Sequence[str], texts_b: Sequence[str], *, num_shown: int = 2) -> Floats:
        """`probability` of pairs of texts, (n,): scored by the panel's judge, lengths counted."""
        return self.probability(
            self.judge(texts_a),
            self.judge(texts_b),
            words_a=count_words(texts_a),
            words_b=count_words(texts_b),
            num_shown=num_shown,
        )


def default_panel(judge: Judge) -> Panel:
    """Five made-up people, not one of them real:

    careful    reads closely and tells texts apart well; calls few ties
    ordinary   a typical reader, with a typical reader's noise
    terse      likes it short: every word costs
    generous   likes it long: every word counts in favour
    hasty      noisy, answers at random one time in ten, leans to what stands first
    """

    def person(name: str, slope: float, **habits: float) -> SimulatedAnnotator:
        who = Annotator(id=f"simulated-{name}", kind="simulated", name=f"{name} (simulated)")
        return SimulatedAnnotator(annotator=who, slope=slope, **habits)

    people = (
        person("careful", 2.0, tie=0.1),
        person("ordinary", 1.2, tie=0.3),
        person("terse", 1.2, length_taste=-0.02, tie=0.2),
        person("generous", 1.2, length_taste=0.02, tie=0.2),
        person("hasty", 0.8, lapse=0.1, first_bias=0.4),
    )
    return Panel(people=people, judge=judge)
