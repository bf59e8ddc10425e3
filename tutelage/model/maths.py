"""Tensors in, tensors out: log-probabilities, KL estimators, advantages, ranking losses. No state, no models.

Legend: M chosen tokens, H hidden size, V vocabulary, N sequences, K completions of one prompt. Logarithms are natural.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LOGITS_AT_ONCE = 2**24  # numbers of fp32: 64 MiB, whatever the batch


class TokenLogprobs(NamedTuple):
    """Log-probabilities of chosen tokens and the entropy of the distributions they come from, both (M,) in nats."""

    logprob: Tensor
    entropy: Tensor


class _TokenLogprobs(torch.autograd.Function):
    """Log-softmax at the target, a chunk of rows at a time.

    With a frozen head, d logprob / d hidden = (W[target] − Σ_v p_v W[v]) / temperature is computed on the way forward,
    while the chunk's probabilities are at hand: no logits are kept and none are computed twice. With a trained head
    they are recomputed on the way back.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, target: Tensor, temperature: float, low: Tensor
    ) -> tuple[Tensor, Tensor]:
        rows = max(1, LOGITS_AT_ONCE // weight.shape[0])
        train_hidden, train_head = ctx.needs_input_grad[:2]
        logprob, entropy = hidden.new_empty(len(target)), hidden.new_empty(len(target))
        log_z = hidden.new_empty(len(target))
        slope = torch.empty_like(hidden) if train_hidden and not train_head else None
        for part in range(0, len(target), rows):
            at = slice(part, part + rows)
            logits = F.linear(hidden[at].to(low.dtype), low).float() / temperature
            log_z[at] = torch.logsumexp(logits, -1)
            logits -= log_z[at, None]
            logprob[at] = logits.gather(1, target[at, None])[:, 0]
            probability = logits.exp()
            entropy[at] = -torch.linalg.vecdot(probability, logits.clamp_min_(-1e4))
            if slope is not None:
                expected = (probability.to(low.dtype) @ low).float()
                slope[at] = (low[target[at]].float() - expected) / temperature
        ctx.temperature, ctx.rows, ctx.frozen_head = temperature, rows, not train_head
        if train_head:
            ctx.save_for_backward(hidden, low, target, log_z)
        elif slope is not None:
            ctx.save_for_backward(slope)
        ctx.mark_non_differentiable(entropy)
        return logprob, entropy

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        if ctx.frozen_head:
            (slope,) = ctx.saved_tensors
            return grad[:, None] * slope, None, None, None, None
        hidden, low, target, log_z = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(low, dtype=torch.float32)
        for part in range(0, len(target), ctx.rows):
            at = slice(part, part + ctx.rows)
            logits = F.linear(hidden[at].to(low.dtype), low).float() / ctx.temperature
            push = (logits - log_z[at, None]).exp_().neg_()
            push[torch.arange(len(push)), target[at]] += 1
            push *= grad[at, None] / ctx.temperature
            grad_hidden[at] = (push.to(low.dtype) @ low).float()
            grad_weight += (push.to(low.dtype).T @ hidden[at].to(low.dtype)).float()
        return grad_hidden, grad_weight, None, None, None


def token_logprobs(
    hidden: Tensor, weight: Tensor, target: Tensor, *, temperature: float = 1.0, low: Tensor | None = None
) -> TokenLogprobs:
    """Log-probability of each target under softmax(hidden · weightᵀ / temperature), and that softmax's entropy.

    hidden (M, H) fp32, weight (V, H) fp32, target (M,) → (M,), (M,). Never holds more than `LOGITS_AT_ONCE` logits.
    `low` is the weight in the dtype of the matrix products; gradients go to `weight`. The entropy has no gradient.
    """
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}: log-probabilities need one above 0")
    low = weight.detach() if low is None else low.detach()
    return TokenLogprobs(*_TokenLogprobs.apply(hidden, weight, target, temperature, low))  # type: ignore[no-untyped-call]


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
