"""An AI judge as a reward, without a reward model in between: direct RLAIF (Lee et al. 2023, section 2.2.2).

The judge grades an answer from 1 to 10; the grade is the expected value over the ten numbers under the judge's
token probabilities, so it tells answers apart that would get the same number. It is scaled to -1 to 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tutelage.errors import JudgeError
from tutelage.judge.asking import Judge
from tutelage.judge.compare import JudgeConfig, heard
from tutelage.judge.rubric import SCORES, Rubric, score_ask
from tutelage.records import Prompt

LOWEST, HIGHEST = int(SCORES[0]), int(SCORES[-1])


@dataclass(frozen=True)
class ScoreReward:
    """The reward of an answer: `reward(prompt, text)`, or of many at once, which is far faster: `rewards`.

    Raises JudgeError when the judge does not grade an answer (a guess would be learned from) or cannot be reached.
    """

    judge: Judge
    rubric: Rubric
    least_mass: float = JudgeConfig().least_mass
    """A judge that names one of the numbers with less than this probability has not graded."""
    ungraded: Literal["stop", "lowest"] = "stop"
    """An answer that the judge does not grade is an error, or gets the lowest grade: never a guess between."""

    def __call__(self, prompt: Prompt, text: str) -> float:
        """From -1 (a certain 1) to 1 (a certain 10)."""
        return self.rewards([(prompt, text)])[0]

    def rewards(self, answers: Sequence[tuple[Prompt, str]]) -> list[float]:
        """One for each answer, in their order."""
        replies = dict(self.judge.choose(score_ask(self.rubric, prompt, text) for prompt, text in answers))
        found = []
        for place in range(len(answers)):
            probabilities, reason = heard(replies[place], self.least_mass)
            if probabilities is None and self.ungraded == "lowest" and replies[place].final:
                found.append(-1.0)
                continue
            if probabilities is None:
                raise JudgeError(
                    f"{self.judge.name} did not grade answer {place + 1} of {len(answers)}: {reason}. Use another "
                    "judge, lower judge.least_mass, or set judge.ungraded to 'lowest'"
                )
            found.append(scaled(expected(probabilities)))
        return found


def expected(probabilities: Sequence[float]) -> float:
    """The mean grade, 1 to 10, under probabilities of the ten numbers."""
    return sum(int(score) * p for score, p in zip(SCORES, probabilities, strict=True))


def scaled(grade: float) -> float:
    """1 to 10 as -1 to 1."""
    return 2 * (grade - LOWEST) / (HIGHEST - LOWEST) - 1
