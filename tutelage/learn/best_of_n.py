"""Rejection sampling: sample n, score, keep the best k, fine-tune on them; and best-of-n at inference.

1. A round samples from the policy as it is, scores, keeps, and goes on training the same policy on what was kept (RAFT,
   Dong et al. 2023, algorithm 1). The objective is plain likelihood: there is no KL term, and none is paid.
2. `pool: all` keeps, of every prompt, the best of *all* rounds' samples: Llama 2 forgot skills when each round saw only
   its own (Touvron et al. 2023, section 3.2.3). What is forgotten is measured: the loss on held-out demonstrations.
3. Of samples that are word for word the same one is kept; equal scores go to the older.
4. Best of n needs no training: `BestOfN` is a sampler. It is not ref·exp(r/b), and its KL is log n − (n−1)/n at most.

    tutelage raft --raft.rounds 4 --raft.samples 8
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from tutelage.config import Section, Seed
from tutelage.errors import Interrupted, TrainingError
from tutelage.learn.learner import Learner, OptimizerConfig, Part, prefixed
from tutelage.learn.reward import RewardModel
from tutelage.learn.rollout import (
    ActorCritic,
    EndRule,
    Networks,
    Reward,
    RewardSource,
    Rollout,
    Shaping,
    end_scores,
    make_rollout,
)
from tutelage.learn.sft import batches, mean_loss, sft_loss
from tutelage.learn.vital_signs import rollout_metrics
from tutelage.model.adapters import Full, Train, branch, merge, trainable
from tutelage.model.batch import Example, gather, pick
from tutelage.model.causal import Model, save
from tutelage.model.decoder import Decoder
from tutelage.model.heads import Policy
from tutelage.progress import progress
from tutelage.runs import Run, rng_state, set_rng_state
from tutelage.sample.engine import Engine
from tutelage.sample.sampler import Sampled, Sampler, SamplingParams, replay

SHOWN = ("score", "score_std", "kl", "kl_std", "response_tokens", "ended")  # of a rollout's figures, those of a round


class RaftConfig(Section):
    """Rejection sampling and fine-tuning, in rounds."""

    rounds: Annotated[int, Field(ge=1)] = 4
    """Rounds of sampling, keeping and training."""
    reward: RewardSource = "model"
    """A reward run; the `rules` section; both summed; a reward run plus the `propositions`; or an AI judge's grade."""
    prompts: Annotated[int, Field(ge=1)] = 64
    """Prompts of each round."""
    samples: Annotated[int, Field(ge=2)] = 8
    """Completions of each prompt, n."""
    best: Annotated[int, Field(ge=1)] = 1
    """Completions of each prompt that are kept, k."""
    least: float | None = None
    """Keep only scores of at least this, as the reward counts; none keeps the best whatever they are."""
    pool: Literal["all", "last"] = "all"
    """Train on the best of all rounds so far, or of this round alone."""
    steps: Annotated[int, Field(ge=1)] = 20
    """Optimiser steps of each round."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Completions per step."""
    micro_tokens: Annotated[int, Field(ge=1)] = 4096
    """Most tokens in one forward pass; changes nothing but memory."""
    sampling: SamplingParams = SamplingParams(max_tokens=32)
    """How completions are drawn."""
    end: EndRule = EndRule()
    train: Train = Full()
    """What is trained: everything, the top layers, or LoRA matrices."""
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=2e-5, schedule="constant")
    seed: Seed = 0
    """Draws prompts, completions, batches and LoRA's first matrices."""

    @model_validator(mode="after")
    def _sampled_as_trained(self) -> Self:
        if self.sampling.temperature <= 0:
            raise ValueError("rollouts need a temperature above 0: else another policy is sampled")
        return self


class Kept(NamedTuple):
    """A completion worth imitating."""

    prompt: int  # which of the prompts
    length: int  # of the prompt, in tokens
    tokens: tuple[int, ...]  # prompt and completion
    score: float

    @property
    def example(self) -> Example:
        """As it is trained on: the completion's tokens count."""
        return Example(self.tokens, tuple(i >= self.length for i in range(len(self.tokens))))


