"""A matrix product over an fp32 weight in a lower number format, with an optional low-rank adapter (LoRA).

Copies of the weight, rounded or laid out for a sampler, are kept while it stands still. Every way in which it can
change is noticed: an optimiser step, fused ones too, loading, copying, replacing.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import increment_version
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from tutelage.model import native


def _note_step(optimizer: Optimizer, *_: Any) -> None:
    """Count a step in its weights' versions, which `Linear.low` reads and fused optimisers leave as they were."""
    for group in optimizer.param_groups:
        increment_version(group["params"])


register_optimizer_step_post_hook(_note_step)


def state_of(weight: Tensor) -> tuple[int, int]:
    """What changes with a weight: its version, and its place, so that a copy or move of it counts anew."""
    return weight._version, weight.data_ptr()


class LowCopy:
    """A weight's copy in a lower number format, kept while the weight stands still.

    On a CPU a new copy is written over the last one. A block of another step's among those of this one would split the
    memory that they could share. A network that is copied makes its own.
    """

    def __init__(self) -> None:
        self._kept: tuple[tuple[int, int], Tensor] | None = None  # (state of the weight, its copy)

    def of(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """The weight in that format, without a gradient; itself where it is in it already."""
        if weight.dtype == dtype:
            return weight
        state, (known, last) = state_of(weight), self._kept or (None, None)
        if last is None or (known, last.dtype) != (state, dtype):
            with torch.no_grad():
                if last is not None and last.device.type == "cpu" and (last.dtype, last.shape) == (dtype, weight.shape):
                    last.copy_(weight)
                else:
                    last = weight.to(dtype)
            self._kept = (state, last)
        return last

    def forget(self) -> None:
        """Give the copy's memory back; the next to ask for it waits for a new one."""
        self._kept = None

    def __deepcopy__(self, memo: dict[int, object]) -> "LowCopy":
        return LowCopy()


def low_copies(*networks: nn.Module) -> set[LowCopy]:
    """Every copy that these networks keep of their weights."""
    parts = [part for network in networks for part in network.modules()]
    return {kept for part in parts for kept in vars(part).values() if isinstance(kept, LowCopy)}


class _Product(torch.autograd.Function):
    """x (T, in) times a low-precision copy of the weight; the gradient reaches the weight in its own precision."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, low: Tensor) -> Tensor:
        ctx.save_for_backward(x, low)
        ctx.dtype = weight.dtype
        return F.linear(x, low, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None, None]:
        x, low = ctx.saved_tensors
        grad_x = grad @ low if ctx.needs_input_grad[0] else None
        grad_bias = grad.sum(0) if ctx.needs_input_grad[2] else None
        return grad_x, (grad.t() @ x).to(ctx.dtype), grad_bias, None


class Linear(nn.Module):
    """A matrix product in the compute dtype over an fp32 weight, with an optional low-rank adapter (LoRA)."""

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None = None) -> None:
        super().__init__()
        self.weight = weight  # (out, in)
        self.bias = bias
        self.lora_a: nn.Parameter | None = None  # (rank, in)
        self.lora_b: nn.Parameter | None = None  # (out, rank)
        self.lora_scale = 0.0
        self.compute = torch.float32
        self._low = LowCopy()
        self._panels: tuple[tuple[int, int], Tensor] | None = None  # the same, laid out for a sampler

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) in any dtype → (…, out) in the compute dtype."""
        x = x.to(self.compute)
        bias = None if self.bias is None else self.bias.to(self.compute)
        if (panels := self._laid_out()) is not None:
            out = native.product(x, panels, len(self.weight))
            out = out if bias is None else out + bias
        elif (low := self.low()) is self.weight or not (self.weight.requires_grad and torch.is_grad_enabled()):
            out = F.linear(x, low, bias)
        else:
            out = _Product.apply(x, self.weight, bias, low)  # type: ignore[no-untyped-call]
        if self.lora_a is not None and self.lora_b is not None:
            out = out + F.linear(F.linear(x, self.lora_a.to(x.dtype)), self.lora_b.to(x.dtype)) * self.lora_scale
        return out

    def low(self) -> Tensor:
        """The weight in the compute dtype. A copy is kept while the weight stands still; gradients reach the weight."""
        return self._low.of(self.weight, self.compute)

    def lay_out(self, on: bool) -> None:
        """Keep the weight as `native.panels` too, as long as it stands still, for a sampler; or no longer."""
        panels = native.panels(self.low()) if on else None
        self._panels = None if panels is None else (state_of(self.weight), panels)

    def plain_panels(self) -> Tensor | None:
        """The panels, where they are all that this layer is: no bias, no adapter, nothing out of date."""
        plain = self.bias is None and self.lora_a is None and self._panels is not None
        return (
            self._panels[1] if plain and self._panels is not None and self._panels[0] == state_of(self.weight) else None
        )

    def _laid_out(self) -> Tensor | None:
        """The panels, where they are as the weight is now and no gradient is asked for."""
        if self._panels is None or torch.is_grad_enabled():
            return None
        return self._panels[1] if self._panels[0] == state_of(self.weight) else None

    def lend(self, other: "Linear") -> None:
        """Let a layer over the same frozen weight use the same low-precision copy."""
        other._low = self._low

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_low": LowCopy(), "_panels": None}  # copies of the layer make their own
