"""Causal attention inside each of the packed sequences, and nowhere else.

On a CPU by matrix products over a few rectangles (`Products`) or, where it has instructions for it, by a kernel of ours
(`native_attention.py`); on a GPU by fused kernels (`fused_attention.py`). Only in rectangles are rows padded. A
beginning that several sequences share has one query for all of them, and its keys and values in each one's row.

Legend: T tokens, A heads, G key/value heads, R = A/G heads to each, D head size; N sequences of a rectangle, M their
most own tokens, P their longest shared beginning, S = P + M.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from tutelage.model.batch import Packed
from tutelage.model.fused_attention import Fused, Varlen
from tutelage.model.native_attention import Tasks, serves
from tutelage.model.spans import Span, spans

BLOCK = 256  # queries at once
OVERHEAD = 4096  # scores of one head that can be computed in the time that one more rectangle takes to set up
KEPT = 1024  # probabilities of longer sequences are computed again on the way back
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""q (T, A, D); k, v (T, G, D) → (T, A·D)."""


def attention(
    packed: Packed, window: int | None, device: torch.device, compute: torch.dtype, *, steady: bool = False
) -> Attend:
    """Attention over packed sequences in the number format of the products; `window` is a sliding one's width.

    `steady`: by the same code however many sequences there are, though another may be faster for a few.
    """
    if device.type == "cpu":
        return Products(packed, window, steady)
    if device.type == "cuda" and compute in (torch.bfloat16, torch.float16):
        return Varlen(packed, window, device)
    return Fused(packed, window, device)


class Rectangle:
    """Some sequences side by side: N rows of M queries and P + M keys. Shared keys end where own ones begin."""

    def __init__(self, spans: Sequence[Span], window: int | None) -> None:
        self.n, self.m = len(spans), max(s.own for s in spans)
        self.p, self.window = max(s.shared for s in spans), window
        self.kept = self.p + self.m <= KEPT  # probabilities wait for the way back
        own = torch.tensor([s.own for s in spans])
        start = torch.tensor([s.start for s in spans])
        at = torch.arange(self.m)
        real = at < own[:, None]  # (N, M)
        full = bool(real.all())
        self.queries = (start[:, None] + at)[real]  # (own tokens,) in the packed rows
        self.places: Tensor | None = None if full else real.flatten().nonzero()[:, 0]  # and in the rectangle
        keys = torch.zeros(self.n, self.p + self.m, dtype=torch.int64)
        keys[:, self.p :] = torch.where(real, start[:, None] + at, 0)
        hidden = torch.zeros(self.n, 1, 1, self.p)
        for row, s in enumerate(spans):
            if s.before is not None:
                keys[row, self.p - s.shared : self.p] = s.before
            hidden[row, ..., : self.p - s.shared] = -torch.inf
        self.keys = keys.flatten()
        self.hidden = hidden if any(s.shared < self.p for s in spans) else None  # (N, 1, 1, P): before a beginning
        self.run: int | None = int(start[0]) if full and bool((start.diff() == self.m).all()) else None
        self.masks: dict[tuple[int, torch.dtype], tuple[Tensor | None, Tensor]] = {}  # of each block

    def rows(self, x: Tensor) -> Tensor:
        """Queries' x (T, A, D) → (N, M, A, D), zeros where a row has ended."""
        if self.run is not None:
            return x[self.run : self.run + self.n * self.m].view(self.n, self.m, *x.shape[1:])
        taken = x.index_select(0, self.queries)
        if self.places is not None:
            taken = x.new_zeros(self.n * self.m, *x.shape[1:]).index_copy_(0, self.places, taken)
        return taken.view(self.n, self.m, *x.shape[1:])

    def beside(self, x: Tensor) -> Tensor:
        """Keys or values x (T, G, D) → (N, G, S, D)."""
        if self.run is not None and not self.p:
            return self.rows(x).transpose(1, 2)
        return x.index_select(0, self.keys).view(self.n, -1, *x.shape[1:]).transpose(1, 2)

    def back(self, rows: Tensor, out: Tensor) -> None:
        """Write (N, M, A, D) to the queries' places in out (T, A, D)."""
        rows = rows.reshape(self.n * self.m, *out.shape[1:])
        out.index_copy_(0, self.queries, rows if self.places is None else rows.index_select(0, self.places))

    def blocks(self) -> list[tuple[int, int, int]]:
        """(first query, last + 1, first key) of each block; its last key is its last query's own."""
        out = []
        for b in range(0, self.m, BLOCK):
            low = 0 if self.window is None else max(0, self.p + b + 1 - self.window)
            out.append((b, min(self.m, b + BLOCK), low))
        return out

    def mask(self, scores: Tensor, block: tuple[int, int, int]) -> None:
        """Set what a query does not see to -inf; scores (N, G, R, m, keys)."""
        b, _, low = block
        if (b, scores.dtype) not in self.masks:
            self.masks[b, scores.dtype] = self._masks(block, scores.dtype)
        left, right = self.masks[b, scores.dtype]
        if left is not None:
            scores[..., : self.p - low] += left
        scores[..., -right.shape[-1] :] += right

    def _masks(self, block: tuple[int, int, int], dtype: torch.dtype) -> tuple[Tensor | None, Tensor]:
        """To add to the first scores, for beginnings shorter than P, and to the last ones, for what comes later."""
        b, e, low = block
        query = torch.arange(self.p + b, self.p + e)[:, None]
        key = torch.arange(self.p + b if self.window is None else low, self.p + e)
        unseen = query < key
        if self.window is not None:
            unseen |= query - key >= self.window
        right = torch.zeros(unseen.shape, dtype=dtype).masked_fill_(unseen, -torch.inf)
        left = None if self.hidden is None or low >= self.p else self.hidden[:, None, ..., low:].to(dtype)
        return left, right


