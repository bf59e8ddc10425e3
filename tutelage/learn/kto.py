"""KTO: liked and disliked completions, no pairs (Ethayarajh et al. 2024, KTO: model alignment as prospect theoretic
optimization, section 4).

1. A completion's log π/ref is judged against a reference point z, the KL divergence as the policy's own change on
   mismatched pairs shows it: a prompt with another prompt's completion. It is max(0, mean), without gradient.
2. z is the mean over the whole batch, not over a micro-batch, so that cutting a batch changes nothing.
3. Which completion a prompt is mismatched with is fixed for the run, so the reference's side of z is computed once.
4. A soft label d weighs the loss of a liked and of a disliked completion, d and 1 − d.

Legend: N completions, M completion tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tutelage.feedback.formats.trl import MIDDLE
from tutelage.learn.preference import Preference, beats
from tutelage.learn.preference_losses import KTO, implicit_reward
from tutelage.learn.reward import right
from tutelage.learn.rollout import response_batch
from tutelage.model.batch import Batch, Lazy, gather
from tutelage.model.chat import Tokenizer
from tutelage.model.heads import Policy
from tutelage.model.maths import segment_sum
from tutelage.records import Rating


@dataclass(frozen=True)
class Judged:
    """A completion somebody liked or not."""

    sequence: tuple[int, ...]  # prompt and completion
    prompt: int  # tokens of the prompt
    desirable: float  # probability that it is liked

    @property
    def asked(self) -> tuple[int, ...]:
        """The prompt's tokens."""
        return self.sequence[: self.prompt]


@dataclass(frozen=True)
class Opinion:
    """A judged completion and its prompt's mismatched one."""

    judged: Judged
    stranger: tuple[int, ...]  # the same prompt with another prompt's completion

    @property
    def sequences(self) -> tuple[tuple[int, ...], ...]:
        """The completion and the mismatched one, each after the prompt."""
        return self.judged.sequence, self.stranger

    @property
    def prompt(self) -> int:
        """Tokens of the prompt."""
        return self.judged.prompt

    @property
    def tokens(self) -> int:
        """Tokens of both sequences."""
        return len(self.judged.sequence) + len(self.stranger)


def rated(rating: Rating, tokenizer: Tokenizer, max_tokens: int) -> list[Judged]:
    """A rating above the middle of the scale is liked, one below it is not; the middle says neither and gives nothing.

    Raises DataError when the prompt leaves no room.
    """
    if rating.score == MIDDLE:
        return []
    done = rating.completion
    example = tokenizer.example(rating.prompt, done.text, max_tokens=max_tokens, finish=done.finish)
    return [Judged(example.tokens, len(tokenizer.prompt(rating.prompt)), float(rating.score > MIDDLE))]


def likings(ranks: Sequence[int], target: float | None, pair_targets: Sequence[float] | None) -> list[float]:
    """How probably each of K compared completions is liked: 1 when it won more often than it lost, 0 the other way.

    With soft targets, the mean probability that it is better than another: of a pair, the target. 1/2 says nothing.
    """
    others = (beats(ranks, target, pair_targets).sum(1) - 0.5) / (len(ranks) - 1)
    soft = target is not None or pair_targets is not None
    return others.tolist() if soft else ((torch.sign(others - 0.5) + 1) / 2).tolist()


def split(preference: Preference) -> list[Judged]:
    """A comparison's completions one by one; those of which it says nothing are left out."""
    r = preference.ranking
    rows = zip(preference.sequences, likings(r.ranks, r.target, r.pair_targets), strict=True)
    return [Judged(s, preference.prompt, liking) for s, liking in rows if liking != 0.5]


def opinions(judged: Sequence[Judged], seed: int, max_tokens: int) -> Lazy[Opinion]:
    """Give each prompt a mismatched completion: the next one of another prompt, in a random order drawn by the seed.

    Where there is no other prompt it is the next of the same one: the paper defines z of all that a prompt may be
    answered with, and takes other prompts' completions only to estimate it (section 4.1).

    Made when asked for: eight bytes an opinion lie in memory, beside what `judged` keeps there. Prompts are shorter
    than `max_tokens`.
    """
    order = torch.randperm(len(judged), generator=torch.Generator().manual_seed(seed))
    after = torch.empty_like(order).scatter_(0, order, order.roll(-1))

    @cache
    def of_several_prompts() -> bool:
        first = judged[0].asked
        return any(one.asked != first for one in judged)

    def make(places: Sequence[int]) -> list[Opinion]:
        following = after[list(places)].tolist()
        rows = gather(judged, [*places, *following])
        made = []
        for one, two, place in zip(rows[: len(places)], rows[len(places) :], following, strict=True):
            while two.asked == one.asked and of_several_prompts():
                place = int(after[place])
                two = judged[place]
            made.append(Opinion(one, (one.asked + two.sequence[two.prompt :])[:max_tokens]))
        return made

    return Lazy(len(judged), make)


