"""The fake: a judge that answers from a function. For tests, and for science with a judge of known taste and bias."""

import math
from collections.abc import Callable, Iterable, Iterator

from tutelage.judge.asking import Ask, Reply, Usage

CALL = Usage(calls=1, read=100, written=1)


class ScriptedJudge:
    """Answers each question by `answer`, and remembers what it was asked."""

    def __init__(self, answer: Callable[[Ask], Reply], name: str = "scripted") -> None:
        self.answer, self.name, self.identity = answer, name, f"scripted {name}"
        self.asked: list[Ask] = []

    def choose(self, asks: Iterable[Ask]) -> Iterator[tuple[int, Reply]]:
        """See `Judge.choose`; in order."""
        for place, ask in enumerate(asks):
            self.asked.append(ask)
            yield place, self.answer(ask)


def taste(
    score: Callable[[str], float], *, slope: float = 1.0, first_bias: float = 0.0, hard: bool = False
) -> Callable[[Ask], Reply]:
    """A judge of pairs whose log-odds for what stands first are slope · (score difference) + first_bias.

    With the truth drawn by Bradley-Terry on the same scores, slope 1 and no bias is a calibrated judge. `hard` makes it
    name the likelier letter instead.
    """

    def answer(ask: Ask) -> Reply:
        first, second = ask.texts
        odds = slope * (score(first) - score(second)) + first_bias
        p = 0.5 * (1 + math.tanh(odds / 2))
        if hard:
            p = float(p >= 0.5)
        return Reply((p, 1 - p), soft=not hard, usage=CALL)

    return answer
