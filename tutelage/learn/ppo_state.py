"""What a run of PPO is made of at any moment: networks, optimiser, rollout, and the place in it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tutelage.errors import CheckpointError, ConfigError
from tutelage.learn.kl import KLController
from tutelage.learn.learner import Learner
from tutelage.learn.reward import RewardModel
from tutelage.learn.rollout import ActorCritic, Networks, RewardFunction, Rollout, make_rollout
from tutelage.model.adapters import branch, trainable
from tutelage.model.causal import Model, fingerprint
from tutelage.model.heads import Head, Policy
from tutelage.runs import rng_state, set_rng_state
from tutelage.sample.engine import Engine
from tutelage.sample.sampler import Sampler

if TYPE_CHECKING:
    from tutelage.learn.ppo import PPOConfig


class PPOState:
    """Networks and numbers of one run; `save` and `load` are its checkpoint."""

    def __init__(
        self, model: Model, reward: RewardModel | RewardFunction, config: "PPOConfig", sampler: Sampler | None
    ) -> None:
        self.config = config
        generator = torch.Generator().manual_seed(config.seed)
        decoder = branch(model.decoder, config.train, generator)
        critic, features = None, config.critic == "features"
        if features and not isinstance(reward, RewardModel):
            raise ConfigError("ppo.critic is 'features', but the reward is a function and has none: use 'shared'")
        if config.critic == "separate":
            start = reward.scorer.decoder if isinstance(reward, RewardModel) else model.decoder
            critic = branch(start, config.train, generator)
        head = Head.value(decoder.head_weight().shape[1]).to(decoder.head_weight().device)
        self.actor = ActorCritic(Policy(decoder), head, critic)
        self.nets = Networks(self.actor, Policy(model.decoder), reward, features)
        self.shared = self.nets.shared
        self.policy_weights = trainable(decoder)
        parameters = {f"policy.{n}": p for n, p in self.policy_weights.items()} | {"value.head": head.weight}
        if critic is not None:
            parameters |= {f"critic.{n}": p for n, p in trainable(critic).items()}
        self.learner = Learner(parameters, config.optimizer, config.steps * config.epochs * config.minibatches)
        self.kl = KLController(config.kl)
        if sampler is None:
            sampler = Engine(decoder, model.tokenizer.end, capture=self.shared or None)
        self.sampler = sampler
        self.reference = fingerprint(model.decoder)
        self.step = 0  # rollouts finished
        self.place = 0  # optimiser steps made on the rollout in hand
        self.rollout: Rollout | None = None
        self.logged: list[dict[str, float]] = []  # one for each of those
        self.average = self.copy() if config.ema is not None else None
        self.best: tuple[float, dict[str, Tensor]] | None = None  # held-out score, and the policy that reached it
        self.worse = 0  # measurements since then

    def copy(self) -> dict[str, Tensor]:
        """The policy's trained weights, copied."""
        return {n: p.detach().clone() for n, p in self.policy_weights.items()}

    def roll_out(self, prompts: Sequence[Sequence[int]], seed: int) -> Rollout:
        """Sample from the policy as it is now and ask every network about it."""
        self.sampler.load(self.actor.policy.decoder)
        return make_rollout(
            prompts,
            self.sampler.generate(prompts, self.config.sampling, seed=seed),
            self.nets,
            shaping=self.config.shaping,
            coefficient=self.kl.coefficient,
            temperature=self.config.sampling.temperature,
            micro_tokens=self.config.micro_tokens,
        )

    def average_weights(self) -> None:
        """Move the average of the weights (Ouyang et al. 2022, appendix C.4) towards the policy."""
        if self.average is not None and self.config.ema is not None:
            for name, p in self.policy_weights.items():
                self.average[name].lerp_(p.detach(), 1 - self.config.ema)

    def finish_step(self, kl: float) -> None:
        """The rollout in hand is used up: adapt the coefficient and make room for the next."""
        self.kl.update(kl, self.config.batch_size)
        self.step, self.place, self.rollout, self.logged = self.step + 1, 0, None, []

    def choose(self) -> None:
        """Put into the policy the weights that are the run's result: best, average, or the last as they are."""
        chosen = self.average
        if self.config.keep == "best" and self.best is not None:
            chosen = self.best[1]
        if chosen is not None:
            with torch.no_grad():
                for name, p in self.policy_weights.items():
                    p.copy_(chosen[name])

    def save(self) -> dict[str, Any]:
        """Everything needed to go on from here."""
        return {
            "learner": self.learner.save(),
            "coefficient": self.kl.coefficient,
            "reference": self.reference,
            "step": self.step,
            "place": self.place,
            "rollout": None if self.rollout is None else self.rollout.state(),
            "logged": self.logged,
            "average": self.average,
            "best": self.best,
            "worse": self.worse,
            "rng": rng_state(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `save` gave. Raises CheckpointError when the reference is another model."""
        if state["reference"] != self.reference:
            raise CheckpointError(
                f"this run's reference model has hash {state['reference']}, but the model given now has "
                f"{self.reference}: resume with the model it began with"
            )
        self.learner.load(state["learner"])
        self.kl.coefficient, self.step, self.place = state["coefficient"], state["step"], state["place"]
        self.rollout = None if state["rollout"] is None else Rollout(**state["rollout"])
        self.logged, self.average = state["logged"], state["average"]
        self.best, self.worse = state["best"], state["worse"]
        set_rng_state(state["rng"])
