"""What a response's reward is worth beside others': leave one out, group-relative, or a running mean.

Legend: N responses, P prompts, G responses to each, side by side.
"""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from tutelage.config import Section

STEADY = 1e-4  # added to a deviation before dividing by it


class Rloo(Section):
    """Leave one out: the baseline of a response is the mean reward of its prompt's other responses."""

    kind: Literal["rloo"] = "rloo"


class Grpo(Section):
    """Group-relative: the reward less the mean of its group, its own included, in deviations."""

    kind: Literal["grpo"] = "grpo"
    divide_by: Literal["group", "batch", "nothing"] = "group"
    """The deviation of the group's rewards (Shao et al. 2024), of the whole batch's, or none (Liu et al. 2025)."""


class Reinforce(Section):
    """The baseline has nothing to do with the prompt; groups may be of one."""

    kind: Literal["reinforce"] = "reinforce"
    baseline: Literal["moving", "batch", "none"] = "moving"
    """Running mean of earlier batches' rewards; mean of the batch's other responses; or 0."""
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Of the running mean, per step."""


Advantage = Annotated[Rloo | Grpo | Reinforce, Field(discriminator="kind")]


def leave_one_out(rewards: Tensor) -> Tensor:
    """(P, G) → (P, G): each reward less the mean of the others of its row; where there are none, less 0."""
    size = rewards.shape[1]
    if size == 1:
        return rewards
    return (rewards - rewards.mean(1, keepdim=True)) * (size / (size - 1))


def advantages(rewards: Tensor, size: int, kind: Advantage, moving: float | None) -> Tensor:
    """Rewards of N responses, those of a prompt side by side, `size` each → advantages (N,).

    `moving` is the running mean of earlier rewards, None before there are any.
    """
    groups = rewards.reshape(-1, size)
    match kind:
        case Rloo():
            found = leave_one_out(groups)
        case Grpo():
            found = groups - groups.mean(1, keepdim=True)
            if kind.divide_by == "group":
                found = found / (groups.std(1, keepdim=True) + STEADY)
            elif kind.divide_by == "batch":
                found = found / (groups.std() + STEADY)
        case Reinforce(baseline="none"):
            found = groups
        case Reinforce(baseline="moving") if moving is not None:
            found = groups - moving
        case Reinforce():
            found = leave_one_out(rewards[None])
    return found.flatten()
