"""Proximal policy optimisation against a reward, with a KL penalty (Ziegler et al. 2019; Ouyang et al. 2022, 3.5).

1. The per-token reward is −coefficient · log(π/π_ref); the score is added at the last response token.
2. Old log-probabilities are the sampler's own; the first minibatch checks that the trainer computes the same.
3. The critic is a network of its own started from the reward model, a head on the policy, or a head on the frozen
   reward model's features. Value heads start at zero.
4. Advantages are whitened over the rollout's real tokens; rewards are not (that would change the coefficient).
5. Everything random is a function of seed and step, so a resumed run is the uninterrupted one, bit for bit.

    tutelage ppo --ppo.steps 40
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from tutelage.config import Section, Seed
from tutelage.errors import ConfigError, Interrupted, TrainingError
from tutelage.learn.kl import KLConfig
from tutelage.learn.learner import OptimizerConfig, Part, prefixed
from tutelage.learn.ppo_state import PPOState
from tutelage.learn.reward import RewardModel
from tutelage.learn.rollout import ActorCritic, Minibatch, RewardFunction, Rollout, Shaping, end_scores
from tutelage.learn.sft import batches, sft_loss
from tutelage.model.adapters import Full, Train, merge
from tutelage.model.batch import Example, cut, pick
from tutelage.model.causal import Model, save
from tutelage.model.maths import clipped_policy_loss, clipped_value_loss, explained_variance, kl_estimates
from tutelage.progress import console, progress
from tutelage.runs import Run
from tutelage.sample.sampler import Sampler, SamplingParams

SAMPLER_GAP = 0.1  # nats, root mean square; 1e-5 is usual in fp32 and 1e-2 in bf16
COLLAPSE = 3.0  # standard deviations below the reference's mean reward
SURPRISE_ERRORS = 7.0  # standard errors by which the samples' surprise may miss the entropy
SURPRISE_VARIANCE = 0.05  # at least, in nats²: of a policy that has collapsed every draw is the same


class PPOConfig(Section):
    """Proximal policy optimisation."""

    steps: Annotated[int, Field(ge=1)] = 40
    """Rollouts, each followed by its updates."""
    batch_size: Annotated[int, Field(ge=1)] = 64
    """Episodes (prompts) per rollout."""
    epochs: Annotated[int, Field(ge=1)] = 4
    """Passes over each rollout."""
    minibatches: Annotated[int, Field(ge=1)] = 1
    """Optimiser steps per pass."""
    micro_tokens: Annotated[int, Field(ge=1)] = 4096
    """Most tokens in one forward pass; changes nothing but memory."""
    sampling: SamplingParams = SamplingParams(max_tokens=32)
    """How rollouts are drawn; what is trained must be what is sampled, so top_p 1 and top_k 0."""
    kl: KLConfig = KLConfig()
    """The price of moving away from the reference."""
    shaping: Shaping = Shaping()
    """How scores become per-token rewards and advantages."""
    clip: Annotated[float, Field(gt=0)] = 0.2
    """The probability ratio is clipped to 1 ± this."""
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
    ema: Annotated[float | None, Field(gt=0, lt=1)] = None
    """Decay of an average of the policy's weights that becomes the result (InstructGPT: 0.992); none for no average."""
    train: Train = Full()
    """What of the policy (and of a separate critic) is trained."""
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-5)
    evaluate_every: Annotated[int, Field(ge=0)] = 10
    """Steps between measurements on held-out prompts; 0 for never."""
    patience: Annotated[int | None, Field(ge=1)] = None
    """Stop after this many measurements in a row without a better held-out reward; none to go on to the last step."""
    keep: Literal["last", "best"] = "last"
    """Which policy is the result: the last, or the best by held-out reward within the KL budget."""
    save_every: Annotated[int, Field(ge=1)] = 10
    """Steps between checkpoints."""
    seed: Seed = 0
    """Draws prompts, completions, minibatches and LoRA's first matrices."""

    @model_validator(mode="after")
    def _sampled_as_trained(self) -> Self:
        if self.sampling.top_k or self.sampling.top_p < 1 or self.sampling.temperature <= 0:
            raise ValueError("rollouts need top_k 0, top_p 1 and a temperature above 0: else another policy is sampled")
        if self.batch_size % self.minibatches:
            raise ValueError(f"batch_size {self.batch_size} isn't a multiple of minibatches {self.minibatches}")
        return self


