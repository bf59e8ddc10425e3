"""What a run that learns from its own samples shows of itself, and the alarms. Names are without the algorithm's."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tutelage.errors import TrainingError
from tutelage.learn.learner import prefixed
from tutelage.learn.rollout import Rollout
from tutelage.model.maths import kl_estimates
from tutelage.progress import console

SAMPLER_GAP = 0.1  # nats, root mean square; 1e-5 is usual in fp32 and 1e-2 in bf16
COLLAPSE = 3.0  # standard deviations below the reference's mean reward
SURPRISE_ERRORS = 7.0  # standard errors by which the samples' surprise may miss the entropy
SURPRISE_VARIANCE = 0.05  # at least, in nats²: of a policy that has collapsed every draw is the same


@torch.no_grad()
def ratio_sums(logprob: Tensor, entropy: Tensor, old: Tensor, clipped: Tensor) -> dict[str, Tensor]:
    """Sums over a minibatch's M tokens, to be logged; `clipped` (M,) bool says whose ratio is out of bounds."""
    change = logprob - old
    ratio = change.exp()
    return {
        "entropy": entropy.sum(),
        "surprise": -old.sum(),
        "surprise_excess_square": (old + entropy).square().sum(),
        "clip_fraction": clipped.float().sum(),
        "ratio": ratio.sum(),
        "ratio_square": ratio.square().sum(),
        "log_ratio_square": change.square().sum(),
    }


def rollout_metrics(rollout: Rollout, coefficient: float) -> dict[str, float]:
    """What a rollout shows, every mean over real tokens or responses only."""
    kl = kl_estimates(rollout.old, rollout.reference)
    lengths = torch.tensor(rollout.response_lengths, dtype=torch.float32)
    return {
        "score": float(rollout.scores.mean()),
        "score_std": float(rollout.scores.std(correction=0)),
        "kl": float(rollout.sequence_kl.mean()),
        "kl_std": float(rollout.sequence_kl.std(correction=0)),
        "kl_k2": float(kl.k2.sum() / len(lengths)),
        "kl_k3": float(kl.k3.sum() / len(lengths)),
        "kl_coefficient": coefficient,
        "objective": float(rollout.scores.mean() - coefficient * rollout.sequence_kl.mean()),
        "response_tokens": float(lengths.mean()),
        "ended": float(rollout.ended.float().mean()),
    }


def step_metrics(
    name: str, rollout: Rollout, coefficient: float, logged: Sequence[Mapping[str, float]]
) -> dict[str, float]:
    """The rollout's figures and the means over its optimiser steps, under the algorithm's name."""
    metrics = rollout_metrics(rollout, coefficient)
    metrics |= {key: sum(one[key] for one in logged) / len(logged) for key in logged[0]}
    metrics["ratio_variance"] = max(0.0, metrics.pop("ratio_square") - metrics["ratio"] ** 2)
    del metrics["surprise"], metrics["surprise_excess_square"]
    metrics["sampler_gap"] = math.sqrt(logged[0]["log_ratio_square"])
    metrics["log_ratio_square"] = logged[-1]["log_ratio_square"]
    return prefixed(name, metrics)


def check_sampler(first: Mapping[str, float], units: int, *, whole: bool = True) -> None:
    """Hold the sampler to its word, on the first minibatch, which sees the policy that sampled.

    The trainer must compute the log-probabilities that the sampler gave, and on average over `units` tokens the
    surprise −log π of what was drawn must be the entropy of π: samples of another temperature, or cut by top-k, are not
    samples of the policy that is trained. The second holds of `whole` rollouts only: of samples that were chosen by
    their score it is not true. Raises TrainingError.
    """
    gap = math.sqrt(first["log_ratio_square"])
    if gap > SAMPLER_GAP:
        raise TrainingError(
            f"sampler and trainer disagree on log-probabilities by {gap:.3f} nats (root mean square; at most "
            f"{SAMPLER_GAP}): the sampler has stale weights or another temperature"
        )
    excess = first["surprise"] - first["entropy"]
    variance = max(first["surprise_excess_square"] - excess**2, SURPRISE_VARIANCE)
    if whole and abs(excess) > SURPRISE_ERRORS * math.sqrt(variance / units):
        raise TrainingError(
            f"the samples' mean surprise is {first['surprise']:.3f} nats a token, but the policy's entropy is "
            f"{first['entropy']:.3f}: they were drawn from another distribution (temperature, top-k, top-p?)"
        )


def warn(kl: float, kl_std: float, score: float, episodes: int) -> None:
    """Say aloud what other libraries pass over: a KL that is negative beyond chance, a reward that collapses."""
    if kl < -4 * kl_std / math.sqrt(episodes) - 1e-4:
        console.print(f"Warning: the KL is {kl:.3f} nats: a divergence is never negative. The reference "
                      "or the sampler is not what it should be.", style="yellow")  # fmt: skip
    if score < -COLLAPSE:
        console.print(f"Warning: the reward has collapsed to {score:.2f} standard deviations. Lower the "
                      "learning rate or raise kl.coefficient.", style="yellow")  # fmt: skip
