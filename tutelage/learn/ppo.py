"""Proximal policy optimisation against a reward, with a KL penalty (Ziegler et al. 2019; Ouyang et al. 2022, 3.5).

1. The per-token reward is −coefficient · log(π/π_ref); the score is added at the last response token.
2. Old log-probabilities are the sampler's own; the first minibatch checks that the trainer computes the same.
3. The critic is a network of its own started from the reward model, a head on the policy, or a head on the frozen
   reward model's features. Value heads start at zero.
4. Advantages are whitened over the rollout's real tokens; rewards are not (that would change the coefficient).
5. Everything random is a function of seed and step, so a resumed run is the uninterrupted one, bit for bit.

    tutelage ppo --ppo.steps 40
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from tutelage.errors import Interrupted
from tutelage.learn.learner import Part, prefixed
from tutelage.learn.online import OnlineConfig, check_inputs, leave_model, minibatch_plan
from tutelage.learn.ppo_state import PPOState
from tutelage.learn.rollout import ActorCritic, Minibatch, Reward, Rollout, Shaping
from tutelage.learn.sft import batches, sft_loss
from tutelage.learn.vital_signs import check_sampler, ratio_sums, step_metrics, warn
from tutelage.model.batch import Example, cut, gather, pick
from tutelage.model.causal import Model
from tutelage.model.maths import clipped_policy_loss, clipped_value_loss, explained_variance
from tutelage.progress import progress
from tutelage.runs import Run
from tutelage.sample.sampler import Sampler


class PPOConfig(OnlineConfig):
    """Proximal policy optimisation."""

    shaping: Shaping = Shaping()
    """How scores become per-token rewards and advantages."""
    value_clip: Annotated[float, Field(gt=0)] = 0.2
    """The value may move this far from its old estimate."""
    value_weight: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the value loss."""
    critic: Literal["separate", "shared", "features"] = "separate"
    """Own network from the reward model; a head on the policy; a head on the reward model's frozen features."""
    ptx_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the SFT loss mixed into each update (Ouyang et al. 2022, equation 2)."""
    ptx_batch: Annotated[int, Field(ge=1)] = 32
    """Demonstrations per mixed-in batch."""


def policy_loss(
    logprob: Tensor, entropy: Tensor, m: Minibatch, config: PPOConfig
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Summed clipped policy loss over the minibatch's response tokens; log-probabilities and entropies (M,)."""
    ratio = (logprob - m.old).exp()
    loss = clipped_policy_loss(ratio, m.advantages, config.clip).sum()
    signs = ratio_sums(logprob, entropy, m.old, (ratio - 1).abs() > config.clip)
    return loss, {"policy_loss": loss.detach(), **signs}


def value_loss(value: Tensor, m: Minibatch, config: PPOConfig) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Summed clipped value loss over the minibatch's response tokens; values (M,)."""
    loss = clipped_value_loss(value, m.values, m.returns, config.value_clip).sum()
    return loss, {"value_loss": loss.detach()}


def ppo_loss(actor: ActorCritic, m: Minibatch, config: PPOConfig, shared: int) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Summed clipped policy loss plus weighted clipped value loss over the minibatch's response tokens."""
    logprob, entropy, value = actor(m, temperature=config.sampling.temperature, start=shared)
    (policy, signs), (values, logged) = policy_loss(logprob, entropy, m, config), value_loss(value, m, config)
    return policy + config.value_weight * values, {**signs, **logged}


def parts(t: PPOState, minibatches: Sequence[Minibatch]) -> list[Part]:
    """The update's losses. A critic of its own is gone through after the policy, so that only one of the two networks'
    activations are in memory; the gradients are those of `ppo_loss`."""
    config, actor = t.config, t.actor
    if actor.critic is None:
        return [Part(minibatches, lambda m: ppo_loss(actor, m, config, t.shared))]

    def of_policy(m: Minibatch) -> tuple[Tensor, Mapping[str, Tensor]]:
        out = actor.policy(m.batch, temperature=config.sampling.temperature, hidden=m.hidden, start=t.shared)
        return policy_loss(out.logprob, out.entropy, m, config)

    def of_critic(m: Minibatch) -> tuple[Tensor, Mapping[str, Tensor]]:
        return value_loss(actor.value(m.batch, None, m.features, m.hidden, t.shared), m, config)

    return [Part(minibatches, of_policy), Part(minibatches, of_critic, config.value_weight)]


