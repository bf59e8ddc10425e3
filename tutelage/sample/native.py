"""Decoding in C++ (`model/kernels/decode.cpp`): what a row holds, and the draw of a token.

Legend: B rows, S slots, A heads, G key/value heads, C capacity, D head size, V vocabulary.
"""

import torch
from torch import Tensor

from tutelage.errors import TrainingError
from tutelage.model.kernels import call
from tutelage.sample.draw import NOT_NUMBERS


def look_back(
    q: Tensor, k: Tensor, v: Tensor, held: tuple[Tensor, Tensor], places: Tensor, window: int | None
) -> Tensor:
    """Keep each row's new key and value at its place, and let its queries look at all it holds up to there.

    q (B, A, D); k, v (B, G, D); held keys and values (S, G, C, D); places (B,) int64 → (B, A·D). The twin is
    `cache.look_back`.
    """
    rows, heads, size = q.shape
    out = torch.empty_like(q)
    sizes = rows, heads, k.shape[1], held[0].shape[2], size, window or 0
    call("looked", q.dtype, "pppppppllllll", q, k, v, *held, places, out, *sizes)
    return out.view(rows, heads * size)


def draw(logits: Tensor, uniform: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """See `draw.draw`, without top_k and top_p, at a temperature above 0; logits (B, V) stay as they are."""
    rows, size = logits.shape
    token, logprob = torch.empty(rows, dtype=torch.int64), torch.empty(rows)
    call("drawn", logits.dtype, "ppppllf", logits, uniform.contiguous(), token, logprob, rows, size, temperature)
    if bool((token < 0).any()):
        raise TrainingError(NOT_NUMBERS)
    return token, logprob
