"""Two reward models, one for helpfulness and one for safety, as one reward (Llama 2: Touvron et al. 2023, 3.2.3).

1. The safety model decides where the prompt is tagged as unsafe or where it gives the answer less than 0.15, and the
   helpfulness model decides everywhere else.
2. A probability is that of beating what scores 0, by default a typical sample of the reference policy: the sigmoid of
   the score in nats. What decided is taken through the logit again, which gives back its score in nats.
3. That is whitened: mean 0 and deviation 1. Llama 2 does not say over what. Here it is over samples of the reference
   policy, once: over each batch, the mean reward would be 0 at every step, and the parts a batch is cut into would
   change it.

    tutelage ppo --scorer reward-helpful --safety reward-safe
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from tutelage.config import Section
from tutelage.learn.reward import RewardModel
from tutelage.model.maths import whiten


class SafetyConfig(Section):
    """A second reward model, for safety."""

    threshold: Annotated[float, Field(ge=0, le=1)] = 0.15
    """The safety model decides where it gives an answer a lower probability than this."""
    prompts: Path | None = None
    """JSON lines with `prompt`: those where the safety model always decides; from the project folder on."""


def piecewise(helpful: Tensor, safe: Tensor, unsafe: Tensor, threshold: float) -> Tensor:
    """logit R_c, with R_c = σ(safe) where `unsafe` or σ(safe) < threshold, else σ(helpful).

    Scores in nats and `unsafe` bool, all (N,) → (N,) nats. The logit of the sigmoid is the score itself, which
    is therefore never squeezed: no answer is so good that it rounds to infinity.
    """
    return torch.where(unsafe | (torch.sigmoid(safe) < threshold), safe, helpful)


class TwoRewards:
    """A reward function of prompts and responses as tokens. `whiten_on` sets its scale."""

    def __init__(
        self,
        helpful: RewardModel,
        safe: RewardModel,
        unsafe: Callable[[Sequence[int]], bool],
        threshold: float = SafetyConfig().threshold,
    ) -> None:
        """`unsafe` says of a prompt whether it is tagged."""
        self.helpful, self.safe, self.unsafe, self.threshold = helpful, safe, unsafe, threshold
        self.mean, self.std = 0.0, 1.0

    def nats(self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> Tensor:
        """(N,) what `piecewise` says, before it is whitened."""
        rows = [[*p, *r] for p, r in zip(prompts, responses, strict=True)]
        helpful, safe = (one.score(rows) * one.std for one in (self.helpful, self.safe))
        return piecewise(helpful, safe, torch.tensor([self.unsafe(p) for p in prompts]), self.threshold)

    def whiten_on(self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> Tensor:
        """Give these mean 0 and deviation 1 from now on; returns them whitened."""
        found = self.nats(prompts, responses)
        self.mean, self.std = float(found.mean()), float((found.var(correction=0) + 1e-8).sqrt())
        return whiten(found)

    def __call__(self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> Tensor:
        """Scores (N,)."""
        return (self.nats(prompts, responses) - self.mean) / self.std
