"""Learning from the policy's own samples: the settings all such algorithms have, and where a run of one is."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from tutelage.config import Section, Seed
from tutelage.errors import CheckpointError, ConfigError, TrainingError
from tutelage.learn.kl import MOST_ERROR, KLConfig, KLController
from tutelage.learn.learner import Learner, OptimizerConfig
from tutelage.learn.reward import RewardModel
from tutelage.learn.rollout import Networks, RewardSource, Rollout, Shaping, end_scores, make_rollout
from tutelage.model.adapters import Full, Train, merge, trainable
from tutelage.model.causal import Model, fingerprint, save
from tutelage.model.linear import low_copies
from tutelage.progress import console
from tutelage.runs import Run, rng_state, set_rng_state
from tutelage.sample.engine import Engine
from tutelage.sample.sampler import Sampler, SamplingParams

HIDDEN = ("hidden", "features")  # of a rollout: they stay with the networks, its other tensors on the CPU


class OnlineConfig(Section):
    """Training on the policy's own samples."""

    reward: RewardSource = "model"
    """A reward run; the `rules` section; both summed; a reward run plus the `propositions`; or an AI judge's grade."""
    steps: Annotated[int, Field(ge=1)] = 40
    """Rollouts, each followed by its updates."""
    batch_size: Annotated[int, Field(ge=1)] = 64
    """Episodes (completions) per rollout."""
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
    clip: Annotated[float, Field(gt=0)] = 0.2
    """The probability ratio is clipped to 1 ± this."""
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
        if self.kl.target is not None and self.kl.horizon <= MOST_ERROR * self.batch_size:
            raise ValueError(
                f"kl.horizon {self.kl.horizon} is too short for batch_size {self.batch_size}: one step could turn the "
                f"coefficient negative. Set it above {MOST_ERROR * self.batch_size:g}"
            )
        return self


C = TypeVar("C", bound=OnlineConfig)


