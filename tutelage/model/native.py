"""The pieces of `pieces.py` in C++ (`kernels/pieces.cpp`), forward and backward.

Legend: as there.
"""

from typing import Any

import torch
from torch import Tensor

from tutelage.model.kernels import PANEL, call, has_products
from tutelage.model.pieces import Pieces


def normed(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """See `pieces.normed`."""
    apply = _Normed.apply if torch.is_grad_enabled() else _normed
    out: Tensor = apply(x, weight, eps, dtype)
    return out


def added(x: Tensor, more: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """See `pieces.added`."""
    apply = _Added.apply if torch.is_grad_enabled() else _added
    out: tuple[Tensor, Tensor] = apply(x, more, weight, eps, dtype)
    return out


def rotated(qkv: Tensor, cos: Tensor, sin: Tensor, heads: int, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    """See `pieces.rotated`."""
    apply = _Rotated.apply if torch.is_grad_enabled() else _rotated
    out: tuple[Tensor, Tensor, Tensor] = apply(qkv, cos, sin, heads, groups)
    return out


def gated(x: Tensor) -> Tensor:
    """See `pieces.gated`."""
    apply = _Gated.apply if torch.is_grad_enabled() else _gated
    out: Tensor = apply(x)
    return out


def tallied(logits: Tensor, target: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """See `pieces.tallied`."""
    log_z, mean, own = (torch.empty(len(logits)) for _ in range(3))
    rows, words = logits.shape
    call("tallied", logits.dtype, "pppppllf", logits, target, log_z, mean, own, rows, words, 1 / temperature)
    return log_z, mean, own


def pushed(logits: Tensor, log_z: Tensor, target: Tensor, grad: Tensor, temperature: float) -> Tensor:
    """See `pieces.pushed`."""
    out = torch.empty_like(logits)
    rows, words = logits.shape
    given = log_z.contiguous(), target.contiguous(), grad.contiguous()
    call("pushed", logits.dtype, "pppppllf", logits, *given, out, rows, words, 1 / temperature)
    return out


PIECES = Pieces(normed, added, rotated, gated, tallied, pushed)


def panels(weight: Tensor) -> Tensor | None:
    """weight (N, K) laid out for `product`; None where this processor or number format has no kernel for it."""
    if weight.dtype != torch.bfloat16 or weight.shape[1] % 2 or not has_products():
        return None
    words, size = weight.shape
    out = torch.empty(-(-words // PANEL) * PANEL * size, dtype=torch.bfloat16)
    call("packed", torch.bfloat16, "ppll", weight.contiguous(), out, words, size)
    return out


def product(x: Tensor, laid_out: Tensor, words: int) -> Tensor:
    """x (M, K) bf16 times a weight of (words, K) that `panels` laid out → (M, words) bf16."""
    x = x.contiguous()
    out = x.new_empty(len(x), words)
    call("product", torch.bfloat16, "ppplll", x, laid_out, out, len(x), words, x.shape[1])
    return out


def _normed(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    out = torch.empty(x.shape, dtype=dtype)
    call("normed", dtype, "pppllf", x.float().contiguous(), weight, out, len(x), x.shape[-1], eps)
    return out


class _Normed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        kept = x.float().contiguous()
        ctx.save_for_backward(kept, weight)
        ctx.eps, ctx.given = eps, x.dtype
        return _normed(kept, weight, eps, dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, weight = ctx.saved_tensors
        back, _, slope = _normed_back(x, weight, grad, ctx.eps)
        return back.to(ctx.given), slope, None, None


def _normed_back(
    x: Tensor, weight: Tensor, grad: Tensor, eps: float, more: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, with `more` added, of x in the type of `grad` (empty without `more`), and of the weight."""
    back, grad = torch.empty_like(x), grad.contiguous()
    low = torch.empty(0 if more is None else x.shape, dtype=grad.dtype)
    weights = torch.zeros(torch.get_num_threads(), x.shape[-1])
    more = None if more is None else more.contiguous()
    call("normed_back", grad.dtype, "pppppppllf", x, weight, grad, more, back, None if more is None else low, weights,
         len(x), x.shape[-1], eps)  # fmt: skip
    return back, low, weights.sum(0)


def _added(x: Tensor, more: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    total, out = torch.empty(x.shape), torch.empty(x.shape, dtype=dtype)
    x, more = x.contiguous(), more.to(dtype).contiguous()
    call("added", dtype, "pppppllf", x, more, weight, total, out, len(x), x.shape[-1], eps)
    return total, out


class _Added(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, more: Tensor, weight: Tensor, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        total, out = _added(x, more, weight, eps, dtype)
        ctx.save_for_backward(total, weight)
        ctx.eps = eps
        return total, out

    @staticmethod
    def backward(ctx: Any, grad: Tensor, push: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        total, weight = ctx.saved_tensors
        return *_normed_back(total, weight, push, ctx.eps, grad), None, None


def _turn(qkv: Tensor, cos: Tensor, sin: Tensor, apart: tuple[Tensor, Tensor, Tensor], *, back: bool) -> None:
    heads, groups, size = apart[0].shape[1], apart[1].shape[1], apart[0].shape[2]
    call("rotated", qkv.dtype, "ppppppllll" + "i", qkv, cos, sin, *apart, len(qkv), heads, groups, size, int(back))


def _rotated(qkv: Tensor, cos: Tensor, sin: Tensor, heads: int, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    size = qkv.shape[1] // (heads + 2 * groups)
    q, k, v = (qkv.new_empty(len(qkv), n, size) for n in (heads, groups, groups))
    _turn(qkv.contiguous(), cos, sin, (q, k, v), back=False)
    return q, k, v


class _Rotated(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor, heads: int, groups: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        return _rotated(qkv, cos, sin, heads, groups)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        cos, sin = ctx.saved_tensors
        q, k, v = (g.contiguous() for g in grads)
        back = q.new_empty(len(q), sum(g.shape[1] for g in grads) * q.shape[2])
        _turn(back, cos, sin, (q, k, v), back=True)
        return back, None, None, None, None


def _gated(x: Tensor) -> Tensor:
    out = x.new_empty(len(x), x.shape[1] // 2)
    call("gated", x.dtype, "ppll", x.contiguous(), out, len(x), out.shape[1])
    return out


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x)
        return _gated(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        back = torch.empty_like(x)
        call("gated_back", x.dtype, "pppll", x, grad.contiguous(), back, len(x), x.shape[1] // 2)
        return back
