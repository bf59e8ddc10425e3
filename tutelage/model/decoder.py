"""A decoder of the Llama family one can read in a sitting: RMSNorm, rotary positions, grouped queries, SwiGLU.

Serves Llama, SmolLM2, Mistral, Qwen2, Qwen2.5 and Qwen3. It works on packed rows (`batch.Packed`): no linear layer
sees padding. Weights, norms and the residual stream are fp32; matrix products run in `compute` (bf16 where the
machine gains from it, else fp32). Networks may share layers: see `adapters.py`.

Legend: T tokens, H hidden size, A heads, G key/value heads, D head size.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.model import native
from tutelage.model.attention import attention
from tutelage.model.batch import Packed
from tutelage.model.fused_attention import Varlen
from tutelage.model.fused_layer import Product, Weights, compiled
from tutelage.model.linear import Linear
from tutelage.model.pieces import EAGER, Pieces, normed, rotate


@dataclass(frozen=True)
class DecoderConfig:
    """The shape of a decoder, in Hugging Face's own terms."""

    family: str  # llama, mistral, qwen2 or qwen3
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope_theta: float
    rms_norm_eps: float
    tie_embeddings: bool
    context: int
    qkv_bias: bool = False
    qk_norm: bool = False
    sliding_window: int | None = None
    rope_scaling: dict[str, float | str] | None = None  # None, or rope_type llama3 or linear with their factors