def select(found: Sequence[Kept], best: int, least: float | None) -> list[Kept]:
    """The best different completions of each prompt, in the order the prompts appear; equal scores: the first."""
    by_prompt: dict[int, dict[tuple[int, ...], Kept]] = {}
    for one in found:
        if least is None or one.score >= least:
            by_prompt.setdefault(one.prompt, {}).setdefault(one.tokens, one)
    ranked = (sorted(group.values(), key=lambda one: -one.score)[:best] for group in by_prompt.values())
    return [one for group in ranked for one in group]


class RaftState:
    """Policy, optimiser, pool, and how many rounds have been sampled; `save` and `load` are its checkpoint."""

    def __init__(self, model: Model, reward: Reward, config: RaftConfig, sampler: Sampler | None) -> None:
        decoder = branch(model.decoder, config.train, torch.Generator().manual_seed(config.seed))
        self.config, self.policy = config, Policy(decoder)
        self.nets = Networks(ActorCritic(self.policy, None, None), Policy(model.decoder), reward, features=False)
        self.learner = Learner(trainable(decoder), config.optimizer, config.rounds * config.steps)
        self.sampler = sampler or Engine(decoder, model.tokenizer.end, capture=self.nets.shared or None, resting=False)
        self.sampled = 0  # rounds
        self.pool: list[Kept] = []
        self.logged: dict[str, float] = {}  # of the round in hand

    def sample(self, prompts: Sequence[Sequence[int]]) -> Rollout:
        """This round's completions, those of a prompt side by side; the best enter the pool."""
        c = self.config
        chosen = pick(len(prompts), c.prompts, self.sampled, c.seed)
        asked = [p for p in gather(prompts, chosen) for _ in range(c.samples)]
        self.sampler.load(self.policy.decoder)
        rollout = make_rollout(
            asked,
            self.sampler.generate(asked, c.sampling, seed=c.seed * 1_000_003 + self.sampled),
            self.nets,
            shaping=Shaping(trace=1.0, whiten_advantages=False, end=c.end),
            coefficient=0.0,
            temperature=c.sampling.temperature,
            micro_tokens=c.micro_tokens,
        )
        scores = end_scores(rollout.scores, rollout.ended, c.end).tolist()
        places = [i for i in chosen for _ in range(c.samples)]
        rows = zip(places, rollout.prompt_lengths, rollout.sequences, scores, strict=True)
        fresh = [Kept(*row) for row in rows]
        best = select(fresh, c.best, c.least)
        self.pool = select([*self.pool, *fresh], c.best, c.least) if c.pool == "all" else best
        self.sampled += 1
        means = {"best": best, "pool_score": self.pool}
        self.logged = {k: v for k, v in rollout_metrics(rollout, 0.0).items() if k in SHOWN}
        self.logged |= {k: sum(one.score for one in of) / len(of) for k, of in means.items() if of}
        self.logged |= {"kept": float(len(best)), "pool": float(len(self.pool))}
        return rollout

    def update(self) -> dict[str, float]:
        """One optimiser step on some of the pool."""
        places = pick(len(self.pool), self.config.batch_size, self.learner.step, self.config.seed)
        texts = [self.pool[i].example for i in places]
        return self.learner.update(Part(batches(texts, self.config.micro_tokens), lambda b: sft_loss(self.policy, b)))

    def save(self) -> dict[str, Any]:
        """Everything needed to go on from here."""
        pool = [tuple(one) for one in self.pool]
        return {
            "learner": self.learner.save(),
            "sampled": self.sampled,
            "pool": pool,
            "logged": self.logged,
            "rng": rng_state(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `save` gave."""
        self.learner.load(state["learner"])
        self.sampled, self.logged = state["sampled"], state["logged"]
        self.pool = [Kept(*row) for row in state["pool"]]
        set_rng_state(state["rng"])


def raft(
    model: Model,
    reward: Reward,
    prompts: Sequence[Sequence[int]],
    config: RaftConfig,
    run: Run,
    *,
    probe: Sequence[Example] = (),
    sampler: Sampler | None = None,
    watch: Callable[[Rollout], Mapping[str, float]] | None = None,
) -> Model:
    """Train a branch of the model on the best of its own samples, round after round; the model given stays as it is.

    `probe`: held-out demonstrations whose loss tells what is being forgotten. `watch` sees each round's samples and
    adds figures. Resumes by itself when the run has a checkpoint. Raises TrainingError without prompts or when nothing
    scores well enough to be kept, Interrupted when the user asked to stop.
    """
    if not prompts:
        raise TrainingError("no prompts to sample completions of: add some by `tutelage import`")
    t = RaftState(model, reward, config, sampler)
    restored = run.restore()
    if restored is not None:
        t.load(restored[1])
    elif probe:
        run.log(0, {"raft/probe_loss": mean_loss(t.policy, probe, config.micro_tokens)})
    total = config.rounds * config.steps
    with run.interruptible(), progress("RAFT", total) as report:
        while t.learner.step < total:
            if t.sampled * config.steps == t.learner.step:
                rollout = t.sample(prompts)
                t.logged |= dict(watch(rollout) if watch is not None else {})
                if not t.pool:
                    raise TrainingError(f"no completion scores raft.least ({config.least}) or more: lower it")
            figures = t.update()
            for name, value in figures.items():
                t.logged[name] = t.logged.get(name, 0.0) + value / config.steps
            ended = t.learner.step % config.steps == 0
            if ended:
                metrics = prefixed("raft", t.logged)
                if probe:
                    metrics["raft/probe_loss"] = mean_loss(t.policy, probe, config.micro_tokens)
                run.log(t.learner.step, metrics)
            if ended or run.stop_requested:
                run.save(t.learner.step, t.save())
            if run.stop_requested:
                raise Interrupted(f"stopped after step {t.learner.step} of {total}; go on with --resume {run.id}")
            report(t.learner.step, f"score {t.logged['score']:.2f} loss {figures['sft/loss']:.3f}")
    result = Model(decoder=merge(t.policy.decoder), tokenizer=model.tokenizer, name=str(run.final))
    run.leave(lambda folder: save(result, folder))
    return result


class BestOfN:
    """A Sampler: of n completions of another sampler, the one with the highest score; the first of equal ones.

    Log-probabilities are those of the policy that wrote, not of best-of-n.
    """

    def __init__(self, sampler: Sampler, reward: Reward, n: int) -> None:
        """Raises ValueError for n below 1."""
        if n < 1:
            raise ValueError(f"best of {n}: n is at least 1")
        self.sampler, self.reward, self.n = sampler, reward, n

    def load(self, decoder: Decoder) -> None:
        """Sample from these weights from now on."""
        self.sampler.load(decoder)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        *,
        seed: int,
        progress: Callable[[int], None] | None = None,
    ) -> list[Sampled]:
        """See `Sampler.generate`."""
        asked = [p for p in prompts for _ in range(self.n)]
        told = None if progress is None else lambda done: progress(done // self.n)
        found = self.sampler.generate(asked, params, seed=seed, progress=told)
        if not found:
            return []
        scores = score(self.reward, asked, [one.tokens for one in found]).reshape(-1, self.n)
        return [found[i * self.n + int(best)] for i, best in enumerate(scores.argmax(1))]

    def stream(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, *, seed: int
    ) -> Iterator[dict[int, int]]:
        """See `Sampler.stream`. Which is the best is known at the end: all in one go."""
        yield from replay(self.generate(prompts, params, seed=seed))


def score(reward: Reward, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> Tensor:
    """Scores (N,) of responses, by a network or a function."""
    if isinstance(reward, RewardModel):
        return reward.score([[*p, *r] for p, r in zip(prompts, responses, strict=True)])
    return reward(prompts, responses)
