"""Causal attention inside packed sequences in C++ (`kernels/attention.cpp`), for bf16 on CPUs that multiply it.

Legend: T tokens, A heads, G key/value heads, D head size; N sequences, F keys of them whole.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tutelage.model.kernels import call, has_products
from tutelage.model.spans import Span


def serves(sequences: int | None, q: Tensor, k: Tensor) -> bool:
    """Whether the kernel is there for these, and enough heads of sequences for all threads; None: that is no matter."""
    fits = q.dtype == torch.bfloat16 and q.shape[-1] % 16 == 0 and has_products()
    return fits and (sequences is None or sequences * k.shape[1] >= 2 * torch.get_num_threads())


class Tasks:
    """The sequences as the kernel reads them."""

    def __init__(self, spans: Sequence[Span], window: int | None) -> None:
        self.before = torch.cat([torch.empty(0, dtype=torch.int64), *(s.before for s in spans if s.before is not None)])
        starts, own, shared = (torch.tensor(x) for x in zip(*((s.start, s.own, s.shared) for s in spans), strict=True))
        self.spans = torch.stack((starts, own, shared, shared.cumsum(0) - shared), 1)  # (N, 4)
        self.first = (own + shared).cumsum(0) - own - shared  # (N,) where each one's keys begin in all of them
        keys = [(*([] if s.before is None else [s.before]), torch.arange(s.start, s.start + s.own)) for s in spans]
        self.keys = torch.cat([part for parts in keys for part in parts])  # (F,) places in the packed rows
        self.window = window or 0

    def summed(self, back: Tensor, like: Tensor) -> Tensor:
        """Gradients of all sequences' keys (F, G, D) → of the packed rows' (T, G, D)."""
        return torch.zeros(like.shape).index_add_(0, self.keys, back) if len(self.before) else back

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `attention.Attend`."""
        out: Tensor = _Attended.apply(q, k, v, self)  # type: ignore[no-untyped-call]
        return out.flatten(1)


class _Attended(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, tasks: Tasks) -> Tensor:
        q, k, v = (x.contiguous() for x in (q, k, v))
        out, log_z = torch.empty_like(q), torch.empty(q.shape[:2])
        sizes = len(tasks.spans), q.shape[1], *k.shape[1:], tasks.window
        call("attended", q.dtype, "pppppppl" + "llll", q, k, v, tasks.spans, tasks.before, out, log_z, *sizes)
        ctx.tasks = tasks
        ctx.save_for_backward(q, k, v, out, log_z)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, out, log_z = ctx.saved_tensors
        tasks, grad_q = ctx.tasks, torch.empty_like(q)
        back_k, back_v = (torch.empty(len(tasks.keys), *k.shape[1:]) for _ in (k, v))
        sizes = len(tasks.spans), q.shape[1], *k.shape[1:], tasks.window
        given = q, k, v, out, grad.contiguous(), log_z, tasks.spans, tasks.before, tasks.first
        call("attended_back", q.dtype, "pppppppppppp" + "lllll", *given, grad_q, back_k, back_v, *sizes)
        grad_k, grad_v = (tasks.summed(back, k).to(k.dtype) for back in (back_k, back_v))
        return grad_q, grad_k, grad_v, None
