"""Rankings as DPO and its kin read them: packed completions with their pairs, and the summed loss over prompts.

Legend: N sequences of all prompts in a batch, P pairs, K completions of one prompt, M completion tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tutelage.learn.learner import weighted_means
from tutelage.learn.preference_losses import ORPO, PairLoss, PlackettLuce, implicit_reward, needs_reference, pair_losses
from tutelage.learn.reward import Groups, Ranking, RewardConfig, render, right
from tutelage.learn.rollout import response_batch
from tutelage.model.batch import Batch
from tutelage.model.chat import Tokenizer
from tutelage.model.heads import Policy
from tutelage.model.maths import plackett_luce_loss, segment_sum
from tutelage.records import Comparison

MEANS_OVER: Mapping[str, str] = {
    "dpo/accuracy": "judged",
    "dpo/runaway": "judged",
    "dpo/reward_chosen": "chosen",
    "dpo/logprob_chosen": "chosen",
    "dpo/tokens_chosen": "chosen",
    "dpo/chosen_shift": "chosen",
    "dpo/reward_rejected": "rejected",
    "dpo/logprob_rejected": "rejected",
    "dpo/tokens_rejected": "rejected",
}
"""Figures that are means over some of a batch: the sum of these weights is logged beside them, and divides them."""


@dataclass(frozen=True)
class Preference:
    """One comparison as tokens, with the number of its prompt's tokens, which are read and not predicted."""

    ranking: Ranking
    prompt: int

    @property
    def sequences(self) -> tuple[tuple[int, ...], ...]:
        """K: prompt and completion."""
        return self.ranking.sequences

    @property
    def tokens(self) -> int:
        """Tokens in all K sequences."""
        return self.ranking.tokens

    @property
    def decides(self) -> bool:
        """Whether it prefers anything."""
        r = self.ranking
        return bool((beats(r.ranks, r.target, r.pair_targets) != 0.5).any())


def preference(
    comparison: Comparison, tokenizer: Tokenizer, max_tokens: int, targets: Sequence[float] | None = None
) -> Preference:
    """A comparison as tokens, each completion after its prompt, cut at `max_tokens`. `targets`: a pair's, i < j.

    Raises DataError, as `render`.
    """
    return Preference(render(comparison, tokenizer, max_tokens, targets), len(tokenizer.prompt(comparison.prompt)))


def beats(ranks: Sequence[int], target: float | None, pair_targets: Sequence[float] | None) -> Tensor:
    """(K, K) probability that completion i is better than j, 1/2 on the diagonal.

    The record's own target goes first, then those of the pairs i < j, then the ranks, which are certain.
    """
    place = torch.tensor(ranks)
    won = (torch.sign(place[None, :] - place[:, None]) + 1) / 2
    soft = pair_targets if target is None else (target,)
    if soft is not None:
        i, j = torch.triu_indices(len(ranks), len(ranks), 1)
        won[i, j] = torch.tensor(soft)
        won[j, i] = 1 - won[i, j]
    return won


@dataclass(frozen=True)
class Preferences:
    """Packed preferences of some prompts, ready for the loss."""

    groups: Groups  # their P pairs, as indices into the N sequences
    batch: Batch  # the same sequences with their M completion tokens
    lengths: Tensor  # (N,) completion tokens, which divide: 1 for none
    reference: Tensor  # (N,) log-probability under the reference, nats; zeros where the loss has none
    best: Tensor  # (N,) how much of each is imitated by a likelihood term; 1 a prompt

    @classmethod
    def of(cls, preferences: Sequence[Preference], reference: Sequence[Tensor] | None) -> "Preferences":
        """Pack whole preferences. `reference` holds the log-probabilities (K,) of each; None where none are needed.

        A completion without a token (empty, and cut before its end) has no likelihood a token: its pairs weigh nothing.
        """
        sequences = [s for p in preferences for s in p.sequences]
        lengths = torch.tensor([float(len(s) - p.prompt) for p in preferences for s in p.sequences])
        groups, written = Groups.of([p.ranking for p in preferences], RewardConfig()), lengths > 0
        return cls(
            replace(groups, weight=groups.weight * (written[groups.better] & written[groups.worse])),
            response_batch(sequences, [p.prompt for p in preferences for _ in p.sequences]),
            lengths.clamp_min(1),
            torch.zeros_like(lengths) if reference is None else torch.cat(list(reference)),
            torch.cat([best(p.ranking) for p in preferences]),
        )

    @property
    def units(self) -> int:
        """Prompts."""
        return self.groups.units


