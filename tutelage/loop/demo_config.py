"""The demo's sizes and settings: what fits its time, and was measured to work."""

from typing import Annotated, Literal

from pydantic import Field

from tutelage.config import Section, Seed
from tutelage.learn.kl import KLConfig
from tutelage.learn.learner import OptimizerConfig
from tutelage.learn.ppo import PPOConfig
from tutelage.learn.reward import RewardConfig
from tutelage.learn.rollout import EndRule, Shaping
from tutelage.learn.sft import SFTConfig
from tutelage.model.adapters import Top
from tutelage.sample.sampler import SamplingParams

TOP = Top(layers=10)
SAMPLING = SamplingParams(max_tokens=24)


class DemoConfig(Section):
    """The demo: sizes that fit its time, and the settings of each stage."""

    seed: Seed = 0
    """Seed of every stage."""
    model: str = "smollm2-135m"
    """The pretrained model; `tiny` for the miniature."""
    annotator: Literal["panel", "me"] = "panel"
    """Who ranks: the simulated panel, or you at this terminal."""
    labelled_prompts: Annotated[int, Field(ge=1)] = 320
    """Prompts whose completions are ranked."""
    completions: Annotated[int, Field(ge=2, le=9)] = 4
    """Completions per prompt, K."""
    evaluation_prompts: Annotated[int, Field(ge=2)] = 150
    """Prompts of the blind evaluation, never trained on."""
    review_tokens: Annotated[int, Field(ge=8)] = 24
    """Longest review that is trained on, in tokens."""
    sft: SFTConfig = SFTConfig(steps=40, batch_size=32, train=TOP, optimizer=OptimizerConfig(learning_rate=2e-4))
    preference: RewardConfig = RewardConfig(
        steps=60, batch_size=16, train=TOP, evaluate_every=0, optimizer=OptimizerConfig(learning_rate=2e-4)
    )
    """The reward model's first training, on pairs made from the reviews' own labels (Bai et al. 2022, section 4)."""
    reward: RewardConfig = RewardConfig(
        steps=20, batch_size=16, train=TOP, evaluate_every=0, optimizer=OptimizerConfig(learning_rate=1e-5)
    )
    ppo: PPOConfig = PPOConfig(
        steps=20,
        batch_size=64,
        epochs=2,
        minibatches=4,
        sampling=SAMPLING,
        kl=KLConfig(coefficient=0.05, budget=6.0),
        critic="features",
        train=TOP,
        shaping=Shaping(trace=1.0, end=EndRule(kind="fixed", value=0.5)),
        optimizer=OptimizerConfig(learning_rate=1e-4, schedule="constant", warmup_steps=8),
        evaluate_every=0,
        save_every=5,
    )

    @classmethod
    def miniature(cls, seed: int = 0) -> "DemoConfig":
        """The same path in a minute on a model that knows nothing: for checks, not for results."""
        top = Top(layers=1)
        few = {"steps": 4, "batch_size": 8, "train": top}
        return cls(
            seed=seed,
            model="tiny",
            labelled_prompts=12,
            evaluation_prompts=12,
            review_tokens=80,
            sft=SFTConfig(**few),
            preference=RewardConfig(**few, evaluate_every=0),
            reward=RewardConfig(**few, evaluate_every=0),
            ppo=PPOConfig(
                steps=3, batch_size=8, epochs=2, sampling=SamplingParams(max_tokens=16), critic="features", train=top
            ),
        )

    def seeded(self) -> "DemoConfig":
        """The same with every stage's seed set from this one."""
        stages = {name: self.__dict__[name].model_copy(update={"seed": self.seed}) for name in STAGES}
        return self.model_copy(update=stages)


STAGES = ("sft", "preference", "reward", "ppo")
