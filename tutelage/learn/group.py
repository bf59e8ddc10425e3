"""Policy gradients without a critic: RLOO, GRPO, REINFORCE. A response is one action; others' rewards are its baseline.

1. The reward of a response is its score less coefficient · log(π/π_ref), as PPO's summed over tokens, so that the
   optimum is ref·exp(score/coefficient)/Z. GRPO's KL in the loss is an option (`kl_in`), with three estimators.
2. RLOO (Ahmadian et al. 2024, section 2.2) subtracts the mean reward of the prompt's *other* responses. GRPO (Shao et
   al. 2024, section 4.1) subtracts the mean of all and divides by the deviation. REINFORCE (Williams 1992) subtracts a
   running mean.
3. The fixes of GRPO are options: no division and a constant normaliser (Liu et al. 2025), clip-higher, a loss per token
   and no groups of equal rewards (Yu et al. 2025), a ratio per sequence (Zheng et al. 2025).
4. One rollout serves several clipped updates, and its first minibatch checks the sampler, both as in PPO.

    tutelage group --group.advantage.kind rloo --group.group_size 4
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from tutelage.errors import Interrupted
from tutelage.learn.advantage import Advantage, Reinforce, Rloo, advantages
from tutelage.learn.kl import LossKL, kl_penalty
from tutelage.learn.learner import Part, prefixed
from tutelage.learn.online import OnlineConfig, PolicyState, check_inputs, leave_model, minibatch_plan
from tutelage.learn.rollout import (
    ActorCritic,
    EndRule,
    Minibatch,
    Networks,
    Reward,
    Rollout,
    Shaping,
    end_scores,
)
from tutelage.learn.vital_signs import check_sampler, ratio_sums, step_metrics, warn
from tutelage.model.adapters import branch
from tutelage.model.batch import cut, gather, pick
from tutelage.model.causal import Model
from tutelage.model.heads import Policy
from tutelage.model.maths import clipped_policy_loss, segment_sum
from tutelage.progress import progress
from tutelage.runs import Run
from tutelage.sample.sampler import Sampler


class GroupConfig(OnlineConfig):
    """Policy gradients without a critic."""

    advantage: Advantage = Rloo()
    """What is subtracted from a response's reward, and what the difference is divided by."""
    group_size: Annotated[int, Field(ge=1)] = 4
    """Responses to each prompt of a rollout; batch_size is a multiple of it."""
    kl_in: Literal["reward", "loss"] = "reward"
    """Where a nat of KL is paid: taken off each response's reward, or added to the loss per token (GRPO)."""
    kl_loss: LossKL = "k2"
    """With kl_in loss: k2; k3 as GRPO published it, which has another optimum; or k3 weighted by π/π_old."""
    average: Literal["token", "response", "constant"] = "token"
    """Every token weighs the same (DAPO), every response does (GRPO), or sums are divided by max_tokens (Dr. GRPO)."""
    ratio: Literal["token", "response"] = "token"
    """Probability ratio of each token, or the geometric mean of a response's (GSPO)."""
    clip_higher: Annotated[float | None, Field(gt=0)] = None
    """The ratio's upper bound is 1 + this (DAPO: 0.28); none for the same as below."""
    equal_groups: Literal["keep", "drop", "redraw"] = "keep"
    """Groups whose scores are all equal: train on them, leave them out, or draw other prompts instead (DAPO)."""
    redraws: Annotated[int, Field(ge=1)] = 3
    """Most further rollouts a step with equal_groups redraw."""
    end: EndRule = EndRule()

    @model_validator(mode="after")
    def _whole_groups(self) -> Self:
        if self.batch_size % self.group_size:
            raise ValueError(f"batch_size {self.batch_size} isn't a multiple of group_size {self.group_size}")
        if self.group_size < 2 and not (isinstance(self.advantage, Reinforce) and self.equal_groups == "keep"):
            raise ValueError("group_size 1 has no group: only reinforce works with it, and only with equal_groups keep")
        if self.batch_size == 1 and isinstance(self.advantage, Reinforce) and self.advantage.baseline == "batch":
            raise ValueError("batch_size 1 has no other responses: set advantage.baseline to moving or none")
        return self


