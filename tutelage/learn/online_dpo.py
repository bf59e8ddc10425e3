"""Online and iterated DPO: sample from the policy, ask an annotator, learn, and again (Guo et al. 2024, Direct language
model alignment from online AI feedback; Xu et al. 2023, iterative preference optimization).

The annotator is any function from a prompt and its completions to a comparison: people, a judge, a reward model, a
simulation. What it says is not kept here: let it write to the store. For a run that is resumed to be the run that was
never stopped, it must answer the same question the same way.

1. With `updates` 1 every step sees fresh samples; more is iterated DPO, which learns from a round of them in turn.
2. The reference is the model that training began with, or with `reference: round` the policy each round begins with.
3. What is trained on are the sampled tokens themselves, not their text tokenized again.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from tutelage.errors import DataError, Interrupted, TrainingError
from tutelage.learn.dpo import DPOConfig, DPOState, Item
from tutelage.learn.kto import opinions, split
from tutelage.learn.preference import Preference
from tutelage.learn.preference_losses import KTO, needs_reference
from tutelage.learn.reference import completion_logprobs
from tutelage.learn.reward import Ranking
from tutelage.model.batch import gather, pick
from tutelage.model.causal import Model
from tutelage.progress import progress
from tutelage.records import Comparison, Completion, Prompt, Source
from tutelage.runs import Run
from tutelage.sample.engine import Engine
from tutelage.sample.sampler import Sampler, SamplingParams

Annotate = Callable[[Prompt, Sequence[Completion]], Comparison | None]
"""A prompt and its completions → their ranking, in any order; None skips the question."""


def online_dpo(
    model: Model,
    prompts: Sequence[Prompt],
    annotate: Annotate,
    config: DPOConfig,
    run: Run,
    *,
    sampling: SamplingParams,
    sampler: Sampler | None = None,
) -> Model:
    """Train a branch of the model on comparisons of its own samples; the model given stays as it is.

    Resumes by itself when the run has a checkpoint, from the end of a round. Raises TrainingError when there are no
    prompts, or nothing to compare in a whole round, DataError when the annotator ranks other completions than it was
    shown; else as `dpo`.
    """
    if not prompts:
        raise TrainingError("no prompts to sample from: add some by `tutelage import` (every fifth is held out)")
    t, online = DPOState(model, config), config.online
    restored = run.restore()
    if restored is not None:
        t.load(restored[1], run)
    sampler = Engine(t.policy.decoder, model.tokenizer.end, resting=False) if sampler is None else sampler
    with run.interruptible(), progress("Online DPO", config.steps) as report:
        while t.learner.step < config.steps:
            done, since = t.learner.step // online.updates, t.learner.step
            sampler.load(t.policy.decoder)
            asked = gather(prompts, pick(len(prompts), config.batch_size * online.updates, done, config.seed))
            preferences = compare_samples(model, asked, annotate, sampler, config, sampling, done)
            items = _items(preferences, config, t.policy.decoder.config.context)
            if not items:
                raise TrainingError(
                    f"round {done + 1}: of {len(asked)} prompts, none got two different completions of which one was "
                    "preferred: the policy has collapsed, or the annotator skips everything"
                )
            reference = _reference(t, items)
            for update in range(min(online.updates, config.steps - since)):
                places = _share(len(items), online.updates, update)
                metrics = t.update(
                    [items[i] for i in places], None if reference is None else [reference[i] for i in places]
                )
                metrics["dpo/answered"] = len(preferences) / len(asked)
                run.log(t.learner.step, metrics)
            if t.learner.step // config.save_every > since // config.save_every or run.stop_requested:
                run.save(t.learner.step, t.save())
            if run.stop_requested:
                raise Interrupted(
                    f"stopped after step {t.learner.step} of {config.steps}; go on with --resume {run.id}"
                )
            report(t.learner.step, f"loss {metrics['dpo/loss']:.3f}")
    return t.result(run)


def compare_samples(
    model: Model,
    prompts: Sequence[Prompt],
    annotate: Annotate,
    sampler: Sampler,
    config: DPOConfig,
    sampling: SamplingParams,
    done: int,
) -> list[Preference]:
    """Fresh completions of each prompt as the annotator ranks them; prompts whose completions are all one are left out.

    `done` is the number of rounds before this one: with the seed, it decides what is sampled.
    """
    tokenizer, k, seed = model.tokenizer, config.online.completions, config.seed * 1_000_003 + done
    tokens = [tokenizer.prompt(p) for p in prompts]
    sampled = sampler.generate([ids for ids in tokens for _ in range(k)], sampling, seed=seed)
    source = Source(model=model.name, round=done, seed=seed, sampling=sampling.model_dump())
    found = []
    for i, (prompt, before) in enumerate(zip(prompts, tokens, strict=True)):
        drawn = {one.tokens: one for one in sampled[i * k : (i + 1) * k]}
        made = [Completion(text=tokenizer.decode(t), finish=one.finish, source=source) for t, one in drawn.items()]
        comparison = annotate(prompt, made) if len({c.text for c in made}) > 1 else None
        if comparison is None:
            continue
        rows = {c.id: (*before, *ids) for c, ids in zip(made, drawn, strict=True)}
        if not {c.id for c in comparison.completions} <= rows.keys():
            raise DataError(f"the annotator {comparison.annotator.id} ranked completions that it was not shown")
        sequences = tuple(rows[c.id] for c in comparison.completions)
        ranking = Ranking(sequences, comparison.ranks, comparison.target, comparison.strength)
        found.append(Preference(ranking, len(before)))
    return [p for p in found if p.decides]


def _items(preferences: Sequence[Preference], config: DPOConfig, context: int) -> Sequence[Item]:
    """What the loss reads; samples are as long as they were drawn, so nothing but the context cuts them."""
    if isinstance(config.loss, KTO):
        return list(opinions([one for p in preferences for one in split(p)], config.seed, context))
    return preferences


def _reference(t: DPOState, items: Sequence[Item]) -> list[Tensor] | None:
    """The reference's log-probabilities of a round's items, None where the loss needs none."""
    if not needs_reference(t.config.loss):
        return None
    policy = t.reference if t.config.online.reference == "start" else t.policy
    return completion_logprobs(policy, items, t.config.micro_tokens)


def _share(total: int, parts: int, part: int) -> range:
    """The items of one of so many equal parts; never none: where there are fewer items than parts, some come again."""
    if total < parts:
        return range(part % total, part % total + 1)
    return range(part * total // parts, (part + 1) * total // parts)
