"""What PPO has beyond a policy: a critic, in one of three places."""

from typing import TYPE_CHECKING

import torch

from tutelage.errors import ConfigError
from tutelage.learn.online import PolicyState
from tutelage.learn.reward import RewardModel
from tutelage.learn.rollout import ActorCritic, Networks, Reward
from tutelage.model.adapters import branch, trainable
from tutelage.model.causal import Model
from tutelage.model.heads import Head, Policy
from tutelage.sample.sampler import Sampler

if TYPE_CHECKING:
    from tutelage.learn.ppo import PPOConfig


class PPOState(PolicyState["PPOConfig"]):
    """Policy, critic, optimiser, rollout, and the place in it."""

    def __init__(self, model: Model, reward: Reward, config: "PPOConfig", sampler: Sampler | None) -> None:
        """Raises ConfigError for a critic on features that the reward doesn't have."""
        generator = torch.Generator().manual_seed(config.seed)
        decoder = branch(model.decoder, config.train, generator)
        critic, features = None, config.critic == "features"
        if features and not isinstance(reward, RewardModel):
            raise ConfigError("ppo.critic is 'features', but the reward is a function and has none: use 'shared'")
        if config.critic == "separate":
            start = reward.scorer.decoder if isinstance(reward, RewardModel) else model.decoder
            critic = branch(start, config.train, generator)
        head = Head.value(decoder.head_weight().shape[1]).to(decoder.head_weight().device)
        parameters = {"value.head": head.weight}
        if critic is not None:
            parameters |= {f"critic.{n}": p for n, p in trainable(critic).items()}
        nets = Networks(ActorCritic(Policy(decoder), head, critic), Policy(model.decoder), reward, features)
        super().__init__(model, nets, config, config.shaping, sampler, parameters)
