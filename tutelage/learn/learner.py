"""The one optimiser step. Losses return sums over their units; here, and only here, they are divided by them.

The units of all micro-batches are counted before the first backward pass, so cutting a batch differently cannot
change a gradient. (On several ranks the same count is all-reduced: nothing else changes.)
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from tutelage.config import Section
from tutelage.errors import TrainingError


class OptimizerConfig(Section):
    """AdamW (Loshchilov and Hutter 2019) with a learning-rate schedule and a clipped gradient norm."""

    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    """Peak learning rate."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """How the rate falls after warm-up: not at all, or to zero at the last step."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps over which the rate rises linearly from zero."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Share of each weight that is taken off per step, times the learning rate (decoupled, AdamW)."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Decay of Adam's running mean of the gradient."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of Adam's running mean of the squared gradient."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-5
    """Adam's epsilon; 1e-5 as in the published PPO reproductions."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """The gradient's norm is clipped to this."""


class Counted(Protocol):
    """Whatever a loss reads: it knows how many units its sums run over."""

    @property
    def units(self) -> int:
        """Tokens, or prompts."""


Loss = Callable[[Any], tuple[Tensor, Mapping[str, Tensor]]]


@dataclass(frozen=True)
class Part:
    """A share of one update: micro-batches, their loss (a sum, and sums to log), and a weight."""

    batches: Sequence[Counted]
    loss: Loss
    weight: float = 1.0


class Learner:
    """Four verbs: update, weights, save, load."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], config: OptimizerConfig, total_steps: int) -> None:
        if not parameters:
            raise TrainingError("nothing to train: every parameter is frozen")
        self.parameters, self.config, self.total_steps = dict(parameters), config, max(1, total_steps)
        self.step = 0
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(),
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            eps=config.epsilon,
            weight_decay=config.weight_decay,
            fused=True,
        )

    def _clip(self) -> float:
        """The norm of all gradients, which are scaled to the greatest that is allowed where they are above it."""
        for parameter in self.parameters.values():
            if parameter.grad is not None and parameter.grad.is_sparse:
                parameter.grad = parameter.grad.to_dense()
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if norm > self.config.max_grad_norm:
            torch.nn.utils.clip_grads_with_norm_(self.parameters.values(), self.config.max_grad_norm, norm)
        return float(norm)

    def learning_rate(self) -> float:
        """The rate of the step about to be made."""
        c = self.config
        if self.step < c.warmup_steps:
            return c.learning_rate * (self.step + 1) / c.warmup_steps
        done = (self.step - c.warmup_steps) / max(1, self.total_steps - c.warmup_steps)
        match c.schedule:
            case "constant":
                return c.learning_rate
            case "linear":
                return c.learning_rate * max(0.0, 1 - done)
            case "cosine":
                return c.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    def update(self, *parts: Part) -> dict[str, float]:
        """One optimiser step on the weighted mean losses of the parts.

        Returns each part's logged sums divided by its units, with `grad_norm` (before clipping) and `learning_rate`.
        Raises TrainingError, leaving the weights as they were, when the loss or the gradient is not finite.
        """
        logged: dict[str, Tensor] = {}
        for part in parts:
            units = sum(batch.units for batch in part.batches)
            for batch in part.batches:
                loss, metrics = part.loss(batch)
                (loss * (part.weight / units)).backward()  # type: ignore[no-untyped-call]
                for name, value in metrics.items():
                    part_of = value.detach() / units  # stays where it is: nobody waits for a GPU here
                    logged[name] = logged[name] + part_of if name in logged else part_of
        norm = self._clip()
        numbers = {name: float(value) for name, value in logged.items()}
        if not math.isfinite(norm):
            self.optimizer.zero_grad(set_to_none=True)
            raise TrainingError(
                f"the gradient norm is {norm} at update {self.step}; the weights are as they were before it. "
                "Lower the learning rate, or resume from the last checkpoint with another seed."
            )
        rate = self.learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return numbers | {"grad_norm": norm, "learning_rate": rate}

    def weights(self) -> dict[str, Tensor]:
        """The trained tensors by name, detached, not copied."""
        return {name: p.detach() for name, p in self.parameters.items()}

    def save(self) -> dict[str, Any]:
        """Everything needed to go on: weights, optimiser moments, step."""
        return {"weights": self.weights(), "optimizer": self.optimizer.state_dict(), "step": self.step}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `save` gave. Raises TrainingError when the names differ."""
        if state["weights"].keys() != self.parameters.keys():
            odd = sorted(state["weights"].keys() ^ self.parameters.keys())
            raise TrainingError(f"the checkpoint trains other tensors than this configuration: {', '.join(odd[:5])}")
        with torch.no_grad():
            for name, p in self.parameters.items():
                p.copy_(state["weights"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = int(state["step"])


def weighted_means(logged: Mapping[str, float], over: Mapping[str, str]) -> dict[str, float]:
    """The figures without the weights; those in `over` divided by the weight it names, or left out where that is 0."""
    found = {name: value for name, value in logged.items() if name not in over.values()}
    for name, weight in over.items():
        value = found.pop(name)
        if logged[weight] > 0:
            found[name] = value / logged[weight]
    return found


def prefixed(prefix: str, metrics: Mapping[str, float]) -> dict[str, float]:
    """The learner's own figures (`grad_norm`, `learning_rate`) under the algorithm's name; others have theirs."""
    return {name if "/" in name else f"{prefix}/{name}": value for name, value in metrics.items()}