def group_loss(
    policy: Policy, m: Minibatch, config: GroupConfig, *, price: float, length: float, shared: int
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Summed clipped policy loss over the minibatch's tokens, with the KL's when it is paid here.

    `price` is the coefficient of the KL in the loss, `length` the mean length of the update's responses, in tokens:
    weights are such that the sum divided by the tokens is the average asked for.
    """
    out = policy(m.batch, temperature=config.sampling.temperature, hidden=m.hidden, start=shared)
    segment, count = m.batch.segment, len(m.batch.packed.lengths)
    lengths = segment_sum(torch.ones_like(out.logprob), segment, count)
    change = out.logprob - m.old
    if config.ratio == "response":
        change = (segment_sum(change, segment, count) / lengths)[segment]
    ratio, higher = change.exp(), config.clip_higher or config.clip
    loss = clipped_policy_loss(ratio, m.advantages, config.clip, higher)
    logged = {"policy_loss": loss.sum().detach()}
    if price:
        penalty = kl_penalty(out.logprob, m.reference, m.old, config.kl_loss)
        logged["kl_loss"] = penalty.sum().detach()
        loss = loss + price * penalty
    match config.average:
        case "response":
            loss = loss * (length / lengths)[segment]
        case "constant":
            loss = loss * (length / config.sampling.max_tokens)
        case "token":
            pass
    clipped = (ratio - 1 > higher) | (1 - ratio > config.clip)
    return loss.sum(), logged | ratio_sums(out.logprob, out.entropy, m.old, clipped)


class GroupState(PolicyState[GroupConfig]):
    """Policy, optimiser, rollout, the place in it, and the running mean of rewards."""

    def __init__(self, model: Model, reward: Reward, config: GroupConfig, sampler: Sampler | None) -> None:
        policy = Policy(branch(model.decoder, config.train, torch.Generator().manual_seed(config.seed)))
        nets = Networks(ActorCritic(policy, None, None), Policy(model.decoder), reward, features=False)
        shaping = Shaping(trace=1.0, whiten_advantages=False, end=config.end)
        super().__init__(model, nets, config, shaping, sampler, {})
        self.moving: float | None = None

    @property
    def price(self) -> float:
        """What a nat of KL costs in the rewards: nothing when it is paid in the loss."""
        return self.kl.coefficient if self.config.kl_in == "reward" else 0.0

    @property
    def loss_price(self) -> float:
        """What a nat of KL costs in the loss."""
        return self.kl.coefficient if self.config.kl_in == "loss" else 0.0

    def draw(self, prompts: Sequence[Sequence[int]]) -> Rollout:
        """This step's groups; where groups of equal scores are redrawn, as many as it took or was allowed."""
        c, parts = self.config, list[Rollout]()
        tries = 1 + c.redraws if c.equal_groups == "redraw" else 1
        for batch in range(self.step * tries, (self.step + 1) * tries):
            asked = gather(prompts, pick(len(prompts), c.batch_size // c.group_size, batch, c.seed))
            repeated = [p for p in asked for _ in range(c.group_size)]
            parts.append(self.roll_out(repeated, c.seed * 1_000_003 + batch))
            if sum(int(self.unequal(part).sum()) for part in parts) * c.group_size >= c.batch_size:
                break
        return join(parts)

    def unequal(self, rollout: Rollout) -> Tensor:
        """(P,) bool: groups whose scores differ, so that there is something to learn from them."""
        groups = end_scores(rollout.scores, rollout.ended, self.config.end).reshape(-1, self.config.group_size)
        return groups.amax(1) > groups.amin(1)

    def trained(self, rollout: Rollout) -> list[int]:
        """The responses that are trained on; all of a batch when every group has equal scores."""
        c, unequal = self.config, self.unequal(rollout)
        if c.equal_groups == "keep" or not unequal.any():
            unequal = torch.ones_like(unequal)
        chosen = unequal.nonzero()[: c.batch_size // c.group_size, 0]
        return [g * c.group_size + i for g in chosen.tolist() for i in range(c.group_size)]

    def rewards(self, rollout: Rollout) -> Tensor:
        """(N,) score less the price of its KL."""
        lengths = torch.tensor(rollout.response_lengths)
        segment = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        return segment_sum(rollout.rewards, segment, len(lengths))

    def shaped(self, rollout: Rollout) -> Rollout:
        """The rollout with every token's advantage that of its response."""
        found = advantages(self.rewards(rollout), self.config.group_size, self.config.advantage, self.moving)
        return replace(rollout, advantages=found.repeat_interleave(torch.tensor(rollout.response_lengths)))

    def group_metrics(self, rollout: Rollout) -> dict[str, float]:
        """What the rollout shows of its groups."""
        groups = rollout.scores.reshape(-1, self.config.group_size)
        return {
            "group/deviation": float(groups.std(1, correction=0).mean()),
            "group/equal": float(1 - self.unequal(rollout).float().mean()),
            "group/episodes": float(len(rollout.scores)),
            "group/trained": len(self.trained(rollout)) / len(rollout.scores),
        }

    def finish_step(self, kl: float) -> None:
        """Move the running mean towards this rollout's rewards; then as ever."""
        if self.rollout is not None and isinstance(self.config.advantage, Reinforce):
            mean, decay = float(self.rewards(self.rollout).mean()), self.config.advantage.decay
            self.moving = mean if self.moving is None else decay * self.moving + (1 - decay) * mean
        super().finish_step(kl)

    def save(self) -> dict[str, Any]:
        """Everything needed to go on from here."""
        return {**super().save(), "moving": self.moving}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `save` gave."""
        super().load(state)
        self.moving = state["moving"]


def join(parts: Sequence[Rollout]) -> Rollout:
    """Rollouts one after another."""
    if len(parts) == 1:
        return parts[0]
    columns = {f.name: [part.__dict__[f.name] for part in parts] for f in fields(Rollout)}
    return Rollout(**{name: _end_to_end(column) for name, column in columns.items()})


def _end_to_end(column: list[Any]) -> Any:
    """One field of several rollouts as one: tensors, tuples, or None in each."""
    match column[0]:
        case None:
            return None
        case Tensor():
            return torch.cat(column)
        case _:
            return sum(column, ())


def optimise(t: GroupState, rollout: Rollout, run: Run) -> bool:
    """The optimiser steps on one rollout from where a checkpoint left it; whether all are made, or it was stopped."""
    config, policy, price = t.config, t.actor.policy, t.loss_price
    chosen, shaped = t.trained(rollout), t.shaped(rollout)
    plan = minibatch_plan(config, t.step, len(chosen))
    for places in plan[t.place :]:
        rows = sorted(chosen[i] for i in places)  # a prompt's responses side by side read it once
        parts = cut([len(shaped.sequences[i]) for i in rows], config.micro_tokens)
        minibatches = [shaped.take([rows[i] for i in part]) for part in parts]
        units = sum(m.units for m in minibatches)
        loss = partial(group_loss, policy, config=config, price=price, length=units / len(rows), shared=t.shared)
        t.logged.append(t.learner.update(Part(minibatches, loss)))
        t.place += 1
        t.average_weights()
        if t.place == 1:
            check_sampler(t.logged[0], units, whole=len(chosen) == len(rollout.scores))
        if run.stop_requested:
            break
    return t.place == len(plan)


def group(
    model: Model,
    reward: Reward,
    prompts: Sequence[Sequence[int]],
    config: GroupConfig,
    run: Run,
    *,
    held_out: Sequence[Sequence[int]] = (),
    sampler: Sampler | None = None,
    watch: Callable[[Rollout], Mapping[str, float]] | None = None,
) -> Model:
    """Train a branch of the model against the reward; the model given is the reference and stays as it is.

    `watch`, resumption and errors are as in `ppo`.
    """
    check_inputs("group", config, prompts, held_out)
    t = GroupState(model, reward, config, sampler)
    t.restore(run)
    with run.interruptible(), progress("Group", config.steps) as report:
        while t.step < config.steps:
            rollout = t.rollout = t.rollout or t.draw(prompts)
            if optimise(t, rollout, run):
                metrics = step_metrics("group", rollout, t.kl.coefficient, t.logged) | t.group_metrics(rollout)
                metrics |= dict(watch(rollout) if watch is not None else {})
                kl, score = metrics["group/kl"], metrics["group/score"]
                t.finish_step(kl)
                if held_out and t.due(kl):
                    metrics |= prefixed("group", t.measure(held_out, model, run))
                run.log(t.step, metrics)
                report(t.step, f"score {score:.2f} KL {kl:.2f}")
                warn(kl, metrics["group/kl_std"], score, config.batch_size)
                if t.finished(kl):
                    break
            if t.step % config.save_every == 0 or run.stop_requested:
                run.save(t.step, t.save())
            if run.stop_requested:
                raise Interrupted(f"stopped after step {t.step} of {config.steps}; go on with --resume {run.id}")
    return leave_model(t, model, run)
