"""The roads that are compared and their settings: all start at the same SFT model and learn from the same rankings."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from tutelage.config import Section
from tutelage.learn.advantage import Grpo
from tutelage.learn.best_of_n import RaftConfig
from tutelage.learn.dpo import DPOConfig, Online
from tutelage.learn.group import GroupConfig
from tutelage.learn.kl import KLConfig
from tutelage.learn.learner import OptimizerConfig
from tutelage.learn.ppo import PPOConfig
from tutelage.learn.preference_losses import DPO, KTO
from tutelage.learn.rollout import EndRule, Shaping
from tutelage.learn.sft import SFTConfig
from tutelage.loop.demo_config import SAMPLING, TOP, DemoConfig
from tutelage.model.adapters import Top
from tutelage.sample.sampler import SamplingParams

Name = Literal["sft-preferred", "best-of-n", "raft", "dpo", "online-dpo", "kto", "rloo", "grpo", "ppo"]
ALL: tuple[Name, ...] = ("sft-preferred", "best-of-n", "raft", "dpo", "online-dpo", "kto", "rloo", "grpo", "ppo")
Spaced = SFTConfig | DPOConfig | GroupConfig | PPOConfig
Config = Spaced | RaftConfig

STEADY = OptimizerConfig(learning_rate=1e-4, schedule="constant", warmup_steps=8)
END = EndRule(kind="fixed", value=0.5)
ONLINE = {
    "batch_size": 32,
    "epochs": 2,
    "minibatches": 4,
    "sampling": SAMPLING,
    "kl": KLConfig(coefficient=0.05, budget=10.0),
    "train": TOP,
    "optimizer": STEADY,
    "evaluate_every": 0,
}


class CompareConfig(Section):
    """The comparison of roads: what is equal for all, and each road's own settings."""

    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    """Seeds; each has a folder of its own, SFT model, rankings and reward model included."""
    roads: Annotated[tuple[Name, ...], Field(min_length=1)] = ALL
    """Roads to take. SFT, where all of them start, is always measured."""
    completions: Annotated[int, Field(ge=32)] = 480
    """Completions that each road may sample while it trains; roads that need none sample none."""
    points: Annotated[int, Field(ge=1)] = 3
    """Points of a road's frontier: evenly spaced along its training, the end included."""
    prompts: Annotated[int, Field(ge=4)] = 64
    """Held-out prompts a seed for the end of each road."""
    prompts_along: Annotated[int, Field(ge=4)] = 32
    """Held-out prompts a seed for the points before it: the first of the same ones."""
    best_of: Annotated[tuple[Annotated[int, Field(ge=2)], ...], Field(min_length=1)] = (4, 16)
    """What n of best-of-n is compared with SFT."""
    betas: tuple[Annotated[float, Field(gt=0)], ...] = ()
    """Further roads by DPO, one for each β (implicit reward per nat)."""
    temperatures: tuple[Annotated[float, Field(gt=0)], ...] = ()
    """Temperatures at which SFT, DPO and PPO are compared with SFT at temperature 1; none for no sweep."""
    demo: DemoConfig = DemoConfig()
    """Model, SFT, rankings and reward model; what of it a seed's folder has already is found again."""
    preferred: SFTConfig = SFTConfig(
        steps=60, batch_size=16, train=TOP, evaluate_every=0, optimizer=OptimizerConfig(learning_rate=1e-4)
    )
    """SFT on each ranking's first answer."""
    raft: RaftConfig = RaftConfig(
        prompts=32, samples=4, steps=8, batch_size=16, train=TOP, sampling=SAMPLING, end=END, optimizer=STEADY
    )
    """Its rounds follow from `completions`."""
    dpo: DPOConfig = DPOConfig(
        steps=60,
        batch_size=16,
        train=TOP,
        evaluate_every=0,
        loss=DPO(beta=0.1),
        optimizer=OptimizerConfig(learning_rate=1e-4, warmup_steps=4),
    )
    online_dpo: DPOConfig = DPOConfig(
        batch_size=8,
        train=TOP,
        loss=DPO(beta=0.1),
        online=Online(completions=4, end=END),
        optimizer=STEADY,
    )
    """The reward model ranks the policy's own samples. Its steps follow from `completions`."""
    kto: DPOConfig = DPOConfig(
        steps=20,
        batch_size=48,
        train=TOP,
        evaluate_every=0,
        loss=KTO(beta=0.1, source="comparisons"),
        optimizer=OptimizerConfig(learning_rate=1e-4, warmup_steps=4),
    )
    rloo: GroupConfig = GroupConfig(**ONLINE, end=END)
    """Its steps follow from `completions`, as those of `grpo` and `ppo`."""
    grpo: GroupConfig = GroupConfig(**ONLINE, end=END, advantage=Grpo())
    ppo: PPOConfig = PPOConfig(**ONLINE, critic="features", shaping=Shaping(trace=1.0, end=END))

    @classmethod
    def miniature(cls) -> "CompareConfig":
        """Every road in seconds on a model that knows nothing: for checks, not for results."""
        top, sampling = Top(layers=1), SamplingParams(max_tokens=16)
        few = {"train": top, "steps": 4, "batch_size": 4, "evaluate_every": 0}
        online = {**ONLINE, "batch_size": 8, "minibatches": 1, "train": top, "sampling": sampling}
        return cls(
            completions=32,
            points=2,
            prompts=8,
            prompts_along=8,
            best_of=(2, 4),
            temperatures=(0.5,),
            demo=DemoConfig.miniature(),
            preferred=SFTConfig(**few),
            raft=RaftConfig(prompts=4, samples=4, steps=2, batch_size=4, train=top, sampling=sampling),
            dpo=DPOConfig(**few),
            online_dpo=DPOConfig(train=top, batch_size=4, online=Online(completions=2)),
            kto=DPOConfig(**few, loss=KTO(source="comparisons")),
            rloo=GroupConfig(**online),
            grpo=GroupConfig(**online, advantage=Grpo()),
            ppo=PPOConfig(**online, critic="features"),
        )


