"""One batch of experience: what the policy wrote, what the reference, the reward and the critic say of it.

Legend: N sequences, T tokens of prompts and responses, M response tokens, H hidden size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from tutelage.config import Section
from tutelage.learn.reward import RewardModel
from tutelage.model.batch import Batch, Example, cut
from tutelage.model.decoder import Decoder
from tutelage.model.heads import Head, Policy, common_layers, trunk
from tutelage.model.maths import gae, kl_estimates, segment_sum, whiten
from tutelage.sample.sampler import Sampled

RewardFunction = Callable[[Sequence[Sequence[int]], Sequence[Sequence[int]]], Tensor]
"""Prompts and responses as token ids → scores (N,). For rewards that are rules, judges or tests, not networks."""
Reward = RewardModel | RewardFunction
"""What scores answers."""
RewardSource = Literal["model", "rules", "both", "propositions", "judge"]
"""What gives a run's scores, as settings name it."""


class EndRule(Section):
    """What a response that does not end within the limit gets (Stiennon et al. 2020 and after)."""

    kind: Literal["penalty", "fixed", "none"] = "penalty"
    """Subtract `value` from its score, give it −`value` instead of its score, or nothing at all."""
    value: Annotated[float, Field(ge=0)] = 1.0
    """In standard deviations of the reward."""


class Shaping(Section):
    """How scores become per-token rewards and advantages."""

    discount: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Discount per token, γ."""
    trace: Annotated[float, Field(ge=0, le=1)] = 0.95
    """λ of generalised advantage estimation: 1 is return − value."""
    whiten_advantages: bool = True
    """Advantages to mean 0 and deviation 1 over the batch's real tokens."""
    end: EndRule = EndRule()


@dataclass(frozen=True)
class Minibatch:
    """Some sequences of a rollout, ready for the loss."""

    batch: Batch
    hidden: Tensor | None  # (T, H) entering the first layer that networks do not share
    features: Tensor | None  # (M, H) of the reward model, for a critic that is a head on them
    old: Tensor  # (M,) log-probability under the policy that sampled
    reference: Tensor  # (M,) under the reference
    values: Tensor  # (M,) at sampling time; zeros without a critic
    advantages: Tensor  # (M,)
    returns: Tensor  # (M,)

    @property
    def units(self) -> int:
        """Response tokens."""
        return self.batch.units


@dataclass(frozen=True)
class Rollout:
    """A whole batch of experience. Every field is there or the object is not."""

    sequences: tuple[tuple[int, ...], ...]  # N: prompt and response
    prompt_lengths: tuple[int, ...]  # N
    ended: Tensor  # (N,) bool: the end token was written within the limit
    hidden: Tensor | None  # (T, H)
    features: Tensor | None  # (M, H)
    old: Tensor  # (M,)
    reference: Tensor  # (M,)
    values: Tensor  # (M,)
    scores: Tensor  # (N,) what the reward said, before the end rule
    rewards: Tensor  # (M,) per token: −coefficient · k1, and the score at the last
    advantages: Tensor  # (M,)
    returns: Tensor  # (M,)

    @property
    def response_lengths(self) -> list[int]:
        """N response lengths in tokens; they sum to M."""
        return [len(s) - p for s, p in zip(self.sequences, self.prompt_lengths, strict=True)]

    @property
    def sequence_kl(self) -> Tensor:
        """(N,) log π(y|x) − log π_ref(y|x) in nats: its mean estimates the KL divergence."""
        lengths = torch.tensor(self.response_lengths)
        segment = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        return segment_sum(kl_estimates(self.old, self.reference).k1, segment, len(lengths))

    def take(self, chosen: Sequence[int]) -> Minibatch:
        """The minibatch of these sequences."""
        whole = torch.tensor([len(s) for s in self.sequences])
        tokens = _rows(whole, chosen)
        answers = _rows(torch.tensor(self.response_lengths), chosen)
        return Minibatch(
            response_batch(
                [self.sequences[i] for i in chosen],
                [self.prompt_lengths[i] for i in chosen],
                share=self.hidden is None,
            ),
            None if self.hidden is None else self.hidden[tokens],
            None if self.features is None else self.features[answers],
            self.old[answers],
            self.reference[answers],
            self.values[answers],
            self.advantages[answers],
            self.returns[answers],
        )

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {f.name: self.__dict__[f.name] for f in fields(self)}