def minibatch_plan(config: OnlineConfig, step: int, episodes: int | None = None) -> list[list[int]]:
    """Which episodes each optimiser step of this rollout reads: every epoch all of them, reshuffled.

    `episodes` is how many there are; without it, `batch_size`.
    """
    total = config.batch_size if episodes is None else episodes
    size, plan = -(-total // config.minibatches), []
    for epoch in range(config.epochs):
        generator = torch.Generator().manual_seed((config.seed * 1_000_003 + step) * 1_009 + epoch)
        order = torch.randperm(total, generator=generator).tolist()
        plan += [order[i : i + size] for i in range(0, total, size)]
    return plan


def check_inputs(name: str, config: OnlineConfig, prompts: Sequence[object], held_out: Sequence[object]) -> None:
    """Raises TrainingError without prompts, ConfigError when the best policy is asked for and nothing measures it."""
    if not prompts:
        raise TrainingError("no prompts to roll out: add some by `tutelage import` (every fifth is held out)")
    if config.keep == "best" and not (held_out and config.evaluate_every):
        raise ConfigError(f"{name}.keep is 'best', which needs held-out prompts and {name}.evaluate_every above 0")


class PolicyState(Generic[C]):
    """Networks and numbers of one run; `save` and `load` are its checkpoint."""

    def __init__(
        self,
        model: Model,
        nets: Networks,
        config: C,
        shaping: Shaping,
        sampler: Sampler | None,
        critic: Mapping[str, nn.Parameter],
    ) -> None:
        """`critic` is what is trained beside the policy, by name."""
        self.config, self.nets, self.shaping, self.actor = config, nets, shaping, nets.actor
        self.shared = nets.shared
        decoder = nets.actor.policy.decoder
        self.policy_weights = trainable(decoder)
        parameters = {f"policy.{n}": p for n, p in self.policy_weights.items()} | dict(critic)
        self.learner = Learner(parameters, config.optimizer, config.steps * config.epochs * config.minibatches)
        self.kl = KLController(config.kl)
        if sampler is None:
            sampler = Engine(decoder, model.tokenizer.end, capture=self.shared or None, resting=False)
        self.sampler = sampler
        self.reference = fingerprint(model.decoder)
        self.judged_by = nets.reward.identity() if isinstance(nets.reward, RewardModel) else ""
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

    @property
    def price(self) -> float:
        """What a nat of KL costs in the rewards."""
        return self.kl.coefficient

    def roll_out(self, prompts: Sequence[Sequence[int]], seed: int) -> Rollout:
        """Sample from the policy as it is now and ask every network about it.

        Then nobody is asked but the actor until the next rollout: the others' low-precision copies are given back.
        """
        self.sampler.load(self.actor.policy.decoder)
        rollout = make_rollout(
            prompts,
            self.sampler.generate(prompts, self.config.sampling, seed=seed),
            self.nets,
            shaping=self.shaping,
            coefficient=self.price,
            temperature=self.config.sampling.temperature,
            micro_tokens=self.config.micro_tokens,
        )
        scorer = [self.nets.reward.scorer] if isinstance(self.nets.reward, RewardModel) else []
        for copy in low_copies(self.nets.reference, *scorer) - low_copies(self.actor):
            copy.forget()
        return rollout

    def restore(self, run: Run) -> None:
        """Go on from the run's last checkpoint, where there is one."""
        restored = run.restore()
        if restored is not None:
            self.load(restored[1])

    def average_weights(self) -> None:
        """Move the average of the weights (Ouyang et al. 2022, appendix C.4) towards the policy."""
        if self.average is not None and self.config.ema is not None:
            for name, p in self.policy_weights.items():
                self.average[name].lerp_(p.detach(), 1 - self.config.ema)

    def finish_step(self, kl: float) -> None:
        """The rollout in hand is used up: adapt the coefficient and make room for the next."""
        self.kl.update(kl, self.config.batch_size)
        self.step, self.place, self.rollout, self.logged = self.step + 1, 0, None, []

    def measure(self, held_out: Sequence[Sequence[int]], model: Model, run: Run) -> dict[str, float]:
        """Reward and KL on held-out prompts, with samples to read; remembers the best policy within the KL budget."""
        rollout = self.roll_out(held_out, seed=self.config.seed)
        reached = float(end_scores(rollout.scores, rollout.ended, self.shaping.end).mean())
        kl = float(rollout.sequence_kl.mean())
        rows = zip(rollout.sequences, rollout.prompt_lengths, rollout.scores.tolist(), strict=True)
        decode = model.tokenizer.decode
        shown = [{"prompt": decode(s[:p]), "text": decode(s[p:]), "score": r} for s, p, r in list(rows)[:8]]
        run.samples(self.step, shown)
        self.worse += 1
        budget = self.config.kl.budget
        if (budget is None or kl <= budget) and (self.best is None or reached > self.best[0]):
            self.best, self.worse = (reached, self.copy()), 0
        return {"evaluation_score": reached, "evaluation_kl": kl}

    def spent(self, kl: float) -> bool:
        """Whether a rollout of this KL is beyond the budget."""
        return self.config.kl.budget is not None and kl > self.config.kl.budget

    def due(self, kl: float) -> bool:
        """Whether to measure after the step whose rollout had this KL: also after the last one, to keep the best."""
        c = self.config
        last = c.keep == "best" and (self.step == c.steps or self.spent(kl))
        return c.evaluate_every > 0 and (last or self.step % c.evaluate_every == 0)

    def finished(self, kl: float) -> bool:
        """Whether the KL budget is spent or patience has run out."""
        return self.spent(kl) or (self.config.patience is not None and self.worse >= self.config.patience)

    def choose(self) -> None:
        """Put into the policy the weights that are the run's result: best, average, or the last as they are.

        Says aloud when the best is wanted and nothing that was measured is within the KL budget.
        """
        chosen = self.average
        if self.best is not None and self.config.keep == "best":
            chosen = self.best[1]
        elif self.config.keep == "best":
            console.print(f"Warning: no policy that was measured is within kl.budget ({self.config.kl.budget} nats): "
                          "the result is the one training ended with. Raise the budget or kl.coefficient, or lower "
                          "evaluate_every.", style="yellow")  # fmt: skip
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
            "judged_by": self.judged_by,
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
        """Go on from what `save` gave. Raises CheckpointError when the reference or the reward is another one."""
        if state["reference"] != self.reference:
            raise CheckpointError(
                f"this run's reference model has hash {state['reference']}, but the model given now has "
                f"{self.reference}: resume with the model it began with"
            )
        if state["judged_by"] != self.judged_by:
            raise CheckpointError(
                f"this run's reward (weights, mean, deviation) is {state['judged_by'] or 'a function'}, but the one "
                f"given now is {self.judged_by or 'a function'}: resume with the reward it began with"
            )
        self.learner.load(state["learner"])
        self.kl.coefficient, self.step, self.place = state["coefficient"], state["step"], state["place"]
        self.logged, self.worse = state["logged"], state["worse"]
        kept, average, best = state["rollout"], state["average"], state["best"]
        self.rollout = None if kept is None else Rollout(**{**kept, **self._placed({n: kept[n] for n in HIDDEN})})
        self.average = None if average is None else self._placed(average)
        self.best = None if best is None else (best[0], self._placed(best[1]))
        set_rng_state(state["rng"])

    def _placed(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Tensors of a checkpoint, which are on the CPU, where the policy's weights are; None stays."""
        device = next(iter(self.policy_weights.values())).device
        return {name: None if tensor is None else tensor.to(device) for name, tensor in tensors.items()}


def leave_model(t: PolicyState[Any], model: Model, run: Run) -> Model:
    """The run's result, written to `run.final`; `model` lends the tokenizer."""
    t.choose()
    result = Model(decoder=merge(t.actor.policy.decoder), tokenizer=model.tokenizer, name=str(run.final))
    run.leave(lambda folder: save(result, folder))
    return result