def optimise(t: PPOState, rollout: Rollout, ptx: Sequence[Example], run: Run) -> None:
    """The optimiser steps on one rollout, from the place a checkpoint left it to the end or to a request to stop."""
    config = t.config
    plan = minibatch_plan(config, t.step)
    lengths = [len(s) for s in rollout.sequences]
    for chosen in plan[t.place :]:
        cuts = cut([lengths[i] for i in chosen], config.micro_tokens)
        minibatches = [rollout.take([chosen[i] for i in part]) for part in cuts]
        mixed = parts(t, minibatches)
        if ptx and config.ptx_weight:
            texts = gather(ptx, pick(len(ptx), config.ptx_batch, t.learner.step, config.seed))
            fresh = batches(texts, config.micro_tokens)
            mixed.append(Part(fresh, lambda b: sft_loss(t.actor.policy, b), config.ptx_weight))
        t.logged.append(t.learner.update(*mixed))
        t.place += 1
        t.average_weights()
        if t.place == 1:
            check_sampler(t.logged[0], sum(m.units for m in minibatches))
        if run.stop_requested:
            return


def ppo(
    model: Model,
    reward: Reward,
    prompts: Sequence[Sequence[int]],
    config: PPOConfig,
    run: Run,
    *,
    held_out: Sequence[Sequence[int]] = (),
    ptx: Sequence[Example] = (),
    sampler: Sampler | None = None,
    watch: Callable[[Rollout], Mapping[str, float]] | None = None,
) -> Model:
    """Train a branch of the model against the reward; the model given is the reference and stays as it is.

    `watch` sees each rollout and adds figures to its step's metrics, such as a judge's that training must not hear.
    Resumes by itself when the run has a checkpoint. Raises TrainingError when the numbers go wrong, CheckpointError
    when the reference is another than the run began with, Interrupted when the user asked to stop.
    """
    check_inputs("ppo", config, prompts, held_out)
    t = PPOState(model, reward, config, sampler)
    t.restore(run)
    with run.interruptible(), progress("PPO", config.steps) as report:
        while t.step < config.steps:
            rollout = t.rollout
            if rollout is None:
                chosen = pick(len(prompts), config.batch_size, t.step, config.seed)
                rollout = t.rollout = t.roll_out(gather(prompts, chosen), config.seed * 1_000_003 + t.step)
            optimise(t, rollout, ptx, run)
            if t.place == config.epochs * config.minibatches:
                metrics = step_metrics("ppo", rollout, t.kl.coefficient, t.logged)
                metrics["ppo/explained_variance"] = float(explained_variance(rollout.values, rollout.returns))
                metrics |= dict(watch(rollout) if watch is not None else {})
                t.finish_step(metrics["ppo/kl"])
                if held_out and t.due(metrics["ppo/kl"]):
                    metrics |= prefixed("ppo", t.measure(held_out, model, run))
                run.log(t.step, metrics)
                report(t.step, f"score {metrics['ppo/score']:.2f} KL {metrics['ppo/kl']:.2f}")
                warn(metrics["ppo/kl"], metrics["ppo/kl_std"], metrics["ppo/score"], config.batch_size)
                if t.finished(metrics["ppo/kl"]):
                    break
            if t.step % config.save_every == 0 or run.stop_requested:
                run.save(t.step, t.save())
            if run.stop_requested:
                raise Interrupted(f"stopped after step {t.step} of {config.steps}; go on with --resume {run.id}")
    return leave_model(t, model, run)