def rectangles(some: Sequence[Span], window: int | None) -> list[Rectangle]:
    """Spans of like sizes side by side: one more rectangle where that costs less than the padding it saves."""
    found: list[Rectangle] = []
    open_: list[Span] = []

    def cost(some: Sequence[Span]) -> int:
        most, shared = max(s.own for s in some), max(s.shared for s in some)
        return len(some) * most * (most + shared)

    for span in sorted(some, key=lambda s: (s.shared > 0, s.own, s.shared, s.start), reverse=True):
        if open_ and cost([*open_, span]) > cost(open_) + cost([span]) + OVERHEAD:
            found.append(Rectangle(open_, window))
            open_ = []
        open_.append(span)
    return [*found, Rectangle(open_, window)]


class Products:
    """Softmax between two batched matrix products. With low-precision inputs the scores are rounded to them.

    Where there is a kernel for the inputs, it makes all of it, and rounds what is behind the softmax alone.
    """

    def __init__(self, packed: Packed, window: int | None, steady: bool = False) -> None:
        self.spans, self.window, self.steady = spans(packed), window, steady

    @cached_property
    def rectangles(self) -> list[Rectangle]:
        """What the products are over."""
        return rectangles(self.spans, self.window)

    @cached_property
    def tasks(self) -> Tasks:
        """What the kernel does instead."""
        return Tasks(self.spans, self.window)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `Attend`."""
        if serves(None if self.steady else len(self.spans), q, k):
            return self.tasks(q, k, v)
        out: Tensor = _Products.apply(q, k, v, self)  # type: ignore[no-untyped-call]
        return out.flatten(1)


def _grouped(rows: Tensor, groups: int) -> Tensor:
    """(N, m, A, D) → (N·G, R·m, D): the queries that share a key are rows of one product."""
    n, m, heads, size = rows.shape
    return rows.view(n, m, groups, heads // groups, size).permute(0, 2, 3, 1, 4).reshape(n * groups, -1, size)


def _ungrouped(x: Tensor, n: int, m: int) -> Tensor:
    """(N·G, R·m, D) → (N, m, A, D)."""
    return x.view(n, len(x) // n, -1, m, x.shape[-1]).permute(0, 3, 1, 2, 4).flatten(2, 3)


class _Products(torch.autograd.Function):
    """Scores, softmax, weighted sum; block by block, so that no more than BLOCK queries' scores are there at once."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: Products) -> Tensor:
        out = torch.empty_like(q)
        kept: list[Tensor] = []
        keep = any(ctx.needs_input_grad)
        for r in plan.rectangles:
            rows, keys, values = r.rows(q), r.beside(k), r.beside(v)
            parts = []
            for block in r.blocks():
                p, _ = _probabilities(r, block, rows, keys)
                if keep and r.kept:
                    kept.append(p)
                b, e, low = block
                parts.append(_ungrouped(torch.bmm(p, values[:, :, low : r.p + e].flatten(0, 1)), r.n, e - b))
            r.back(parts[0] if len(parts) == 1 else torch.cat(parts, 1), out)
        if keep:
            ctx.plan = plan
            ctx.save_for_backward(q, k, v, *kept)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, *kept = ctx.saved_tensors
        grad_q = torch.empty_like(q)
        grad_k, grad_v = (torch.zeros_like(x, dtype=torch.float32) for x in (k, v))
        for r in ctx.plan.rectangles:
            rows, keys, values, pull = r.rows(q), r.beside(k), r.beside(v), r.rows(grad)
            back_k, back_v = (torch.zeros(x.shape, dtype=torch.float32) for x in (keys, values))
            parts = []
            for block in r.blocks():
                b, e, low = block
                seen = slice(low, r.p + e)
                p, queries = _probabilities(r, block, rows, keys, kept)
                pulled = _grouped(pull[:, b:e], keys.shape[1])
                slope = torch.bmm(pulled, values[:, :, seen].flatten(0, 1).transpose(1, 2))
                slope = torch._softmax_backward_data(slope, p, -1, p.dtype)
                scale = q.shape[-1] ** -0.5
                parts.append(_ungrouped(torch.bmm(slope, keys[:, :, seen].flatten(0, 1)).mul_(scale), r.n, e - b))
                for total, product in ((back_k, (slope, queries)), (back_v, (p, pulled))):
                    part = torch.bmm(product[0].transpose(1, 2), product[1])
                    total[:, :, seen] += part.view(r.n, -1, *part.shape[1:])
            r.back(parts[0] if len(parts) == 1 else torch.cat(parts, 1), grad_q)
            for total, part in ((grad_k, back_k), (grad_v, back_v)):
                total.index_add_(0, r.keys, part.transpose(1, 2).reshape(-1, *total.shape[1:]))
        return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype), None


def _probabilities(
    r: Rectangle, block: tuple[int, int, int], rows: Tensor, keys: Tensor, kept: list[Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """(N·G, R·m, keys) what each query of the block makes of each key, and the scaled queries; or the next one kept."""
    b, e, low = block
    n, groups, size = r.n, keys.shape[1], rows.shape[-1]
    queries = _grouped(rows[:, b:e], groups) * size**-0.5
    if kept is not None and r.kept:
        return kept.pop(0), queries
    scores = torch.bmm(queries, keys[:, :, low : r.p + e].flatten(0, 1).transpose(1, 2))
    r.mask(scores.view(n, groups, -1, e - b, scores.shape[-1]), block)
    return torch.softmax(scores, -1), queries
