"""What a layer does between its matrix products, each piece one pass over memory where it is compiled.

Eager PyTorch reads and writes a tensor for every operation. On a CPU the same pieces are there in C++ (`native.py`); on
a GPU `compiled` gives them through torch.compile, a kernel each, forward and backward.

Legend: T tokens, n width of a row, A heads, G key/value heads, D head size, I intermediate size, w words of a tile.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor


def normed(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """RMSNorm (Zhang and Sennrich 2019) in fp32, rounded once. x (T, n) → (T, n) in `dtype`."""
    return F.rms_norm(x.float(), (x.shape[-1],), weight, eps).to(dtype)


def added(x: Tensor, more: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x + more (T, n) fp32, and its RMSNorm in `dtype`."""
    x = x + more
    return x, F.rms_norm(x, (x.shape[-1],), weight, eps).to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021), halves split as Hugging Face does. x (T, A, D); cos, sin (T, 1, D/2)."""
    a, b = x.float().chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(x.dtype)


def rotated(qkv: Tensor, cos: Tensor, sin: Tensor, heads: int, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    """qkv (T, (A + 2G)·D) → q (T, A, D) and k (T, G, D) with rotary positions, v (T, G, D)."""
    q, k, v = torch.split(qkv.view(len(qkv), heads + 2 * groups, -1), [heads, groups, groups], 1)
    return rotate(q, cos, sin), rotate(k, cos, sin), v


def gated(x: Tensor) -> Tensor:
    """SwiGLU (Shazeer 2020) of gate and up side by side, (T, 2I) → (T, I)."""
    gate, up = x.chunk(2, -1)
    return F.silu(gate) * up


def tallied(logits: Tensor, target: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """logits (T, w), target (T,) int64 → of logits / temperature, in fp32: log Σ exp, mean under their softmax, and the
    target's own (0 where it is none of these words), (T,) each."""
    logits = logits.float() if temperature == 1 else logits.float() / temperature
    inside = (target >= 0) & (target < logits.shape[1])
    own = logits.gather(1, torch.where(inside, target, 0)[:, None])[:, 0]
    log_z = torch.logsumexp(logits, -1)
    mean = torch.linalg.vecdot((logits - log_z[:, None]).exp_(), logits.clamp_min(-1e30))
    return log_z, mean, torch.where(inside, own, 0.0)


def pushed(logits: Tensor, log_z: Tensor, target: Tensor, grad: Tensor, temperature: float) -> Tensor:
    """grad · (1 at the target − probability): what pulls at each of logits / temperature.

    logits (T, w), log_z (T,) of the whole vocabulary, target and grad (T,) → (T, w) in the logits' type.
    """
    logits32 = logits.float() if temperature == 1 else logits.float() / temperature
    push = (logits32 - log_z[:, None]).exp_().neg_()
    inside = (target >= 0) & (target < logits.shape[1])
    push.scatter_add_(1, torch.where(inside, target, 0)[:, None], inside[:, None].to(push.dtype))
    return push.mul_(grad[:, None]).to(logits.dtype)


@dataclass(frozen=True)
class Pieces:
    """The pieces, as they are or compiled."""

    normed: Callable[[Tensor, Tensor, float, torch.dtype], Tensor]
    added: Callable[[Tensor, Tensor, Tensor, float, torch.dtype], tuple[Tensor, Tensor]]
    rotated: Callable[[Tensor, Tensor, Tensor, int, int], tuple[Tensor, Tensor, Tensor]]
    gated: Callable[[Tensor], Tensor]
    tallied: Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor, Tensor]]
    pushed: Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]


EAGER = Pieces(normed, added, rotated, gated, tallied, pushed)


@cache
def compiled() -> Pieces:
    """The pieces through torch.compile, for rows of any number of tokens."""
    return Pieces(
        normed=torch.compile(normed, dynamic=True),
        added=torch.compile(added, dynamic=True),
        rotated=torch.compile(rotated, dynamic=True),
        gated=torch.compile(gated, dynamic=True),
        tallied=torch.compile(tallied, dynamic=True),
        pushed=torch.compile(pushed, dynamic=True),
    )