def _rows(lengths: Tensor, chosen: Sequence[int]) -> Tensor:
    """Rows of the packed layout that belong to the chosen sequences, in the order chosen."""
    count = lengths[list(chosen)]
    first = (lengths.cumsum(0) - lengths)[list(chosen)]
    return torch.arange(int(count.sum())) + torch.repeat_interleave(first - (count.cumsum(0) - count), count)


def response_batch(sequences: Sequence[Sequence[int]], prompt_lengths: Sequence[int], *, share: bool = True) -> Batch:
    """Sequences packed, with every response token to be predicted; neighbours share their beginning unless told not to.

    Hidden states kept with a rollout are of whole sequences: they ask for `share=False`.
    """
    examples = [
        Example(tuple(s), (False,) * p + (True,) * (len(s) - p)) for s, p in zip(sequences, prompt_lengths, strict=True)
    ]
    return Batch.of(examples, share=share)


class ActorCritic(nn.Module):
    """The policy and its value function, one root module.

    The value head reads a critic of its own (`critic`), the reward model's features (given with the minibatch), or the
    policy's own hidden states (one network trained instead of two). Without a head there is no critic: values are 0.
    """

    def __init__(self, policy: Policy, head: Head | None, critic: Decoder | None) -> None:
        super().__init__()
        self.policy, self.head, self.critic = policy, head, critic

    def forward(self, m: Minibatch, *, temperature: float, start: int) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities, entropies and values of the M response tokens, each (M,)."""
        out = self.policy(m.batch, temperature=temperature, hidden=m.hidden, start=start)
        return out.logprob, out.entropy, self.value(m.batch, out.hidden, m.features, m.hidden, start)

    def value(
        self, batch: Batch, own: Tensor | None, features: Tensor | None, hidden: Tensor | None, start: int
    ) -> Tensor:
        """Values (M,) from whichever states this critic reads."""
        if self.head is None:
            return torch.zeros(batch.units)
        if self.critic is not None:
            own = self.critic(batch.packed, hidden, start, batch.index)
        elif features is not None:
            own = features
        assert own is not None
        values: Tensor = self.head(own)
        return values


@dataclass(frozen=True)
class Networks:
    """Everything a rollout asks. They may share their lower layers; `shared` of them are run once for all."""

    actor: ActorCritic
    reference: Policy
    reward: Reward
    features: bool  # the critic is a head on the reward model's features

    @property
    def shared(self) -> int:
        """Layers, from the bottom, that all networks have in common as the same objects."""
        decoders = [self.actor.policy.decoder, self.reference.decoder]
        if isinstance(self.reward, RewardModel):
            decoders.append(self.reward.scorer.decoder)
        if self.actor.critic is not None:
            decoders.append(self.actor.critic)
        return common_layers(*decoders)


@dataclass(frozen=True)
class _Answers:
    """What the networks say of some sequences."""

    hidden: Tensor | None  # (T, H)
    features: Tensor | None  # (M, H)
    reference: Tensor  # (M,)
    values: Tensor  # (M,)
    scores: Tensor  # (N,)


@torch.no_grad()
def _ask(
    nets: Networks, batch: Batch, prompt_lengths: Sequence[int], temperature: float, captured: Tensor | None
) -> _Answers:
    """`captured` (T, H) is what the sampler kept of the shared layers' output; None to run them."""
    shared = nets.shared
    packed = batch.packed
    hidden = trunk(nets.reference.decoder, packed, shared) if captured is None else captured
    reference = nets.reference(batch, temperature=temperature, hidden=hidden, start=shared).logprob
    features = None
    if isinstance(nets.reward, RewardModel):
        out = nets.reward.scorer(packed, torch.cat((packed.last, batch.index)), hidden=hidden, start=shared)
        scores = (out.score[: len(packed.lengths)] - nets.reward.mean) / nets.reward.std
        features = out.hidden[len(packed.lengths) :] if nets.features else None
    else:
        rows = [r.tolist() for r in torch.split(packed.whole, list(packed.lengths))]
        pairs = list(zip(rows, prompt_lengths, strict=True))
        scores = nets.reward([r[:p] for r, p in pairs], [r[p:] for r, p in pairs])
    own = None
    if nets.actor.critic is None and nets.actor.head is not None and features is None:
        own = nets.actor.policy(batch, temperature=temperature, hidden=hidden, start=shared).hidden
    return _Answers(hidden, features, reference, nets.actor.value(batch, own, features, hidden, shared), scores)


