"""A reward model from rankings (Stiennon et al. 2020, section 3.4; Ouyang et al. 2022, equation 1).

1. All pairs of one prompt are in one batch and weigh 1 / C(K, 2) each, as InstructGPT's do.
2. The score is the scalar at the last token of the completion, the end token when there is one.
3. Ties are pairs with target 1/2. Label noise and AI judges enter as soft targets, strength as a margin (Llama 2).
4. After training, scores are scaled to standard deviation 1 on samples of the reference policy, and shifted so that
   these, or demonstrations (InstructGPT's choice), have mean 0.

    tutelage reward --reward.steps 100
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from safetensors.torch import load_file, save_file
from torch import Tensor

from tutelage.config import Section, Seed
from tutelage.errors import Interrupted, ModelError, TrainingError
from tutelage.learn.learner import Learner, OptimizerConfig, Part, prefixed, weighted_means
from tutelage.model import causal
from tutelage.model.adapters import Full, Train, branch, merge, trainable
from tutelage.model.batch import Packed, cut, gather, pick
from tutelage.model.causal import Model, fingerprint
from tutelage.model.chat import Tokenizer
from tutelage.model.heads import Head, Scorer
from tutelage.model.maths import pair_loss, plackett_luce_loss
from tutelage.progress import progress
from tutelage.records import Comparison
from tutelage.runs import Run

MEANS_OVER: Mapping[str, str] = {"reward/accuracy": "decided"}  # the sum that divides a sum, where it is not prompts
SCALED = 256  # rankings whose completions set the scale where no samples of the reference policy are given


class RewardConfig(Section):
    """Training of the reward model."""

    steps: Annotated[int, Field(ge=0)] = 200
    """Optimiser steps."""
    batch_size: Annotated[int, Field(ge=1)] = 16
    """Prompts per step, with all their completions."""
    micro_tokens: Annotated[int, Field(ge=1)] = 4096
    """Most tokens in one forward pass, prompts with their completions kept whole."""
    max_tokens: Annotated[int, Field(ge=2)] = 512
    """Longest prompt and completion together, in tokens."""
    loss: Literal["pairs", "plackett_luce"] = "pairs"
    """All pairs of a ranking (InstructGPT), or the likelihood of the whole ranking."""
    label_noise: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Share of labels believed to be flipped; decided pairs get the soft target 1 − this."""
    targets: Literal["none", "annotators"] = "none"
    """`annotators`: pairs get as soft target what all votes on them say together, by how reliable each rater is."""
    arm: Literal["all", "random", "active"] = "all"
    """Which labels: all, or those of questions that chance or `tutelage prioritise` put in their place in a batch."""
    strength_margin: Annotated[float, Field(ge=0)] = 0.0
    """Margin in score per step of preference strength above 1 (Llama 2, section 3.2.2)."""
    zero: Literal["samples", "demonstrations"] = "samples"
    """What scores 0 on average in the end: samples of the reference policy, or demonstrations, as in InstructGPT."""
    train: Train = Full()
    """What is trained: everything, the top layers, or LoRA matrices."""
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-5)
    evaluate_every: Annotated[int, Field(ge=0)] = 50
    """Steps between measurements on rankings held out; 0 for never."""
    save_every: Annotated[int, Field(ge=1)] = 50
    """Steps between checkpoints."""
    seed: Seed = 0
    """Draws the order of the rankings, LoRA's first matrices and the head's first weights."""

    @model_validator(mode="after")
    def _targets_are_of_pairs(self) -> Self:
        if self.targets != "none" and self.loss != "pairs":
            raise ValueError(f"targets '{self.targets}' are of pairs, but loss is '{self.loss}': set loss to 'pairs'")
        return self


@dataclass(frozen=True)
class Ranking:
    """One comparison as tokens: K sequences (prompt and completion), and what was said of them."""

    sequences: tuple[tuple[int, ...], ...]
    ranks: tuple[int, ...]
    target: float | None
    strength: int | None
    pair_targets: tuple[float, ...] | None = None
    """For each pair i < j, probability that i is better: goes before ranks and label noise."""

    @property
    def tokens(self) -> int:
        """Tokens in all K sequences."""
        return sum(len(s) for s in self.sequences)


def render(
    comparison: Comparison, tokenizer: Tokenizer, max_tokens: int, targets: Sequence[float] | None = None
) -> Ranking:
    """A comparison as tokens, each completion after its prompt, cut at `max_tokens`. `targets`: a pair's, i < j."""
    sequences = tuple(
        tokenizer.example(comparison.prompt, c.text, max_tokens=max_tokens, finish=c.finish).tokens
        for c in comparison.completions
    )
    by_pair = None if targets is None else tuple(targets)
    return Ranking(sequences, comparison.ranks, comparison.target, comparison.strength, by_pair)


