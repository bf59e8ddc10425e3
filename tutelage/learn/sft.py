"""Supervised fine-tuning: imitate demonstrations (Ouyang et al. 2022, section 3.5, step 1).

1. Only completion tokens are trained; the prompt is read, not predicted.
2. The loss is the mean over the tokens of the whole batch, not of each example: long answers weigh more.
3. Rows are packed, so no step is spent on padding.

    tutelage sft --sft.steps 200
"""

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from tutelage.config import Section, Seed
from tutelage.errors import Interrupted, TrainingError
from tutelage.learn.learner import Learner, OptimizerConfig, Part, prefixed
from tutelage.model.adapters import Full, Train, branch, merge, trainable
from tutelage.model.batch import Batch, Example, cut, gather, pick
from tutelage.model.causal import Model, save
from tutelage.model.heads import Policy
from tutelage.progress import progress
from tutelage.runs import Run


class SFTConfig(Section):
    """Supervised fine-tuning."""

    steps: Annotated[int, Field(ge=1)] = 200
    """Optimiser steps."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Demonstrations per step."""
    micro_tokens: Annotated[int, Field(ge=1)] = 4096
    """Most tokens in one forward pass; smaller saves memory and changes nothing else."""
    max_tokens: Annotated[int, Field(ge=2)] = 512
    """Longest prompt and completion together, in tokens."""
    train: Train = Full()
    """What is trained: everything, the top layers, or LoRA matrices."""
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=2e-5)
    evaluate_every: Annotated[int, Field(ge=0)] = 50
    """Steps between measurements on demonstrations held out; 0 for never."""
    save_every: Annotated[int, Field(ge=1)] = 50
    """Steps between checkpoints."""
    seed: Seed = 0
    """Draws the order of the demonstrations and LoRA's first matrices."""


def batches(examples: Sequence[Example], most: int) -> list[Batch]:
    """The examples packed into micro-batches of at most `most` tokens."""
    return [Batch.of([examples[i] for i in part], share=True) for part in cut([len(e.tokens) for e in examples], most)]


def sft_loss(policy: Policy, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Summed negative log-likelihood over the batch's tokens, in nats."""
    out = policy(batch)
    loss = -out.logprob.sum()
    return loss, {"sft/loss": loss, "sft/entropy": out.entropy.sum()}


@torch.no_grad()
def mean_loss(policy: Policy, examples: Sequence[Example], most: int) -> float:
    """Mean negative log-likelihood per completion token, in nats."""
    parts = batches(examples, most)
    return float(sum(sft_loss(policy, part)[0] for part in parts)) / sum(part.units for part in parts)


def sft(
    model: Model, examples: Sequence[Example], config: SFTConfig, run: Run, *, evaluation: Sequence[Example] = ()
) -> Model:
    """Train a branch of the model on the examples; the model given stays as it is.

    Resumes by itself when the run has a checkpoint. Leaves the weights in `run.final`. Raises TrainingError when there
    is nothing to train on, Interrupted when the user asked to stop.
    """
    if not examples:
        raise TrainingError("no demonstrations to train on: add some by `tutelage import`")
    decoder = branch(model.decoder, config.train, torch.Generator().manual_seed(config.seed))
    policy = Policy(decoder)
    learner = Learner(trainable(decoder), config.optimizer, config.steps)
    restored = run.restore()
    if restored is not None:
        learner.load(restored[1]["learner"])
    with run.interruptible(), progress("SFT", config.steps) as report:
        for step in range(learner.step + 1, config.steps + 1):
            chosen = gather(examples, pick(len(examples), config.batch_size, step - 1, config.seed))
            part = Part(batches(chosen, config.micro_tokens), lambda b: sft_loss(policy, b))
            metrics = prefixed("sft", learner.update(part))
            if evaluation and config.evaluate_every and step % config.evaluate_every == 0:
                metrics["sft/evaluation_loss"] = mean_loss(policy, evaluation, config.micro_tokens)
            run.log(step, metrics)
            if step % config.save_every == 0 or run.stop_requested:
                run.save(step, {"learner": learner.save()})
            if run.stop_requested:
                raise Interrupted(f"stopped after step {step} of {config.steps}; go on with --resume {run.id}")
            report(step, f"loss {metrics['sft/loss']:.3f}")
    result = Model(decoder=merge(decoder), tokenizer=model.tokenizer, name=str(run.final))
    run.leave(lambda folder: save(result, folder))
    return result
