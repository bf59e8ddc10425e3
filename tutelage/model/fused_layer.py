"""A whole decoder layer as one compiled function, for GPUs: Python launches two things a layer and step, not forty.

A small model's layer takes a GPU less time than its kernels take to launch one by one. Weights are rounded inside the
function: a GPU does that faster than it waits. Its twin is `decoder.Block`, which everything else runs.

Legend: T tokens, H hidden size, A heads, G key/value heads, D head size, N sequences.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.model.fused_attention import Varlen
from tutelage.model.linear import Linear
from tutelage.model.pieces import added, gated, normed, rotate, rotated


class Product(NamedTuple):
    """A matrix product's weights; LoRA's second matrix comes with its scale."""

    weight: Tensor  # (out, in)
    bias: Tensor | None
    lora: tuple[Tensor, Tensor] | None

    @classmethod
    def of(cls, linear: Linear) -> "Product":
        """What a layer has now."""
        a, b = linear.lora_a, linear.lora_b
        return cls(linear.weight, linear.bias, None if a is None or b is None else (a, b))

    def times(self, x: Tensor, scale: float) -> Tensor:
        """(T, in) → (T, out), in the type of x."""
        out = F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))
        if self.lora is None:
            return out
        return out + F.linear(F.linear(x, self.lora[0].to(x.dtype)), self.lora[1].to(x.dtype)) * scale


class Weights(NamedTuple):
    """A block's."""

    norms: tuple[Tensor, Tensor]
    heads: tuple[Tensor, Tensor] | None  # norms of queries and keys
    qkv: Product
    out: Product
    gate_up: Product
    down: Product


Layer = Callable[[Tensor, Tensor, Tensor, Varlen, Weights], Tensor]
"""x (T, H) fp32, cos and sin (T, 1, D/2), attention, weights → the next x (T, H) fp32."""


def layer(heads: int, groups: int, eps: float, scale: float, compute: torch.dtype) -> Layer:
    """A layer of this shape; `scale` is LoRA's."""

    def run(x: Tensor, cos: Tensor, sin: Tensor, attend: Varlen, w: Weights) -> Tensor:
        qkv = w.qkv.times(normed(x, w.norms[0], eps, compute), scale)
        if w.heads is None:
            q, k, v = rotated(qkv, cos, sin, heads, groups)
        else:
            q, k, v = torch.split(qkv.view(len(qkv), heads + 2 * groups, -1), [heads, groups, groups], 1)
            q, k = (rotate(normed(a, n, eps, compute), cos, sin) for a, n in zip((q, k), w.heads, strict=True))
        x, inner = added(x, w.out.times(attend(q, k, v), scale), w.norms[1], eps, compute)
        return x + w.down.times(gated(w.gate_up.times(inner, scale)), scale)

    return run


@cache
def compiled(heads: int, groups: int, eps: float, scale: float, compute: torch.dtype) -> Layer:
    """The same through torch.compile, for any number of tokens and sequences."""
    made: Layer = torch.compile(layer(heads, groups, eps, scale, compute), dynamic=True)
    return made
