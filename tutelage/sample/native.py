"""Decoding in C++ (`model/kernels/decode.cpp`): a layer, what a row holds, and the draw of a token.

Legend: B rows, S slots, H hidden size, A heads, G key/value heads, C capacity, D head size, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from tutelage.errors import TrainingError
from tutelage.model.decoder import Block, Decoder
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
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
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


class Layer:
    """A block's layer in one call, for rows that all continue. Weights must stand still as long as it is used."""

    def __init__(self, block: Block, panels: Sequence[Tensor]) -> None:
        self.config, self.norms = block.config, (block.attention_norm.weight, block.mlp_norm.weight)
        self.panels, self.eps = panels, block.attention_norm.eps

    def __call__(
        self, x: Tensor, cos: Tensor, sin: Tensor, held: tuple[Tensor, Tensor], places: Tensor, room: Tensor
    ) -> None:
        """x (B, H) fp32 becomes what leaves the layer; held keys and values (S, G, C, D); `room` is from `room_for`."""
        c = self.config
        sizes = (len(x), c.hidden_size, c.num_heads, c.num_kv_heads, held[0].shape[2], c.head_dim, c.intermediate_size,
                 c.sliding_window or 0)  # fmt: skip
        given = *self.norms, *self.panels, x, cos, sin, *held, places, room
        call("layer", torch.bfloat16, "p" * len(given) + "l" * len(sizes) + "f", *given, *sizes, self.eps)


def layers(decoder: Decoder) -> list[Layer] | None:
    """Every layer of a decoder that is inside `sampling`; None where one has a part that this code does not know."""
    found = []
    for block in decoder.layers:
        assert isinstance(block, Block)
        linears = (block.qkv, block.out, block.gate_up, block.down)
        panels = [linear.plain_panels() for linear in linears]
        if block.q_norm is not None or any(p is None for p in panels):
            return None
        found.append(Layer(block, [p for p in panels if p is not None]))
    return found


def room_for(decoder: Decoder, rows: int) -> Tensor:
    """What a `Layer` needs for its own numbers."""
    c = decoder.config
    each = 2 * c.hidden_size + (3 * c.num_heads + 4 * c.num_kv_heads) * c.head_dim + 3 * c.intermediate_size
    return torch.empty(rows * each, dtype=torch.bfloat16)