class RMSNorm(nn.Module):
    """Zhang and Sennrich 2019, in fp32."""

    def __init__(self, weight: nn.Parameter, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = weight, eps

    def forward(self, x: Tensor) -> Tensor:
        """(…, n) → (…, n) fp32."""
        return normed(x, self.weight, self.eps, torch.float32)


def inverse_frequencies(config: DecoderConfig) -> Tensor:
    """(D/2,) fp32 rotation per position, with Llama 3's or linear scaling where the config asks for it."""
    inv = 1.0 / config.rope_theta ** (torch.arange(0, config.head_dim, 2).float() / config.head_dim)
    scaling = config.rope_scaling
    if scaling is None:
        return inv
    factor = float(scaling["factor"])
    if scaling["rope_type"] == "linear":
        return inv / factor
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    turns = float(scaling["original_max_position_embeddings"]) * inv / (2 * math.pi)
    smooth = ((turns - low) / (high - low)).clamp(0, 1)
    return inv / factor * (1 - smooth) + inv * smooth


class Block(nn.Module):
    """One layer, in two halves around attention, so that training and decoding call the same code."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        c = self.config = config
        self.pieces = EAGER

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape))

        width = (c.num_heads + 2 * c.num_kv_heads) * c.head_dim
        self.attention_norm = RMSNorm(parameter(c.hidden_size), c.rms_norm_eps)
        self.qkv = Linear(parameter(width, c.hidden_size), parameter(width) if c.qkv_bias else None)
        self.q_norm = RMSNorm(parameter(c.head_dim), c.rms_norm_eps) if c.qk_norm else None
        self.k_norm = RMSNorm(parameter(c.head_dim), c.rms_norm_eps) if c.qk_norm else None
        self.out = Linear(parameter(c.hidden_size, c.num_heads * c.head_dim))
        self.mlp_norm = RMSNorm(parameter(c.hidden_size), c.rms_norm_eps)
        self.gate_up = Linear(parameter(2 * c.intermediate_size, c.hidden_size))
        self.down = Linear(parameter(c.hidden_size, c.intermediate_size))

    def before(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden x (T, H) fp32 → rotated q (T, A, D), rotated k (T, G, D), v (T, G, D)."""
        c = self.config
        norm, do = self.attention_norm, self.pieces
        qkv = self.qkv(do.normed(x, norm.weight, norm.eps, self.qkv.compute))
        if self.q_norm is None or self.k_norm is None:
            return do.rotated(qkv, cos, sin, c.num_heads, c.num_kv_heads)
        qkv = qkv.view(-1, c.num_heads + 2 * c.num_kv_heads, c.head_dim)
        q, k, v = torch.split(qkv, [c.num_heads, c.num_kv_heads, c.num_kv_heads], 1)
        return rotate(self.q_norm(q).to(v.dtype), cos, sin), rotate(self.k_norm(k).to(v.dtype), cos, sin), v

    def whole(self, x: Tensor, cos: Tensor, sin: Tensor, attend: Varlen) -> Tensor:
        """`before`, attention and `after` as one compiled function, on CUDA; hidden x (T, H) → (T, H) fp32."""
        c, products = self.config, (self.qkv, self.out, self.gate_up, self.down)
        norms = None if self.q_norm is None or self.k_norm is None else (self.q_norm.weight, self.k_norm.weight)
        weights = Weights(
            (self.attention_norm.weight, self.mlp_norm.weight), norms, *(Product.of(linear) for linear in products)
        )
        run = compiled(c.num_heads, c.num_kv_heads, c.rms_norm_eps, self.qkv.lora_scale, self.qkv.compute)
        return run(x, cos, sin, attend, weights)

    def after(self, x: Tensor, attended: Tensor) -> Tensor:
        """Hidden x (T, H) and what attention gave (T, A·D) → the next hidden (T, H) fp32."""
        norm, do = self.mlp_norm, self.pieces
        x, inner = do.added(x, self.out(attended), norm.weight, norm.eps, self.gate_up.compute)
        grown: Tensor = x + self.down(do.gated(self.gate_up(inner)))
        return grown


class Decoder(nn.Module):
    """Tokens to hidden states. `heads.py` turns those into log-probabilities or scalars."""

    inverse: Tensor

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed: nn.Embedding = nn.utils.skip_init(  # type: ignore[no-untyped-call]
            nn.Embedding, config.vocab_size, config.hidden_size
        )
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(nn.Parameter(torch.empty(config.hidden_size)), config.rms_norm_eps)
        self.lm_head = None if config.tie_embeddings else Linear(nn.Parameter(torch.empty_like(self.embed.weight)))
        self.compute = torch.float32
        self.pieces = EAGER
        self.register_buffer("inverse", inverse_frequencies(config), persistent=False)

    def initialise(self, generator: torch.Generator, std: float = 0.02) -> "Decoder":
        """Random weights N(0, std), norms 1, biases 0, as the Llama family starts. For tiny models and tests."""
        with torch.no_grad():
            for name, p in self.named_parameters():
                if "norm" in name:
                    p.fill_(1.0)
                elif name.endswith("bias"):
                    p.zero_()
                else:
                    p.normal_(0, std, generator=generator)
        return self

    def compute_in(self, dtype: torch.dtype) -> "Decoder":
        """Run matrix products in this dtype; the weights stay fp32."""
        self.compute = dtype
        for module in self.modules():
            if isinstance(module, Linear):
                module.compute = dtype
        return self

    def use(self, pieces: Pieces) -> "Decoder":
        """Run what lies between matrix products so from now on."""
        self.pieces = pieces
        for layer in self.layers:
            assert isinstance(layer, Block)
            layer.pieces = pieces
        return self

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """While inside, products are made by kernels for a sampler's rows, where there are any.

        All of them, however many rows there are: two kernels add up in another order, and then which one a row meets
        would depend on its company.
        """
        linears = [m for m in self.modules() if isinstance(m, Linear)] if self.pieces == native.PIECES else []
        try:
            for linear in linears:
                linear.lay_out(True)
            yield
        finally:
            for linear in linears:
                linear.lay_out(False)

    def head_weight(self) -> Tensor:
        """(V, H) fp32: the output matrix, tied to the embedding or its own."""
        return self.embed.weight if self.lm_head is None else self.lm_head.weight

    def rotation(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Positions (T,) → cos, sin (T, 1, D/2) fp32."""
        angle = positions[:, None, None].float() * self.inverse
        return angle.cos(), angle.sin()

    def run(
        self, packed: Packed, start: int, stop: int, hidden: Tensor | None = None, rows: Tensor | None = None
    ) -> Tensor:
        """Layers start to stop over the packed rows; hidden (T, H) is the input of layer `start`, None to embed.

        Packed rows may lie on any device; the result is on the weights'. With `rows` (M,) it is those of it alone, and
        the last layer computes no others behind its attention.
        """
        device = self.embed.weight.device
        x = self.embed(packed.tokens.to(device)) if hidden is None else hidden.to(device)
        if start >= stop:
            return x if rows is None else x[rows]
        attend = attention(packed, self.config.sliding_window, device, self.compute)
        cos, sin = self.rotation(packed.positions.to(device))
        rows = None if rows is None else rows.to(device)  # before the work: behind it, a copy would wait for it
        for layer in self.layers[start:stop]:
            assert isinstance(layer, Block)
            if isinstance(attend, Varlen):
                x = layer.whole(x, cos, sin, attend)
                continue
            attended = attend(*layer.before(x, cos, sin))
            if rows is not None and layer is self.layers[stop - 1]:
                x, attended = x[rows], attended[rows]
            x = layer.after(x, attended)
        return x if rows is None or not isinstance(attend, Varlen) else x[rows]

    def forward(
        self,
        packed: Packed,
        hidden: Tensor | None = None,
        start: int = 0,
        rows: Tensor | None = None,
        *,
        sparse: bool = False,
    ) -> Tensor:
        """Packed rows → normed hidden states (T, H) fp32, or the (M, H) of these `rows` alone.

        With `hidden`, begin at layer `start` from there. `sparse`: on a CPU the embedding's gradient has rows for these
        tokens alone. Autograd adds it in place to that of a tied output matrix, where the loss uses that too; where it
        does not, somebody has to lay it out for the optimiser, as `Learner` does.
        """
        if hidden is None and sparse and self.embed.weight.device.type == "cpu":
            hidden = F.embedding(packed.tokens.cpu(), self.embed.weight, sparse=True)
        x: Tensor = self.norm(self.run(packed, start, len(self.layers), hidden, rows))
        return x
