"""Direct preference optimisation and its kin: rankings into a policy, no reward model and no sampling (Rafailov et al.
2023, Direct preference optimization: your language model is secretly a reward model).

1. All pairs of one prompt are in one batch and weigh 1 / C(K, 2) each, so a prompt weighs 1 whatever it has.
2. Ties are pairs with target 1/2, and soft labels are honoured, by every kind of loss.
3. The reference is the frozen source of the branch that is trained, and shares its memory. Its log-probabilities are
   computed once, before training, and kept in the run's folder; ORPO and SimPO need none.
4. It warns of the two ways in which this goes wrong unseen: rewards that run away, and good answers growing unlikely.

    tutelage dpo --dpo.loss.kind ipo
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from tutelage.config import Section, Seed
from tutelage.errors import Interrupted, TrainingError
from tutelage.learn.kto import Opinion, Opinions, kto_loss, reference_point
from tutelage.learn.learner import Learner, OptimizerConfig, Part, prefixed
from tutelage.learn.preference import Preference, Preferences, means, preference_loss
from tutelage.learn.preference_losses import DPO, KTO, Loss, needs_reference, takes_targets
from tutelage.learn.reference import check_source, reference_logprobs
from tutelage.learn.rollout import EndRule
from tutelage.model.adapters import Full, Train, branch, merge, trainable
from tutelage.model.batch import cut, gather, pick
from tutelage.model.causal import Model, fingerprint, save
from tutelage.model.heads import Policy
from tutelage.progress import progress
from tutelage.runs import Run

Item = Preference | Opinion


class Online(Section):
    """Fresh comparisons of the policy's own samples instead of stored ones."""

    updates: Annotated[int, Field(ge=1)] = 1
    """Optimiser steps on one round of samples: 1 is online DPO, more is iterated DPO. dpo.steps counts them all."""
    completions: Annotated[int, Field(ge=2, le=9)] = 2
    """Completions of each prompt that are compared."""
    reference: Literal["start", "round"] = "start"
    """The model that training began with, or the policy as each round finds it."""
    end: EndRule = EndRule(kind="none")  # before a reward run, as the annotator, ranks by score


class DPOConfig(Section):
    """Training on preferences, directly."""

    steps: Annotated[int, Field(ge=1)] = 200
    """Optimiser steps."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Prompts per step, with all their completions; for kto, completions."""
    micro_tokens: Annotated[int, Field(ge=1)] = 4096
    """Most tokens in one forward pass, prompts with their completions kept whole."""
    max_tokens: Annotated[int, Field(ge=2)] = 512
    """Longest prompt and completion together, in tokens."""
    loss: Loss = DPO()
    """What is minimised."""
    targets: Literal["none", "annotators"] = "none"
    """`annotators`: pairs get as soft target what all votes on them say together, by how reliable each rater is."""
    sft_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the best completion's negative log-likelihood, in nats per token (Pang et al. 2024)."""
    online: Online = Online()
    train: Train = Full()
    """What is trained: everything, the top layers, or LoRA matrices."""
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=5e-6, warmup_steps=10)
    runaway: Annotated[float, Field(gt=0)] = 10.0
    """Warn when some pair's margin in implicit reward is larger than this; a label that sure errs once in 22,000."""
    chosen_drop: Annotated[float, Field(gt=0)] = 0.5
    """Warn when the better completions are this much less likely than at the start, in nats per token."""
    evaluate_every: Annotated[int, Field(ge=0)] = 50
    """Steps between measurements on what is held out; 0 for never."""
    save_every: Annotated[int, Field(ge=1)] = 50
    """Steps between checkpoints."""
    seed: Seed = 0
    """Draws the order of the data, LoRA's first matrices, KTO's mismatched pairs and online samples."""

    @model_validator(mode="after")
    def _targets_have_a_meaning(self) -> Self:
        if self.targets != "none" and not takes_targets(self.loss):
            loss = f"loss '{self.loss.kind}'" + (" of ratings" if isinstance(self.loss, KTO) else "")
            raise ValueError(
                f"targets '{self.targets}' are soft and of pairs, which {loss} cannot use: set it to 'none'"
            )
        return self


