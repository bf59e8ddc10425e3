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
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import increment_version
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from tutelage.model import native
from tutelage.model.attention import attention
from tutelage.model.batch import Packed
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


def _note_step(optimizer: Optimizer, *_: Any) -> None:
    """Count a step in its weights' versions, which `Linear.low` reads and fused optimisers leave as they were."""
    for group in optimizer.param_groups:
        increment_version(group["params"])


register_optimizer_step_post_hook(_note_step)


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
        self._low: tuple[tuple[int, int], Tensor] | None = None  # (state of the weight, its copy in the compute dtype)
        self._panels: tuple[tuple[int, int], Tensor] | None = None  # the same, laid out for a few rows at a time

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) in any dtype → (…, out) in the compute dtype."""
        x = x.to(self.compute)
        bias = None if self.bias is None else self.bias.to(self.compute)
        if (panels := self._laid_out(x)) is not None:
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
        if self.weight.dtype == self.compute:
            return self.weight
        state = self._state()
        if self._low is None or self._low[0] != state or self._low[1].dtype != self.compute:
            self._low = (state, self.weight.detach().to(self.compute))
        return self._low[1]

    def lay_out(self, on: bool) -> None:
        """Keep the weight as `native.panels` too, as long as it stands still, for a sampler's rows; or no longer."""
        panels = native.panels(self.low()) if on else None
        self._panels = None if panels is None else (self._state(), panels)

    def _laid_out(self, x: Tensor) -> Tensor | None:
        """The panels, where they are as the weight is now and serve x (rows, in)."""
        if self._panels is None or len(x) > native.FEW_ROWS or torch.is_grad_enabled():
            return None
        return self._panels[1] if self._panels[0] == self._state() else None

    def _state(self) -> tuple[int, int]:
        """What changes with the weight: its version, and its place, so that a copy or move of it counts anew."""
        return self.weight._version, self.weight.data_ptr()

    def lend(self, other: "Linear") -> None:
        """Let a layer over the same frozen weight use the same low-precision copy."""
        with torch.no_grad():
            self.low()
        other._low = self._low

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_low": None, "_panels": None}  # copies of the layer make their own


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
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
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
    def few_rows(self) -> Iterator[None]:
        """While inside, products with a few rows are made by kernels for them, where there are any."""
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

    def run(self, packed: Packed, start: int, stop: int, hidden: Tensor | None = None) -> Tensor:
        """Layers start to stop over the packed rows; hidden (T, H) is the input of layer `start`, None to embed.

        Packed rows may lie on any device; the result is on the weights'.
        """
        device = self.embed.weight.device
        x = self.embed(packed.tokens.to(device)) if hidden is None else hidden.to(device)
        if start >= stop:
            return x
        attend = attention(packed.lengths, self.config.sliding_window, device, packed.source)
        cos, sin = self.rotation(packed.positions.to(device))
        for layer in self.layers[start:stop]:
            assert isinstance(layer, Block)
            x = layer.after(x, attend(*layer.before(x, cos, sin)))
        return x

    def forward(self, packed: Packed, hidden: Tensor | None = None, start: int = 0) -> Tensor:
        """Packed rows → normed hidden states (T, H) fp32. With `hidden`, begin at layer `start` from there."""
        x: Tensor = self.norm(self.run(packed, start, len(self.layers), hidden))
        return x