@dataclass(frozen=True)
class Road:
    """A way of training, ready for one seed."""

    name: str
    config: Config

    @property
    def by_reward(self) -> bool:
        """Whether a reward model scores what it learns from."""
        return self.kind not in ("sft", "dpo") or self.name == "online-dpo"

    @property
    def kind(self) -> str:
        """Of its runs."""
        match self.config:
            case SFTConfig():
                return "sft"
            case RaftConfig():
                return "raft"
            case DPOConfig():
                return "dpo"
            case GroupConfig():
                return "group"
            case PPOConfig():
                return "ppo"

    def sampled(self, logged: int) -> int:
        """Completions sampled for so many lines of metrics."""
        match self.config:
            case RaftConfig() as c:
                return logged * c.prompts * c.samples
            case GroupConfig() | PPOConfig() as c:
                return logged * c.batch_size
            case DPOConfig() as c if self.by_reward:
                return logged * c.batch_size * c.online.completions
            case _:
                return 0

    def work(self, completions: int) -> float:
        """About what its training takes, in trainings of one sequence by SFT, for so many ranked completions a ranking.

        The factors are rough: sampling a completion is 1.7, a pass over a rollout's 0.35, the reference 0.35.
        """
        match self.config:
            case SFTConfig() as c:
                return c.steps * c.batch_size
            case RaftConfig() as c:
                return c.rounds * (1.8 * c.prompts * c.samples + c.steps * c.batch_size)
            case DPOConfig(loss=KTO()) as c:
                return 2.05 * c.steps * c.batch_size
            case DPOConfig() as c if self.by_reward:
                return 3.4 * c.steps * c.batch_size * c.online.completions
            case DPOConfig() as c:
                return 1.35 * c.steps * c.batch_size * completions
            case GroupConfig() | PPOConfig() as c:
                return c.steps * c.batch_size * (1.7 + 0.35 * c.epochs)

    def updates(self, logged: int) -> int:
        """Optimiser steps behind so many lines of metrics."""
        match self.config:
            case RaftConfig() as c:
                return logged * c.steps
            case GroupConfig() | PPOConfig() as c:
                return logged * c.epochs * c.minibatches
            case _:
                return logged


def work(config: CompareConfig, seed: int) -> float:
    """About what one seed's roads and their measuring take, in trainings of one sequence by SFT."""
    chosen = list(roads(config, seed))
    texts = len(chosen) * (config.prompts_along * (config.points - 1) + config.prompts) + config.prompts
    texts += config.prompts * max(config.best_of) if "best-of-n" in config.roads else 0
    texts += 3 * len(config.temperatures) * config.prompts
    return 2.0 * texts + sum(road.work(config.demo.completions) for road in chosen)


def roads(config: CompareConfig, seed: int) -> Iterator[Road]:
    """The roads that train, in the order asked for, with the budget and the seed in their settings."""
    for name in config.roads:
        match name:
            case "best-of-n":
                continue
            case "sft-preferred":
                yield Road(name, _spaced(config.preferred, config.points, seed))
            case "raft":
                rounds = max(1, config.completions // (config.raft.prompts * config.raft.samples))
                yield Road(name, config.raft.model_copy(update={"rounds": rounds, "seed": seed}))
            case "dpo":
                yield Road(name, _spaced(config.dpo, config.points, seed))
                for beta in config.betas:
                    further = config.dpo.model_copy(update={"loss": DPO(beta=beta)})
                    yield Road(f"dpo beta {beta:g}", _spaced(further, config.points, seed))
            case "online-dpo":
                online = config.online_dpo
                steps = max(1, config.completions // (online.batch_size * online.online.completions))
                yield Road(name, _spaced(online.model_copy(update={"steps": steps}), config.points, seed))
            case "kto":
                yield Road(name, _spaced(config.kto, config.points, seed))
            case "rloo" | "grpo" | "ppo":
                choices: dict[str, GroupConfig | PPOConfig] = {
                    "rloo": config.rloo,
                    "grpo": config.grpo,
                    "ppo": config.ppo,
                }
                chosen = choices[name]
                steps = max(1, config.completions // chosen.batch_size)
                yield Road(name, _spaced(chosen.model_copy(update={"steps": steps}), config.points, seed))


def _spaced(config: Spaced, points: int, seed: int) -> Spaced:
    """With a checkpoint at each point of the frontier."""
    return config.model_copy(update={"save_every": -(-config.steps // points), "seed": seed})