def one_by_one(counts: NDArray[np.int64], groups: Sequence[Sequence[Judged]]) -> Lazy[Judged]:
    """What groups of so many hold, one after another; a group is fetched when something of it is asked for."""
    ends = np.cumsum(counts)

    def make(places: Sequence[int]) -> list[Judged]:
        group = np.searchsorted(ends, places, side="right")
        within = np.asarray(places) - (ends - counts)[group]
        rows = gather(groups, group.tolist())
        return [row[i] for row, i in zip(rows, within.tolist(), strict=True)]

    return Lazy(int(counts.sum()), make)


def chained(parts: Sequence[Sequence[Judged]]) -> Lazy[Judged]:
    """The items of one sequence after those of another."""
    starts = np.cumsum([0, *map(len, parts)]).tolist()

    def make(places: Sequence[int]) -> list[Judged]:
        found: dict[int, Judged] = {}
        for part, start in zip(parts, starts, strict=False):
            mine = [p for p in places if start <= p < start + len(part)]
            found |= zip(mine, gather(part, [p - start for p in mine]), strict=True)
        return [found[p] for p in places]

    return Lazy(starts[-1], make)


@dataclass(frozen=True)
class Opinions:
    """Packed opinions, ready for the loss."""

    own: Batch
    strangers: Batch
    lengths: Tensor  # (N,) completion tokens, which divide: 1 for none
    desirable: Tensor  # (N,)
    reference: Tensor  # (N,) log-probability of the completion under the reference, nats
    stranger_reference: Tensor  # (N,)

    @classmethod
    def of(cls, opinions: Sequence[Opinion], reference: Sequence[Tensor]) -> "Opinions":
        """Pack opinions; `reference` holds the log-probabilities (2,) of each."""
        known, prompts = torch.stack(list(reference)), [o.prompt for o in opinions]
        return cls(
            response_batch([o.judged.sequence for o in opinions], prompts),
            response_batch([o.stranger for o in opinions], prompts),
            torch.tensor([float(max(1, len(o.judged.sequence) - o.prompt)) for o in opinions]),
            torch.tensor([o.judged.desirable for o in opinions]),
            known[:, 0],
            known[:, 1],
        )

    @property
    def units(self) -> int:
        """Completions."""
        return len(self.lengths)


@torch.no_grad()
def reference_point(policy: Policy, batches: Sequence[Opinions]) -> float:
    """z: how much likelier than under the reference mismatched completions are, in nats, never below 0."""
    change = 0.0
    for b in batches:
        logprob = segment_sum(policy(b.strangers).logprob, b.strangers.segment, b.units)
        change += float((logprob - b.stranger_reference).sum())
    return max(0.0, change / sum(b.units for b in batches))


def kto_loss(
    policy: Policy, o: Opinions, loss: KTO, point: float, *, sft_weight: float, runaway: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Summed loss over completions: λ_D (1 − σ(r − βz)) for what is liked, λ_U (1 − σ(βz − r)) for what is not."""
    logprob = segment_sum(policy(o.own).logprob, o.own.segment, o.units)
    reward = implicit_reward(loss, logprob, o.reference, o.lengths)
    margin = reward - loss.beta * point
    liked, disliked = o.desirable * loss.desirable_weight, (1 - o.desirable) * loss.undesirable_weight
    likelihood = -(o.desirable * logprob / o.lengths).sum()
    total = (liked * torch.sigmoid(-margin) + disliked * torch.sigmoid(margin)).sum()
    if sft_weight:
        total = total + sft_weight * likelihood
    with torch.no_grad():
        good = o.desirable > 0.5
        chosen, rejected = good.float(), (~good).float()
        change = logprob - o.reference
        return total, {
            "judged": torch.tensor(float(o.units)),
            "chosen": chosen.sum(),
            "rejected": rejected.sum(),
            "dpo/loss": total,
            "dpo/nll": likelihood,
            "dpo/kl": -change.sum(),
            "dpo/reference_point": torch.tensor(point * o.units),
            "dpo/accuracy": right(torch.where(good, margin, -margin)).sum(),
            "dpo/runaway": (margin.abs() > runaway).sum(),
            "dpo/reward_chosen": (chosen * reward).sum(),
            "dpo/reward_rejected": (rejected * reward).sum(),
            "dpo/logprob_chosen": (chosen * logprob).sum(),
            "dpo/logprob_rejected": (rejected * logprob).sum(),
            "dpo/tokens_chosen": (chosen * o.lengths).sum(),
            "dpo/tokens_rejected": (rejected * o.lengths).sum(),
            "dpo/chosen_shift": (chosen * change / o.lengths).sum(),
        }
