"""Causal attention by PyTorch's fused kernels, for GPUs: over packed rows, or over one rectangle.

Legend: T tokens, A heads, G key/value heads, D head size; N sequences, F tokens of them whole.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.model.batch import Packed, firsts


def _power(length: int) -> int:
    """The power of two from `length` on. The kernel asks for a bound; one of few values is compiled for few times."""
    return 1 << (length - 1).bit_length()


class Varlen:
    """FlashAttention-2 (Dao 2023) over packed rows: no rectangle, no padding. In bf16 and fp16 on CUDA only.

    A sequence asks for its own tokens alone; its keys are the whole of it. The kernel aligns a sequence's last query
    with its last key, which is where they belong.
    """

    def __init__(self, packed: Packed, window: int | None, device: torch.device) -> None:
        self.source = None if packed.source is None else packed.source.to(device)
        self.most_own, self.longest = (_power(max(lengths)) for lengths in (packed.own, packed.lengths))
        self.queries, self.keys = (
            torch.tensor((0, *counts)).cumsum(0).to(device, torch.int32) for counts in (packed.own, packed.lengths)
        )
        self.window = (-1 if window is None else window - 1, 0)  # none to the right: causal

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `attention.Attend`."""
        from torch.nn.attention import varlen

        if self.source is not None:
            k, v = k[self.source], v[self.source]
        out = varlen.varlen_attn(
            q, k, v, self.queries, self.keys, self.most_own, self.longest, window_size=self.window, enable_gqa=True
        )
        assert isinstance(out, Tensor)  # with `return_aux` it would be more
        return out.flatten(1)


class Fused:
    """`scaled_dot_product_attention` over one rectangle: any device, any number format."""

    def __init__(self, packed: Packed, window: int | None, device: torch.device) -> None:
        lengths, source = packed.lengths, packed.source
        self.n, self.longest = len(lengths), max(lengths)
        self.index: Tensor | None = None  # (T,) place of each token in the rectangle; None: it is full
        self.copies: tuple[Tensor, Tensor] | None = None  # places of shared tokens' copies, and those tokens
        if min(lengths) != self.longest or source is not None:
            index = torch.cat([torch.arange(n) + i * self.longest for i, n in enumerate(lengths)])
            if source is not None:
                first = firsts(source)
                self.copies = index[~first].to(device), source[~first].to(device)
                index = index[first]
            self.index = index.to(device)
        self.mask: Tensor | None = None
        if window is not None and self.longest > window:
            at = torch.arange(self.longest, device=device)
            self.mask = (at[:, None] >= at) & (at[:, None] - at < window)

    def spread(self, x: Tensor, copies: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """(T, A, D) → (N, A, longest, D)."""
        if self.index is not None:
            rows = x.new_zeros(self.n * self.longest, *x.shape[1:]).index_copy_(0, self.index, x)
            x = rows if copies is None else rows.index_copy_(0, copies[0], x.index_select(0, copies[1]))
        return x.view(self.n, self.longest, *x.shape[1:]).transpose(1, 2)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `Attend`."""
        keys, values = self.spread(k, self.copies), self.spread(v, self.copies)
        out = F.scaled_dot_product_attention(
            self.spread(q), keys, values, self.mask, is_causal=self.mask is None, enable_gqa=True
        )
        out = out.transpose(1, 2).reshape(self.n * self.longest, -1)
        return out if self.index is None else out.index_select(0, self.index)
