"""Tensors in, tensors out: log-probabilities, KL estimators, advantages, ranking losses. No state, no models.

Legend: M chosen tokens, H hidden size, V vocabulary, N sequences, K completions of one prompt. Logarithms are natural.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.model.pieces import EAGER, Pieces

ROWS_AT_ONCE, WORDS_AT_ONCE = 1024, 2048  # logits that exist together: 8 MiB of fp32, which a processor's cache holds
GPU_ROWS, GPU_WORDS = 4096, 16384  # a GPU wants more at once: 256 MiB of fp32


class TokenLogprobs(NamedTuple):
    """Log-probabilities of chosen tokens and the entropy of the distributions they come from, both (M,) in nats."""

    logprob: Tensor
    entropy: Tensor


class _TokenLogprobs(torch.autograd.Function):
    """Log-softmax at the target, a tile of rows and words at a time.

    With a frozen head, d logprob / d hidden = (W[target] − Σ_v p_v W[v]) / temperature is computed on the way forward,
    while a tile's probabilities are at hand: no logits are kept and none are computed twice. With a trained head they
    are recomputed on the way back.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, target: Tensor, temperature: float, low: Tensor, pieces: Pieces
    ) -> tuple[Tensor, Tensor]:
        train_hidden, train_head = ctx.needs_input_grad[:2]
        states = hidden.to(low.dtype)
        log_z = hidden.new_full((len(target),), -torch.inf)
        mean, logit = torch.zeros_like(log_z), torch.zeros_like(log_z)
        expected = torch.zeros_like(hidden) if train_hidden and not train_head else None
        for rows, words in _tiles(len(target), len(low), low.device):
            logits = F.linear(states[rows], low[words])
            part, part_mean, own = pieces.tallied(logits, target[rows] - words.start, temperature)
            both = torch.logaddexp(log_z[rows], part)
            before, now = (log_z[rows] - both).exp_(), (part - both).exp_()
            mean[rows] = before * mean[rows] + now * part_mean
            logit[rows] += own
            if expected is not None:
                nowhere, minus = torch.full_like(target[rows], -1), torch.full_like(part, -1.0)
                sums = (pieces.pushed(logits, part, nowhere, minus, temperature) @ low[words]).float()
                expected[rows] = before[:, None] * expected[rows] + now[:, None] * sums
            log_z[rows] = both
        ctx.temperature, ctx.frozen_head, ctx.pieces = temperature, not train_head, pieces
        if train_head:
            ctx.save_for_backward(states, low, target, log_z)
        elif expected is not None:
            ctx.save_for_backward((low[target].float() - expected) / temperature)
        entropy = log_z - mean
        ctx.mark_non_differentiable(entropy)
        return logit - log_z, entropy

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        if ctx.frozen_head:
            (slope,) = ctx.saved_tensors
            return grad[:, None] * slope, None, None, None, None, None
        states, low, target, log_z = ctx.saved_tensors
        grad_hidden = torch.zeros(states.shape, device=states.device)
        grad_weight = torch.empty(low.shape, device=low.device)
        pull = grad / ctx.temperature
        for rows, words in _tiles(len(target), len(low), low.device):
            logits = F.linear(states[rows], low[words])
            push = ctx.pieces.pushed(logits, log_z[rows], target[rows] - words.start, pull[rows], ctx.temperature)
            grad_hidden[rows] += push @ low[words]
            part = push.T @ states[rows]
            grad_weight[words] = part if rows.start == 0 else grad_weight[words] + part
        return grad_hidden, grad_weight, None, None, None, None


def _tiles(rows: int, words: int, device: torch.device) -> Iterator[tuple[slice, slice]]:
    """Every row with every word, at most ROWS_AT_ONCE × WORDS_AT_ONCE at a time, in tiles of like sizes."""
    most, width = (ROWS_AT_ONCE, WORDS_AT_ONCE) if device.type == "cpu" else (GPU_ROWS, GPU_WORDS)
    height = -(-rows // -(-rows // most))
    for row in range(0, rows, height):
        for word in range(0, words, width):
            yield slice(row, row + height), slice(word, word + width)


def token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    *,
    temperature: float = 1.0,
    low: Tensor | None = None,
    pieces: Pieces = EAGER,
) -> TokenLogprobs:
    """Log-probability of each target under softmax(hidden · weightᵀ / temperature), and that softmax's entropy.

    hidden (M, H) fp32, weight (V, H) fp32, target (M,) → (M,), (M,). Never holds more than `ROWS_AT_ONCE` ×
    `WORDS_AT_ONCE` logits (on a GPU `GPU_ROWS` × `GPU_WORDS`). `low` is the weight in the dtype of the matrix products;
    gradients go to `weight`. The entropy has no gradient. `pieces` says by which code what lies between products is
    done.
    """
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}: log-probabilities need one above 0")
    low = weight.detach() if low is None else low.detach()
    return TokenLogprobs(*_TokenLogprobs.apply(hidden, weight, target, temperature, low, pieces))  # type: ignore[no-untyped-call]


