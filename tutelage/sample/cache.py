"""Keys and values of the rows being decoded, and attention over them.

Row b of the batch is row b of every tensor; rows 0 to B-1 are in use. Room grows as the longest row does, so that a
job with a high `max_tokens` whose answers end early never pays for it.

Legend: S slots, B rows in use, T tokens of a step, G key/value heads, R query heads to each, C capacity, D head size.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.model.attention import Attend, attention
from tutelage.model.batch import Packed
from tutelage.model.decoder import DecoderConfig
from tutelage.sample import native

STEP = 16  # lengths are rounded up to this


def round_up(length: int) -> int:
    """The next multiple of STEP."""
    return -(-length // STEP) * STEP


class Cache:
    """Room for S rows."""

    def __init__(self, config: DecoderConfig, slots: int, limit: int, dtype: torch.dtype, device: torch.device) -> None:
        self.config, self.slots, self.limit = config, slots, round_up(limit)
        self.dtype, self.device = dtype, device
        self.capacity = 0
        shape = (slots, config.num_kv_heads, 0, config.head_dim)
        self.k = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_layers)]  # (S, G, C, D)
        self.v = [torch.zeros_like(k) for k in self.k]

    def serves(self, slots: int, limit: int) -> bool:
        """Whether it is what a new one would be, but for the room it already has."""
        return (self.slots, self.limit) == (slots, round_up(limit))

    def reserve(self, length: int) -> None:
        """Make room for rows of this many tokens."""
        if length <= self.capacity:
            return
        self.capacity = min(self.limit, max(round_up(length), 2 * self.capacity))
        for held in (self.k, self.v):
            for i, old in enumerate(held):
                # zeros, not empty: a NaN left in memory would survive the mask, since 0 · NaN is NaN
                new = old.new_zeros(*old.shape[:2], self.capacity, old.shape[3])
                new[:, :, : old.shape[2]] = old
                held[i] = new

    def move(self, source: Tensor, target: Tensor, length: int) -> None:
        """Copy the first `length` tokens of rows `source` over rows `target`."""
        for held in (*self.k, *self.v):
            held[target, :, :length] = held[source, :, :length]


class Step:
    """Attention of one step. The first B tokens continue rows 0 to B-1; then come prompts, which start rows B, B+1, …

    A prompt that several rows start from is computed once: `copies[j]` is the prompt of row B + j.
    """

    def __init__(
        self, cache: Cache, positions: Tensor, prompts: Packed | None, copies: Sequence[int], *, compiled: bool = False
    ) -> None:
        """`positions` (B,) int64 on the CPU: how many tokens each continued row holds, where the new one goes.

        `compiled`: rows look back by the C++ of `native.py`.
        """
        self.cache, self.continued, self.positions, self.compiled = cache, len(positions), positions, compiled
        window, device = cache.config.sliding_window, cache.device
        row, place, source = [torch.arange(self.continued)], [positions], [torch.arange(self.continued)]
        self.prompts: Attend | None = None
        if prompts is not None:
            self.prompts = attention(prompts, window, device, cache.dtype, steady=True)
            starts = (prompts.starts + self.continued).tolist()
            for j, i in enumerate(copies):
                n = prompts.lengths[i]
                row.append(torch.full((n,), self.continued + j))
                place.append(torch.arange(n))
                source.append(torch.arange(n) + starts[i])
        self.row, self.place = torch.cat(row).to(device), torch.cat(place).to(device)
        self.source = torch.cat(source).to(device) if len(copies) != len(set(copies)) else None
        longest = int(positions.max()) + 1 if self.continued else 0
        cache.reserve(max([longest, *(prompts.lengths if prompts else ())]))
        self.span = min(round_up(longest), cache.capacity)
        self.bias = None if compiled else seen_bias(positions.to(device), self.span, window, cache.dtype)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q (T, A, D); k, v (T, G, D), kept in the cache → (T, A·D)."""
        b = self.continued
        held_k, held_v = self.cache.k[layer], self.cache.v[layer]
        out = []
        if self.prompts is not None or not self.compiled:
            held_k[self.row, :, self.place] = k if self.source is None else k[self.source]
            held_v[self.row, :, self.place] = v if self.source is None else v[self.source]
        if b and self.compiled:
            window = self.cache.config.sliding_window
            out.append(native.look_back(q[:b], k[:b], v[:b], (held_k, held_v), self.positions, window))
        elif b and self.bias is not None:
            out.append(look_back(q[:b], held_k[:b, :, : self.span], held_v[:b, :, : self.span], self.bias))
        if self.prompts is not None:
            out.append(self.prompts(q[b:], k[b:], v[b:]))
        return out[0] if len(out) == 1 else torch.cat(out)


def seen_bias(positions: Tensor, span: int, window: int | None, dtype: torch.dtype) -> Tensor:
    """positions (B,) → (B, 1, span): 0 where a row's new token looks, -inf beyond it and behind its window."""
    at, last = torch.arange(span, device=positions.device), positions[:, None]
    seen = at <= last if window is None else (at <= last) & (at > last - window)
    bias = torch.zeros(seen.shape, device=seen.device, dtype=dtype)
    return bias.masked_fill_(~seen, -torch.inf)[:, None]


def look_back(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """One query a row over what the row holds. q (B, A, D); k, v (B, G, span, D); bias (B, 1, span) → (B, A·D).

    The R = A/G queries that share a key are rows of one matrix product: no key is repeated. On a CPU in fp32 two
    batched products are 1.5 to 3 times as fast as PyTorch's fused attention; elsewhere the fused one is faster, and it
    keeps the scores in fp32.
    """
    rows, groups, span, size = k.shape
    grouped = q.view(rows, groups, -1, size)
    if q.dtype != torch.float32 or q.device.type != "cpu":
        return F.scaled_dot_product_attention(grouped, k, v, bias[:, None]).reshape(rows, -1)
    each = bias.expand(rows, groups, span).reshape(rows * groups, 1, span)
    scores = torch.baddbmm(each, grouped.flatten(0, 1), k.flatten(0, 1).transpose(1, 2), alpha=size**-0.5)
    return torch.bmm(scores.softmax(-1), v.flatten(0, 1)).view(rows, -1)
