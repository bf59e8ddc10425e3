"""What is minimised to prefer one completion to another: each kind's settings, implicit reward and loss of a pair.

Every kind gives a completion an implicit reward and a pair of completions, one better, a loss in their margin. Soft
targets t and ties (t = 1/2) weigh the loss of the pair and of its reverse, t f(m) + (1 − t) f(−m), whatever the kind.

Legend: N sequences, P pairs. Logarithms are natural; π is the policy, ref the reference.
"""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from tutelage.config import Section


class DPO(Section):
    """−log σ(m), reward β log π/ref (Rafailov et al. 2023, eq. 7)."""

    kind: Literal["dpo"] = "dpo"
    beta: Annotated[float, Field(gt=0)] = 0.1
    """β: implicit reward per nat of log π/ref."""


class Conservative(Section):
    """DPO with every target t moved to (1 − e) t + e (1 − t), as labels are believed to be flipped (Mitchell 2023)."""

    kind: Literal["conservative"] = "conservative"
    beta: Annotated[float, Field(gt=0)] = 0.1
    """β: implicit reward per nat of log π/ref."""
    label_noise: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    """e: share of labels believed to be flipped."""


class Robust(Section):
    """DPO with every target t moved to (t − e) / (1 − 2e): unbiased under flips (Chowdhury et al. 2024)."""

    kind: Literal["robust"] = "robust"
    beta: Annotated[float, Field(gt=0)] = 0.1
    """β: implicit reward per nat of log π/ref."""
    label_noise: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    """e: share of labels believed to be flipped."""


class IPO(Section):
    """(h − 1/(2τ))², h the difference of log π/ref: a margin that stays finite (Azar et al. 2023, eq. 17)."""

    kind: Literal["ipo"] = "ipo"
    tau: Annotated[float, Field(gt=0)] = 0.1
    """τ: the gap that is aimed at is 1/(2τ) nats; the implicit reward is τ log π/ref, so its margin is aimed at 1/2."""
    per_token: bool = False
    """Divide log π/ref by the completion's tokens, as TRL does; the paper sums."""


class LengthNormalised(Section):
    """−log σ(m), reward β log π/ref divided by the completion's tokens (Lambert et al. 2024, Tülu 3, section 5.1)."""

    kind: Literal["length_normalised"] = "length_normalised"
    beta: Annotated[float, Field(gt=0)] = 5.0
    """β: implicit reward per nat per token of log π/ref."""


class PlackettLuce(Section):
    """DPO on the likelihood of a whole ranking (Rafailov et al. 2023, appendix A.3, eq. 20); two items are DPO."""

    kind: Literal["plackett_luce"] = "plackett_luce"
    beta: Annotated[float, Field(gt=0)] = 0.1
    """β: implicit reward per nat of log π/ref."""


class SimPO(Section):
    """−log σ(m − γ), reward β log π per token; no reference (Meng et al. 2024, eq. 6)."""

    kind: Literal["simpo"] = "simpo"
    beta: Annotated[float, Field(gt=0)] = 2.0
    """β: implicit reward per nat per token of log π."""
    margin: Annotated[float, Field(ge=0)] = 1.0
    """γ: the margin in implicit reward that is asked for."""


class ORPO(Section):
    """The best's mean negative log-likelihood, and −λ log σ(log odds ratio); no reference (Hong et al. 2024, eq. 6)."""

    kind: Literal["orpo"] = "orpo"
    weight: Annotated[float, Field(gt=0)] = 0.1
    """λ: weight of the odds-ratio term; that of the likelihood is 1."""


class KTO(Section):
    """Liked and disliked completions, each by itself against a reference point (Ethayarajh et al. 2024)."""

    kind: Literal["kto"] = "kto"
    beta: Annotated[float, Field(gt=0)] = 0.1
    """β: implicit reward per nat of log π/ref."""
    desirable_weight: Annotated[float, Field(gt=0)] = 1.0
    """λ_D: weight of liked completions."""
    undesirable_weight: Annotated[float, Field(gt=0)] = 1.0
    """λ_U: weight of disliked completions."""
    source: Literal["ratings", "comparisons", "both"] = "both"
    """Ratings (above 4 of 7 is liked, below disliked), rankings (more won than lost is liked, the reverse disliked)."""


PairLoss = DPO | Conservative | Robust | IPO | LengthNormalised | PlackettLuce | SimPO | ORPO
Loss = Annotated[PairLoss | KTO, Field(discriminator="kind")]


def takes_targets(loss: PairLoss | KTO) -> bool:
    """Whether soft targets of all votes on a pair have a meaning for it.

    A whole ranking's likelihood has no soft form, the robust loss corrects single votes that are flipped at a known
    rate, which a target of all votes no longer is, and a rating is no pair.
    """
    return not isinstance(loss, PlackettLuce | Robust) and not (isinstance(loss, KTO) and loss.source == "ratings")


def needs_reference(loss: PairLoss | KTO) -> bool:
    """Whether the implicit reward is relative to a reference."""
    return not isinstance(loss, SimPO | ORPO)


def implicit_reward(loss: PairLoss | KTO, logprob: Tensor, reference: Tensor, tokens: Tensor) -> Tensor:
    """The reward a policy implies: log π(y|x), log ref(y|x) and lengths of completions, each (N,) → (N,)."""
    match loss:
        case DPO() | Conservative() | Robust() | PlackettLuce() | KTO():
            return loss.beta * (logprob - reference)
        case IPO():
            return loss.tau * (logprob - reference) / (tokens if loss.per_token else 1)
        case LengthNormalised():
            return loss.beta * (logprob - reference) / tokens
        case SimPO():
            return loss.beta * logprob / tokens
        case ORPO():
            return log_odds(logprob / tokens)


def log_odds(logprob: Tensor) -> Tensor:
    """log p/(1 − p) from log p (N,), without loss of digits near p = 1 (Mächler 2012)."""
    below = logprob.clamp_max(-1e-6)  # p = 1 has infinite odds
    return below - torch.where(below > -0.6931, torch.log(-torch.expm1(below)), torch.log1p(-torch.exp(below)))


def pair_losses(loss: PairLoss, margin: Tensor, target: Tensor) -> Tensor:
    """The loss of each pair; margin of implicit rewards and probability that the first is better, (P,), (P,) → (P,)."""
    believed = _believed(loss, target)
    return believed * _won(loss, margin) + (1 - believed) * _won(loss, -margin)


def _won(loss: PairLoss, margin: Tensor) -> Tensor:
    """The loss of pairs whose first is certainly the better, (P,) → (P,)."""
    match loss:
        case IPO():
            return ((margin - 0.5) / loss.tau).square()
        case SimPO():
            return -F.logsigmoid(margin - loss.margin)
        case _:
            return -F.logsigmoid(margin)


def _believed(loss: PairLoss, target: Tensor) -> Tensor:
    """The targets (P,) as they enter the loss."""
    match loss:
        case Conservative():
            return target * (1 - 2 * loss.label_noise) + loss.label_noise
        case Robust():
            return (target - loss.label_noise) / (1 - 2 * loss.label_noise)
        case _:
            return target
