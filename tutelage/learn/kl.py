"""The price of moving away from the reference, fixed or adapted."""

from typing import Annotated

from pydantic import Field

from tutelage.config import Section


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
    """The coefficient, fixed or adapted: b ← b · (1 + clip(KL/target − 1, ±0.2) · n / horizon)."""

    def __init__(self, config: KLConfig) -> None:
        self.config, self.coefficient = config, config.coefficient

    def update(self, kl: float, episodes: int) -> None:
        """Take in the mean KL per response of so many episodes."""
        if self.config.target is not None:
            error = min(0.2, max(-0.2, kl / self.config.target - 1))
            self.coefficient *= 1 + error * episodes / self.config.horizon