def ppo_loss(actor: ActorCritic, m: Minibatch, config: PPOConfig, shared: int) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Summed clipped policy loss plus weighted clipped value loss over the minibatch's response tokens."""
    logprob, entropy, value = actor(m, temperature=config.sampling.temperature, start=shared)
    change = logprob - m.old
    ratio = change.exp()
    policy_loss = clipped_policy_loss(ratio, m.advantages, config.clip).sum()
    value_loss = clipped_value_loss(value, m.values, m.returns, config.value_clip).sum()
    with torch.no_grad():
        logged = {
            "ppo/policy_loss": policy_loss,
            "ppo/value_loss": value_loss,
            "ppo/entropy": entropy.sum(),
            "ppo/surprise": -m.old.sum(),
            "ppo/surprise_excess_square": (m.old + entropy).square().sum(),
            "ppo/clip_fraction": ((ratio - 1).abs() > config.clip).float().sum(),
            "ppo/ratio": ratio.sum(),
            "ppo/ratio_square": ratio.square().sum(),
            "ppo/log_ratio_square": change.square().sum(),
        }
    return policy_loss + config.value_weight * value_loss, logged


def rollout_metrics(rollout: Rollout, coefficient: float) -> dict[str, float]:
    """What a rollout shows, every mean over real tokens or responses only."""
    kl = kl_estimates(rollout.old, rollout.reference)
    lengths = torch.tensor(rollout.response_lengths, dtype=torch.float32)
    return {
        "ppo/score": float(rollout.scores.mean()),
        "ppo/score_std": float(rollout.scores.std(correction=0)),
        "ppo/kl": float(rollout.sequence_kl.mean()),
        "ppo/kl_std": float(rollout.sequence_kl.std(correction=0)),
        "ppo/kl_k2": float(kl.k2.sum() / len(lengths)),
        "ppo/kl_k3": float(kl.k3.sum() / len(lengths)),
        "ppo/kl_coefficient": coefficient,
        "ppo/objective": float(rollout.scores.mean() - coefficient * rollout.sequence_kl.mean()),
        "ppo/explained_variance": float(explained_variance(rollout.values, rollout.returns)),
        "ppo/response_tokens": float(lengths.mean()),
        "ppo/ended": float(rollout.ended.float().mean()),
    }


def minibatch_plan(config: PPOConfig, step: int) -> list[list[int]]:
    """Which episodes each optimiser step of this rollout reads: every epoch all of them, reshuffled."""
    size, plan = config.batch_size // config.minibatches, []
    for epoch in range(config.epochs):
        generator = torch.Generator().manual_seed((config.seed * 1_000_003 + step) * 1_009 + epoch)
        order = torch.randperm(config.batch_size, generator=generator).tolist()
        plan += [order[i : i + size] for i in range(0, config.batch_size, size)]
    return plan


def optimise(t: PPOState, rollout: Rollout, ptx: Sequence[Example], run: Run) -> None:
    """The optimiser steps on one rollout, from the place a checkpoint left it to the end or to a request to stop."""
    config = t.config
    plan = minibatch_plan(config, t.step)
    lengths = [len(s) for s in rollout.sequences]
    for chosen in plan[t.place :]:
        parts = cut([lengths[i] for i in chosen], config.micro_tokens)
        minibatches = [rollout.take([chosen[i] for i in part]) for part in parts]
        mixed = [Part(minibatches, lambda m: ppo_loss(t.actor, m, config, t.shared))]
        if ptx and config.ptx_weight:
            texts = [ptx[i] for i in pick(len(ptx), config.ptx_batch, t.learner.step, config.seed)]
            fresh = batches(texts, config.micro_tokens)
            mixed.append(Part(fresh, lambda b: sft_loss(t.actor.policy, b), config.ptx_weight))
        t.logged.append(t.learner.update(*mixed))
        t.place += 1
        t.average_weights()
        if t.place == 1:
            check_sampler(t.logged[0], sum(m.units for m in minibatches))
        if run.stop_requested:
            return


def check_sampler(first: Mapping[str, float], units: int) -> None:
    """Hold the sampler to its word, on the first minibatch, which sees the policy that sampled.

    The trainer must compute the log-probabilities that the sampler gave, and on average over `units` tokens the
    surprise −log π of what was drawn must be the entropy of π: samples of another temperature, or cut by top-k, are not
    samples of the policy that is trained. Raises TrainingError.
    """
    gap = math.sqrt(first["ppo/log_ratio_square"])
    if gap > SAMPLER_GAP:
        raise TrainingError(
            f"sampler and trainer disagree on log-probabilities by {gap:.3f} nats (root mean square; at most "
            f"{SAMPLER_GAP}): the sampler has stale weights or another temperature"
        )
    excess = first["ppo/surprise"] - first["ppo/entropy"]
    variance = max(first["ppo/surprise_excess_square"] - excess**2, SURPRISE_VARIANCE)
    if abs(excess) > SURPRISE_ERRORS * math.sqrt(variance / units):
        raise TrainingError(
            f"the samples' mean surprise is {first['ppo/surprise']:.3f} nats a token, but the policy's entropy is "
            f"{first['ppo/entropy']:.3f}: they were drawn from another distribution (temperature, top-k, top-p?)"
        )