@dataclass(frozen=True)
class Groups:
    """Packed rankings and their P pairs, as indices into the N sequences."""

    packed: Packed
    rankings: tuple[Ranking, ...]
    better: Tensor  # (P,) int64
    worse: Tensor  # (P,) int64
    target: Tensor  # (P,) probability that `better` is better: 1, a soft label, or 1/2 for a tie
    weight: Tensor  # (P,) 1 / C(K, 2)
    margin: Tensor  # (P,)

    @classmethod
    def of(cls, rankings: Sequence[Ranking], config: RewardConfig, *, share: bool = True) -> "Groups":
        """Pack whole rankings, a prompt once for its completions; none is ever split between two batches."""
        rows: list[tuple[int, int, float, float, float]] = []
        base = 0
        for r in rankings:
            k = len(r.sequences)
            margin, first = config.strength_margin * ((r.strength or 1) - 1), len(rows)
            for i in range(k):
                for j in range(i + 1, k):
                    a, b = (i, j) if r.ranks[i] <= r.ranks[j] else (j, i)
                    tied = r.ranks[i] == r.ranks[j]
                    target = 0.5 if tied else 1 - config.label_noise
                    if r.pair_targets is not None:
                        first_better = r.pair_targets[len(rows) - first]
                        target = first_better if a == i else 1 - first_better
                    if r.target is not None:
                        a, b, target = 0, 1, r.target
                    towards = margin * ((target > 0.5) - (target < 0.5))
                    rows.append((base + a, base + b, target, 2 / (k * (k - 1)), towards))
            base += k
        better, worse, targets, weight, margins = zip(*rows, strict=True)
        return cls(
            Packed.of([s for r in rankings for s in r.sequences], share=share),
            tuple(rankings),
            torch.tensor(better),
            torch.tensor(worse),
            torch.tensor(targets),
            torch.tensor(weight),
            torch.tensor(margins),
        )

    @property
    def units(self) -> int:
        """Prompts."""
        return len(self.rankings)


def right(margin: Tensor) -> Tensor:
    """Whether each pair is ordered as the annotator did: 1, 0, or 1/2 for equal scores; margin (P,) → (P,)."""
    return (torch.sign(margin) + 1) / 2


def reward_loss(scorer: Scorer, groups: Groups, config: RewardConfig) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Summed loss over prompts, in nats; each prompt's pairs weigh 1 in all. With sums to log: see `MEANS_OVER`."""
    score = scorer(groups.packed, groups.packed.last).score
    margin = score[groups.better] - score[groups.worse]
    if config.loss == "plackett_luce":
        parts = torch.split(score, [len(r.sequences) for r in groups.rankings])
        terms = [plackett_luce_loss(s, torch.tensor(r.ranks)) for s, r in zip(parts, groups.rankings, strict=True)]
        loss = torch.stack(terms).sum()
    else:
        loss = (pair_loss(margin - groups.margin, groups.target) * groups.weight).sum()
    decided = groups.weight * (groups.target != 0.5)
    agreed = right(torch.where(groups.target > 0.5, margin, -margin))
    return loss, {
        "reward/loss": loss,
        "reward/accuracy": (agreed * decided).sum(),
        "decided": decided.sum(),
        "reward/margin": (margin.abs() * groups.weight).sum(),
    }


@dataclass
class RewardModel:
    """A scorer and the scale of its scores. `score` gives (raw − mean) / std."""

    scorer: Scorer
    tokenizer: Tokenizer
    mean: float
    std: float

    @torch.no_grad()
    def score(self, sequences: Sequence[Sequence[int]], most: int = 8192) -> Tensor:
        """Normalised scores (n,) of whole sequences, prompt and completion together."""
        parts = [torch.zeros(0)]
        for part in cut([len(s) for s in sequences], most):
            packed = Packed.of([sequences[i] for i in part], share=True)
            parts.append(self.scorer(packed, packed.last).score)
        return (torch.cat(parts) - self.mean) / self.std

    def identity(self) -> str:
        """Hash of the weights, mean and deviation: what a run that learns from these scores must find again."""
        return f"{fingerprint(self.scorer)} {self.mean!r} {self.std!r}"

    def normalise(self, samples: Sequence[Sequence[int]], zero: Sequence[Sequence[int]] = ()) -> None:
        """Set the scale: `samples` of the reference policy have deviation 1, and `zero`, or else they, have mean 0."""
        self.mean, self.std = 0.0, 1.0
        raw = self.score(samples)
        mean = float(self.score(zero).mean()) if zero else float(raw.mean())
        self.mean, self.std = mean, float(raw.std(correction=0).clamp_min(1e-6))


