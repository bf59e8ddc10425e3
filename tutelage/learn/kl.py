"""The price of moving away from the reference, fixed or adapted, and the KL as a term of a loss."""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from tutelage.config import Section
from tutelage.model.maths import kl_estimates

LossKL = Literal["k2", "k3", "weighted"]
MOST_ERROR = 0.2  # of the KL's error relative to its target, what one step adapts to at most


class KLConfig(Section):
    """The price of moving away from the reference."""

    coefficient: Annotated[float, Field(ge=0)] = 0.05
    """Reward standard deviations per nat."""
    target: Annotated[float | None, Field(gt=0)] = None
    """Adapt the coefficient so that the KL per response settles here, in nats; none keeps it fixed."""
    horizon: Annotated[int, Field(ge=1)] = 10_000
    """Episodes over which the adaptation acts (Ziegler et al. 2019, section 2.2)."""
    budget: Annotated[float | None, Field(gt=0)] = None
    """Stop when the mean KL per response passes this, in nats."""


class KLController:
    """The coefficient, fixed or adapted: b ← b · (1 + clip(KL/target − 1, ±0.2) · n / horizon).

    The factor stays above 0 where the horizon is above n/5, as `OnlineConfig` demands.
    """

    def __init__(self, config: KLConfig) -> None:
        self.config, self.coefficient = config, config.coefficient

    def update(self, kl: float, episodes: int) -> None:
        """Take in the mean KL per response of so many episodes."""
        if self.config.target is not None:
            error = min(MOST_ERROR, max(-MOST_ERROR, kl / self.config.target - 1))
            self.coefficient *= 1 + error * episodes / self.config.horizon


def kl_penalty(logprob: Tensor, reference: Tensor, old: Tensor, kind: LossKL) -> Tensor:
    """A penalty per token (M,) to be added to a loss. What matters there is its gradient, averaged over samples:

    k2 has that of KL(π‖ref). k3 has that of KL(ref‖π), although its own mean is KL(π‖ref). weighted, k3 times π/π_old,
    has that of KL(π‖ref) even when the samples are those of an older policy (DeepSeek-AI 2025, V3.2, section 3.1).
    """
    kl = kl_estimates(logprob, reference)
    match kind:
        case "k2":
            return kl.k2
        case "k3":
            return kl.k3
        case "weighted":
            return (logprob - old).exp() * kl.k3