def step_metrics(t: PPOState, rollout: Rollout) -> dict[str, float]:
    """The rollout's figures and the means over its optimiser steps."""
    metrics = rollout_metrics(rollout, t.kl.coefficient)
    metrics |= prefixed("ppo", {name: sum(one[name] for one in t.logged) / len(t.logged) for name in t.logged[0]})
    metrics["ppo/ratio_variance"] = max(0.0, metrics.pop("ppo/ratio_square") - metrics["ppo/ratio"] ** 2)
    del metrics["ppo/surprise"], metrics["ppo/surprise_excess_square"]
    metrics["ppo/sampler_gap"] = math.sqrt(t.logged[0]["ppo/log_ratio_square"])
    metrics["ppo/log_ratio_square"] = t.logged[-1]["ppo/log_ratio_square"]
    return metrics


def measure(t: PPOState, held_out: Sequence[Sequence[int]], model: Model, run: Run) -> dict[str, float]:
    """Reward and KL on held-out prompts, with samples to read; remembers the best policy within the KL budget."""
    rollout = t.roll_out(held_out, seed=t.config.seed)
    reached = float(end_scores(rollout.scores, rollout.ended, t.config.shaping.end).mean())
    kl = float(rollout.sequence_kl.mean())
    rows = zip(rollout.sequences, rollout.prompt_lengths, rollout.scores.tolist(), strict=True)
    decode = model.tokenizer.decode
    run.samples(t.step, [{"prompt": decode(s[:p]), "text": decode(s[p:]), "score": r} for s, p, r in list(rows)[:8]])
    t.worse += 1
    if (t.config.kl.budget is None or kl <= t.config.kl.budget) and (t.best is None or reached > t.best[0]):
        t.best, t.worse = (reached, t.copy()), 0
    return {"ppo/evaluation_score": float(rollout.scores.mean()), "ppo/evaluation_kl": kl}


def warn(metrics: Mapping[str, float], episodes: int) -> None:
    """Say aloud what other libraries pass over: a KL that is negative beyond chance, a reward that collapses."""
    error = metrics["ppo/kl_std"] / math.sqrt(episodes)
    if metrics["ppo/kl"] < -4 * error - 1e-4:
        console.print(f"Warning: the KL is {metrics['ppo/kl']:.3f} nats: a divergence is never negative. The reference "
                      "or the sampler is not what it should be.", style="yellow")  # fmt: skip
    if metrics["ppo/score"] < -COLLAPSE:
        console.print(f"Warning: the reward has collapsed to {metrics['ppo/score']:.2f} standard deviations. Lower the "
                      "learning rate or raise kl.coefficient.", style="yellow")  # fmt: skip


def finished(t: PPOState, kl: float) -> bool:
    """Whether the KL budget is spent or patience has run out."""
    spent = t.config.kl.budget is not None and kl > t.config.kl.budget
    return spent or (t.config.patience is not None and t.worse >= t.config.patience)


def ppo(
    model: Model,
    reward: RewardModel | RewardFunction,
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
    if not prompts:
        raise TrainingError("no prompts to roll out: add some by `tutelage import` (every fifth is held out)")
    if config.keep == "best" and not (held_out and config.evaluate_every):
        raise ConfigError("ppo.keep is 'best', which needs held-out prompts and ppo.evaluate_every above 0")
    t = PPOState(model, reward, config, sampler)
    restored = run.restore()
    if restored is not None:
        t.load(restored[1])
    with run.interruptible(), progress("PPO", config.steps) as report:
        while t.step < config.steps:
            rollout = t.rollout
            if rollout is None:
                chosen = pick(len(prompts), config.batch_size, t.step, config.seed)
                rollout = t.rollout = t.roll_out([prompts[i] for i in chosen], config.seed * 1_000_003 + t.step)
            optimise(t, rollout, ptx, run)
            if t.place == config.epochs * config.minibatches:
                metrics = step_metrics(t, rollout) | dict(watch(rollout) if watch is not None else {})
                t.finish_step(metrics["ppo/kl"])
                if held_out and config.evaluate_every and t.step % config.evaluate_every == 0:
                    metrics |= measure(t, held_out, model, run)
                run.log(t.step, metrics)
                report(t.step, f"score {metrics['ppo/score']:.2f} KL {metrics['ppo/kl']:.2f}")
                warn(metrics, config.batch_size)
                if finished(t, metrics["ppo/kl"]):
                    break
            if t.step % config.save_every == 0 or run.stop_requested:
                run.save(t.step, t.save())
            if run.stop_requested:
                raise Interrupted(f"stopped after step {t.step} of {config.steps}; go on with --resume {run.id}")
    t.choose()
    result = Model(decoder=merge(t.actor.policy.decoder), tokenizer=model.tokenizer, name=str(run.final))
    save(result, run.final)
    return result
