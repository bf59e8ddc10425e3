"""What propositions are worth: weights by hinge loss, and the reward they make (Mu et al. 2024, section 4).

The total is R = r + Σ w_i φ_i, r the reward model's score. The weights minimise the mean of
max(0, 1 + R(worse) − R(better)) over ranked pairs of answers, plus λ/2·‖w‖² (not in the paper: with it the optimum is
one point, and pairs that r alone orders do not stretch the weights). The unit is r's: one deviation of the reward.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tutelage.judge.grading import Grader
from tutelage.judge.propositions import Numbers, Rulebook
from tutelage.records import Prompt


@dataclass(frozen=True)
class Pairs:
    """N ranked pairs: features (N, F) and the reward model's scores (N,) of the better and of the worse answers."""

    better: Numbers
    worse: Numbers
    better_score: Numbers
    worse_score: Numbers

    def margin(self, weights: Numbers) -> Numbers:
        """(N,) R(better) − R(worse)."""
        total: Numbers = self.better_score - self.worse_score + (self.better - self.worse) @ weights
        return total

    def hinge(self, weights: Numbers) -> float:
        """Mean of max(0, 1 − margin)."""
        return float(np.maximum(0.0, 1 - self.margin(weights)).mean())

    def accuracy(self, weights: Numbers) -> float:
        """Share of pairs ordered as ranked, ties counting half."""
        return float(((np.sign(self.margin(weights)) + 1) / 2).mean())


def fit_weights(pairs: Pairs, decay: float) -> Numbers:
    """The weights (F,) of least mean hinge loss + decay/2·‖w‖².

    Solved in the dual, where the kink of the hinge is a box: maximise Σ α_i m_i / N − ‖Σ α_i d_i / N‖² / (2·decay) over
    0 ≤ α ≤ 1, with d_i the difference of features and m_i = 1 less that of scores; w = Σ α_i d_i / (N·decay).
    """
    from scipy.optimize import minimize

    difference, n = pairs.better - pairs.worse, len(pairs.better)
    short = 1 - (pairs.better_score - pairs.worse_score)

    def weights(alpha: Numbers) -> Numbers:
        found: Numbers = alpha @ difference / (n * decay)
        return found

    def dual(alpha: Numbers) -> tuple[float, Numbers]:
        w = weights(alpha)
        return float(decay / 2 * w @ w - alpha @ short / n), (difference @ w - short) / n

    bounds = [(0.0, 1.0)] * n
    best = minimize(dual, np.full(n, 0.5), jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 10_000})
    return weights(best.x)


@dataclass(frozen=True)
class RuleBasedReward:
    """Σ w_i φ_i of answers: what is added to the reward model's score."""

    book: Rulebook
    grader: Grader
    weights: Numbers
    """(F,), in the order of the rulebook's features."""
    behaviours: Mapping[str, str]
    """By prompt id."""
    otherwise: str
    """The behaviour that other prompts ask for."""

    def behaviour(self, prompt: Prompt) -> str:
        """What a prompt asks for."""
        return self.behaviours.get(prompt.id, self.otherwise)

    def phi(self, answers: Sequence[tuple[Prompt, str]]) -> Numbers:
        """Features (n, F)."""
        asked = [self.behaviour(prompt) for prompt, _ in answers]
        return self.book.phi(self.grader.probabilities(answers), asked)

    def rewards(self, answers: Sequence[tuple[Prompt, str]]) -> list[float]:
        """One for each answer, in their order."""
        found: list[float] = (self.phi(answers) @ self.weights).tolist()
        return found