def best(ranking: Ranking) -> Tensor:
    """(K,) the share of each completion in what is imitated: its chance to beat all others, scaled to sum 1.

    Those ranked first share it equally; soft targets are taken as independent, and a pair's is its share.
    """
    chance = beats(ranking.ranks, ranking.target, ranking.pair_targets).prod(1)
    if not chance.any():  # targets that are certain and go round in a circle
        chance = torch.ones_like(chance)
    return chance / chance.sum()


def preference_loss(
    policy: Policy, p: Preferences, loss: PairLoss, *, sft_weight: float, runaway: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Summed loss over prompts; all pairs of a prompt weigh 1, and so does its best completion's likelihood per token.

    With it sums to log, for `means`. `runaway`: the implicit reward margin from which a pair counts as run away.
    """
    out = policy(p.batch)
    logprob = segment_sum(out.logprob, p.batch.segment, len(p.lengths))
    reward = implicit_reward(loss, logprob, p.reference, p.lengths)
    likelihood = -(p.best * logprob / p.lengths).sum()
    total = _rankings(loss, reward, p) if isinstance(loss, PlackettLuce) else _pairs(loss, reward, p)
    if isinstance(loss, ORPO):
        total = likelihood + loss.weight * total
    if sft_weight:
        total = total + sft_weight * likelihood
    with torch.no_grad():
        logged = _figures(p, reward, logprob, runaway) | {"dpo/loss": total, "dpo/nll": likelihood}
        if needs_reference(loss):
            share = torch.cat([torch.full((len(g.ranks),), 1 / len(g.ranks)) for g in p.groups.rankings])
            logged["dpo/kl"] = ((p.reference - logprob) * share).sum()
    return total, logged


def _pairs(loss: PairLoss, reward: Tensor, p: Preferences) -> Tensor:
    margin = reward[p.groups.better] - reward[p.groups.worse]
    return (pair_losses(loss, margin, p.groups.target) * p.groups.weight).sum()


def _rankings(loss: PairLoss, reward: Tensor, p: Preferences) -> Tensor:
    """Whole rankings; a pair with a soft target has no order to speak of, so it is a pair."""
    total, parts = reward.new_zeros(()), torch.split(reward, [len(r.ranks) for r in p.groups.rankings])
    for scores, ranking in zip(parts, p.groups.rankings, strict=True):
        if ranking.target is None:
            total = total + plackett_luce_loss(scores, torch.tensor(ranking.ranks))
        else:
            total = total + pair_losses(loss, scores[:1] - scores[1:], torch.tensor([ranking.target])).sum()
    return total


def _figures(p: Preferences, reward: Tensor, logprob: Tensor, runaway: float) -> dict[str, Tensor]:
    """Sums over decided pairs, the likelier side of each being the chosen one, with their weights."""
    g = p.groups
    first = g.target > 0.5
    chosen, rejected = torch.where(first, g.better, g.worse), torch.where(first, g.worse, g.better)
    weight = g.weight * (g.target != 0.5)
    margin = reward[chosen] - reward[rejected]
    return {
        "judged": weight.sum(),
        "chosen": weight.sum(),
        "rejected": weight.sum(),
        "dpo/accuracy": (weight * right(margin)).sum(),
        "dpo/runaway": (weight * (margin.abs() > runaway)).sum(),
        "dpo/reward_chosen": (weight * reward[chosen]).sum(),
        "dpo/reward_rejected": (weight * reward[rejected]).sum(),
        "dpo/logprob_chosen": (weight * logprob[chosen]).sum(),
        "dpo/logprob_rejected": (weight * logprob[rejected]).sum(),
        "dpo/tokens_chosen": (weight * p.lengths[chosen]).sum(),
        "dpo/tokens_rejected": (weight * p.lengths[rejected]).sum(),
        "dpo/chosen_shift": (weight * (logprob - p.reference)[chosen] / p.lengths[chosen]).sum(),
    }


def means(logged: Mapping[str, float]) -> dict[str, float]:
    """What to write down: sums over some of a batch divided by their weights, and left out where nothing has any."""
    found = weighted_means(logged, MEANS_OVER)
    if "dpo/reward_chosen" in found and "dpo/reward_rejected" in found:
        found["dpo/margin"] = found["dpo/reward_chosen"] - found["dpo/reward_rejected"]
    return found