def segment_sum(x: Tensor, segment: Tensor, n: int) -> Tensor:
    """Sum of x (M,) over each of n segments; segment (M,) int64 → (n,)."""
    return x.new_zeros(n).index_add(0, segment, x)


class KL(NamedTuple):
    """Three estimators of KL(policy ‖ reference) from the policy's samples (Schulman 2020), each (M,) in nats."""

    k1: Tensor
    k2: Tensor
    k3: Tensor


def kl_estimates(logprob: Tensor, reference: Tensor) -> KL:
    """k1 = log(π/ref), unbiased; k2 = k1²/2; k3 = ref/π − 1 + k1, unbiased and never negative."""
    k1 = logprob - reference
    return KL(k1, 0.5 * k1.square(), torch.expm1(-k1) + k1)


def rectangle(x: Tensor, lengths: Sequence[int]) -> Tensor:
    """(M,) laid out as (N, longest), zeros after each sequence's end."""
    return torch.nn.utils.rnn.pad_sequence(list(torch.split(x, list(lengths))), batch_first=True)


def gae(rewards: Tensor, values: Tensor, lengths: Sequence[int], *, discount: float, trace: float) -> Tensor:
    """Generalised advantage estimates (Schulman 2016, eq. 16) inside each sequence; past its end nothing has value.

    rewards, values (M,) with M = sum(lengths) → advantages (M,). `trace` is λ: 1 gives return − value, 0 the TD error.
    """
    reward, value = rectangle(rewards, lengths), rectangle(values, lengths)
    following = F.pad(value[:, 1:], (0, 1))
    delta = reward + discount * following - value
    advantage = torch.zeros_like(delta)
    carried = delta.new_zeros(len(delta))
    for t in reversed(range(delta.shape[1])):
        carried = delta[:, t] + discount * trace * carried
        advantage[:, t] = carried
    return torch.cat([row[:n] for row, n in zip(advantage, lengths, strict=True)])


def whiten(x: Tensor, *, shift_mean: bool = True) -> Tensor:
    """(x − mean) / std over everything given, biased variance, eps 1e-8; without `shift_mean` the mean is put back."""
    mean, variance = x.mean(), x.var(correction=0)
    white = (x - mean) * torch.rsqrt(variance + 1e-8)
    return white if shift_mean else white + mean


def explained_variance(values: Tensor, returns: Tensor) -> Tensor:
    """1 − Var(returns − values) / Var(returns): 1 is perfect, 0 no better than a constant."""
    return 1 - (returns - values).var(correction=0) / returns.var(correction=0).clamp_min(1e-12)


def pair_loss(margin: Tensor, target: Tensor) -> Tensor:
    """Bradley-Terry negative log-likelihood with soft targets (Christiano 2017, eq. 1); margin, target (P,) → (P,)."""
    return -(target * F.logsigmoid(margin) + (1 - target) * F.logsigmoid(-margin))


def plackett_luce_loss(scores: Tensor, ranks: Tensor) -> Tensor:
    """Negative log-likelihood of one ranking: −Σ_k log exp(r_k) / Σ_{j not before k} exp(r_j) (Plackett 1975).

    scores, ranks (K,), rank 1 best → scalar. Tied items share one denominator (Breslow 1974). K = 2 is Bradley-Terry.
    """
    behind = ranks[None, :] >= ranks[:, None]  # (K, K): j is still in the race when k is chosen
    denominator = torch.logsumexp(scores[None, :].masked_fill(~behind, -torch.inf), 1)
    return (denominator - scores).sum()


def clipped_policy_loss(ratio: Tensor, advantage: Tensor, clip: float, higher: float | None = None) -> Tensor:
    """PPO's pessimistic surrogate, negated to be minimised (Schulman 2017, eq. 7); (M,) → (M,).

    `higher` is the bound above, where it is another than the one below (Yu et al. 2025, eq. 10).
    """
    bounded = ratio.clamp(1 - clip, 1 + (clip if higher is None else higher))
    return torch.maximum(-advantage * ratio, -advantage * bounded)


def clipped_value_loss(value: Tensor, old: Tensor, returns: Tensor, clip: float) -> Tensor:
    """Half the larger squared error of the value and of the value clipped around the old one (baselines PPO2); (M,)."""
    near = old + (value - old).clamp(-clip, clip)
    return 0.5 * torch.maximum((value - returns).square(), (near - returns).square())