def save_reward(reward: RewardModel, folder: Path) -> None:
    """Write decoder (Hugging Face layout), head and scale into the folder."""
    model = Model(decoder=merge(reward.scorer.decoder), tokenizer=reward.tokenizer, name=str(folder))
    causal.save(model, folder)
    save_file({"score.weight": reward.scorer.head.weight.detach().cpu().contiguous()}, folder / "score.safetensors")
    (folder / "reward.json").write_text(json.dumps({"mean": reward.mean, "std": reward.std}))


def load_reward(folder: Path, device: str = "cpu") -> RewardModel:
    """Read what `save_reward` wrote. Raises ModelError when the folder holds no reward model."""
    if not (folder / "reward.json").exists():
        raise ModelError(f"{folder} holds no reward model (no reward.json): give the folder a reward run left")
    model = causal.load(folder, device=device)
    scale = json.loads((folder / "reward.json").read_text())
    head = Head(load_file(folder / "score.safetensors")["score.weight"])
    head.to(model.decoder.head_weight().device)
    return RewardModel(Scorer(model.decoder, head), model.tokenizer, scale["mean"], scale["std"])


@torch.no_grad()
def margins(reward: RewardModel, rankings: Sequence[Ranking]) -> Tensor:
    """Score of the better minus score of the worse, for every decided pair of every ranking, (P,)."""
    scores = reward.score([s for r in rankings for s in r.sequences])
    out: list[Tensor] = []
    for r, part in zip(rankings, torch.split(scores, [len(r.sequences) for r in rankings]), strict=True):
        k = range(len(r.ranks))
        out += [part[i] - part[j] for i in k for j in k if r.ranks[i] < r.ranks[j]]
    return torch.stack(out) if out else torch.zeros(0)


def train_reward(
    model: Model,
    rankings: Sequence[Ranking],
    config: RewardConfig,
    run: Run,
    *,
    evaluation: Sequence[Ranking] = (),
    start: RewardModel | None = None,
    reference: Sequence[Sequence[int]] = (),
    demonstrations: Sequence[Sequence[int]] = (),
) -> RewardModel:
    """Train a branch of the model, or of an earlier reward model (`start`), on rankings.

    `reference`: sequences of the reference policy that set the scale; without them the rankings' own completions do.
    `demonstrations`: sequences that score 0 on average, when `config.zero` says so. Resumes by itself when the run has
    a checkpoint. Raises TrainingError when no ranking decides anything, or demonstrations are missing.
    """
    zero = demonstrations if config.zero == "demonstrations" else ()
    if config.zero == "demonstrations" and not zero:
        raise TrainingError("reward.zero is 'demonstrations', but there are none: import some, or set it to 'samples'")
    if not any(r.target not in (None, 0.5) or len(set(r.ranks)) > 1 for r in rankings):
        raise TrainingError(f"nothing to learn from: none of the {len(rankings)} rankings prefers one completion")
    generator = torch.Generator().manual_seed(config.seed)
    decoder = branch(model.decoder if start is None else start.scorer.decoder, config.train, generator)
    width = decoder.head_weight().shape[1]
    head = Head.reward(width, generator) if start is None else Head(start.scorer.head.weight.detach().clone())
    reward = RewardModel(Scorer(decoder, head.to(decoder.head_weight().device)), model.tokenizer, 0.0, 1.0)
    learner = Learner(trainable(decoder) | {"head": head.weight}, config.optimizer, config.steps)
    restored = run.restore()
    if restored is not None:
        learner.load(restored[1]["learner"])
    with run.interruptible(), progress("Reward model", config.steps) as report:
        for step in range(learner.step + 1, config.steps + 1):
            chosen = gather(rankings, pick(len(rankings), config.batch_size, step - 1, config.seed))
            parts = cut([r.tokens for r in chosen], config.micro_tokens)
            groups = [Groups.of([chosen[i] for i in part], config) for part in parts]
            logged = learner.update(Part(groups, lambda g: reward_loss(reward.scorer, g, config)))
            metrics = prefixed("reward", weighted_means(logged, MEANS_OVER))
            if evaluation and config.evaluate_every and step % config.evaluate_every == 0:
                metrics["reward/evaluation_accuracy"] = float(right(margins(reward, evaluation)).mean())
            run.log(step, metrics)
            if step % config.save_every == 0 or run.stop_requested:
                run.save(step, {"learner": learner.save()})
            if run.stop_requested:
                raise Interrupted(f"stopped after step {step} of {config.steps}; go on with --resume {run.id}")
            report(step, f"loss {metrics['reward/loss']:.3f} accuracy {metrics.get('reward/accuracy', 0.0):.2f}")
    reward.normalise(reference or [s for r in rankings[:SCALED] for s in r.sequences], zero)
    run.leave(lambda folder: save_reward(reward, folder))
    return reward