def end_scores(scores: Tensor, ended: Tensor, rule: EndRule) -> Tensor:
    """Scores (N,) with the end rule applied to those that did not end."""
    match rule.kind:
        case "penalty":
            return torch.where(ended, scores, scores - rule.value)
        case "fixed":
            return torch.where(ended, scores, torch.full_like(scores, -rule.value))
        case "none":
            return scores


def token_rewards(k1: Tensor, scores: Tensor, lengths: Sequence[int], coefficient: float) -> Tensor:
    """Per-token rewards (M,): −coefficient · k1 everywhere, and the score at each response's last token.

    Ziegler et al. 2019, equation 2, with the score where the response ends and not one position later.
    """
    rewards = -coefficient * k1
    rewards[torch.tensor(lengths).cumsum(0) - 1] += scores
    return rewards


def make_rollout(
    prompts: Sequence[Sequence[int]],
    sampled: Sequence[Sampled],
    nets: Networks,
    *,
    shaping: Shaping,
    coefficient: float,
    temperature: float,
    micro_tokens: int,
) -> Rollout:
    """Ask every network about the samples and turn scores into advantages.

    `coefficient` is the price of a nat of KL in standard deviations of the reward; `temperature` the one sampled at.
    """
    sequences = tuple(tuple(p) + s.tokens for p, s in zip(prompts, sampled, strict=True))
    prompt_lengths = tuple(len(p) for p in prompts)
    answers = []
    for part in cut([len(s) for s in sequences], micro_tokens):
        lengths = [prompt_lengths[i] for i in part]
        captured = _join([sampled[i].hidden for i in part])
        batch = response_batch([sequences[i] for i in part], lengths, share=not nets.shared)
        answers.append(_ask(nets, batch, lengths, temperature, captured))
    old = torch.cat([s.logprobs for s in sampled])
    reference, values = (torch.cat([a.__dict__[name] for a in answers]) for name in ("reference", "values"))
    scores = torch.cat([a.scores for a in answers])
    ended = torch.tensor([s.finish == "stop" for s in sampled])
    response = [len(s.tokens) for s in sampled]
    k1 = kl_estimates(old, reference).k1
    rewards = token_rewards(k1, end_scores(scores, ended, shaping.end), response, coefficient)
    advantages = gae(rewards, values, response, discount=shaping.discount, trace=shaping.trace)
    return Rollout(
        sequences=sequences,
        prompt_lengths=prompt_lengths,
        ended=ended,
        hidden=_join([a.hidden for a in answers]),
        features=_join([a.features for a in answers]),
        old=old,
        reference=reference,
        values=values,
        scores=scores,
        rewards=rewards,
        advantages=whiten(advantages) if shaping.whiten_advantages else advantages,
        returns=advantages + values,
    )


def _join(parts: Sequence[Tensor | None]) -> Tensor | None:
    present = [p for p in parts if p is not None]
    return torch.cat(present) if present else None