class DPOState:
    """What a run is made of at any moment; `save` and `load` are its checkpoint."""

    def __init__(self, model: Model, config: DPOConfig) -> None:
        self.config = config
        self.source, self.reference = fingerprint(model.decoder), Policy(model.decoder)
        decoder = branch(model.decoder, config.train, torch.Generator().manual_seed(config.seed))
        self.tokenizer, self.policy = model.tokenizer, Policy(decoder)
        self.learner = Learner(trainable(decoder), config.optimizer, config.steps)
        self.start: float | None = 0.0 if needs_reference(config.loss) else None  # what dpo/chosen_shift counts from
        self.warned: list[str] = []

    def part(self, items: Sequence[Any], reference: Sequence[Tensor] | None) -> Part:
        """The items packed, with the loss to be taken of them."""
        c = self.config
        cuts = cut([item.tokens for item in items], c.micro_tokens)
        known = [None if reference is None else [reference[i] for i in part] for part in cuts]
        rows = [([items[i] for i in part], part_known) for part, part_known in zip(cuts, known, strict=True)]
        match c.loss:
            case KTO() as kto:
                opinions = [Opinions.of(some, ref or []) for some, ref in rows]
                point = reference_point(self.policy, opinions)
                return Part(
                    opinions,
                    lambda b: kto_loss(self.policy, b, kto, point, sft_weight=c.sft_weight, runaway=c.runaway),
                )
            case pairs:
                return Part(
                    [Preferences.of(some, ref) for some, ref in rows],
                    lambda b: preference_loss(self.policy, b, pairs, sft_weight=c.sft_weight, runaway=c.runaway),
                )

    def update(self, items: Sequence[Item], reference: Sequence[Tensor] | None) -> dict[str, float]:
        """One optimiser step on whole items; warns where the figures ask for it."""
        metrics = prefixed("dpo", means(self.learner.update(self.part(items, reference))))
        if "dpo/chosen_shift" in metrics:
            if self.start is None:
                self.start = metrics["dpo/chosen_shift"]
            metrics["dpo/chosen_shift"] -= self.start
        self._warn(metrics)
        return metrics

    @torch.no_grad()
    def measure(self, items: Sequence[Item], reference: Sequence[Tensor] | None) -> dict[str, float]:
        """The same loss on items held out."""
        part, logged = self.part(items, reference), dict[str, float]()
        units = sum(b.units for b in part.batches)
        for batch in part.batches:
            for name, value in part.loss(batch)[1].items():
                logged[name] = logged.get(name, 0.0) + float(value) / units
        found = means(logged)
        names = {
            "dpo/loss": "dpo/evaluation_loss",
            "dpo/accuracy": "dpo/evaluation_accuracy",
            "dpo/margin": "dpo/evaluation_margin",
        }
        return {there: found[here] for here, there in names.items() if here in found}

    def _warn(self, metrics: Mapping[str, float]) -> None:
        """Say each thing once a run."""
        c, step = self.config, self.learner.step
        if metrics.get("dpo/runaway", 0.0) > 0 and "runaway" not in self.warned:
            self.warned.append("runaway")
            warnings.warn(
                f"implicit rewards run away: at step {step}, {metrics['dpo/runaway']:.1%} of the pairs differ by more "
                f"than {c.runaway:g}. There are too few labels for what is trained: stop earlier, raise dpo.loss.beta, "
                "use dpo.loss.kind ipo or conservative, or label more.",
                stacklevel=3,
            )
        if metrics.get("dpo/chosen_shift", 0.0) < -c.chosen_drop and "chosen" not in self.warned:
            self.warned.append("chosen")
            warnings.warn(
                f"the better completions grow unlikely: at step {step} they are {-metrics['dpo/chosen_shift']:.2f} "
                "nats a token below the start. Set dpo.sft_weight, lower the learning rate, or stop earlier.",
                stacklevel=3,
            )

    def save(self) -> dict[str, Any]:
        """Everything needed to go on from here."""
        return {"learner": self.learner.save(), "source": self.source, "start": self.start, "warned": self.warned}

    def load(self, state: Mapping[str, Any], run: Run) -> None:
        """Go on from what `save` gave. Raises CheckpointError when the model is another than the run began with."""
        check_source(run, state["source"], self.source)
        self.learner.load(state["learner"])
        self.start, self.warned = state["start"], list(state["warned"])

    def result(self, run: Run) -> Model:
        """Leave the policy's weights in the run's folder."""
        made = Model(decoder=merge(self.policy.decoder), tokenizer=self.tokenizer, name=str(run.final))
        run.leave(lambda folder: save(made, folder))
        return made


def dpo(model: Model, items: Sequence[Item], config: DPOConfig, run: Run, *, evaluation: Sequence[Item] = ()) -> Model:
    """Train a branch of the model on preferences (for kto, on opinions); the model given is the reference and stays.

    Resumes by itself when the run has a checkpoint. Leaves the weights in `run.final`. Raises TrainingError when there
    is nothing to learn from, CheckpointError when the model is another than the run began with, Interrupted when the
    user asked to stop.
    """
    check_items(items, config)
    t = DPOState(model, config)
    restored = run.restore()
    if restored is not None:
        t.load(restored[1], run)
    drawn = [pick(len(items), config.batch_size, step, config.seed) for step in range(config.steps)]
    measured = range(len(evaluation) if config.evaluate_every else 0)
    with run.interruptible():
        known = None
        if needs_reference(config.loss):
            wanted = {
                "train": (items, sorted({i for some in drawn for i in some})),
                "evaluation": (evaluation, measured),
            }
            known = reference_logprobs(t.reference, t.source, wanted, run, config.micro_tokens)
        with progress("DPO", config.steps) as report:
            for step in range(t.learner.step + 1, config.steps + 1):
                chosen = gather(items, drawn[step - 1])
                metrics = t.update(chosen, known.of("train", drawn[step - 1], chosen) if known is not None else None)
                if measured and step % config.evaluate_every == 0:
                    held_out = known.of("evaluation", measured, evaluation) if known is not None else None
                    metrics |= t.measure(evaluation, held_out)
                run.log(step, metrics)
                if step % config.save_every == 0 or run.stop_requested:
                    run.save(step, t.save())
                if run.stop_requested:
                    raise Interrupted(f"stopped after step {step} of {config.steps}; go on with --resume {run.id}")
                report(step, f"loss {metrics['dpo/loss']:.3f} accuracy {metrics.get('dpo/accuracy', 0.0):.2f}")
    return t.result(run)


def check_items(items: Sequence[Item], config: DPOConfig) -> None:
    """Raises TrainingError when nothing of what there is prefers anything."""
    if isinstance(config.loss, KTO):
        if not items:
            raise TrainingError("nothing to learn from: no completion was rated above or below the middle, or ranked")
    elif not any(isinstance(item, Preference) and item.decides for item in items):
        raise TrainingError(f"nothing to learn from: none of the {len(items)} rankings prefers one completion")
