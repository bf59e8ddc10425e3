"""Settings and records in, a finished run out: sft, reward, sampling, and what every run is put together from."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, islice
from typing import Any

from tutelage import history
from tutelage.errors import DataError, RunError
from tutelage.feedback.arms import of_arm
from tutelage.feedback.store import Store
from tutelage.folder import Core, ProjectFolder
from tutelage.history import RunInfo
from tutelage.learn.reward import SCALED, Ranking, render, train_reward
from tutelage.learn.sft import sft
from tutelage.model import causal
from tutelage.model.batch import Example
from tutelage.model.causal import Model, fingerprint
from tutelage.model.foreign import ForeignDecoder
from tutelage.progress import progress
from tutelage.quality.targets import believe, pair_targets
from tutelage.questions import Question, write_questions
from tutelage.records import Comparison, Completion, Demonstration, Prompt, Source
from tutelage.runs import Run
from tutelage.sample.engine import Engine
from tutelage.sample.hf import HFSampler
from tutelage.sample.sampler import Sampled, Sampler, SamplingParams
from tutelage.stage import Stage, fitting, stage

SAMPLES = 256  # of the reference policy, and demonstrations, that set a reward's scale
FEWEST = 64  # ranked completions of its own that are enough for that
POLICIES = ("ppo", "dpo", "group", "raft")  # kinds of runs that leave a policy trained on feedback
WRITING = ("sft", *POLICIES)  # kinds of runs whose model writes answers


def run_sft(folder: ProjectFolder, flags: Mapping[str, Any], *, resume: str | None = None) -> Run:
    """Fine-tune the project's model on the store's demonstrations of the training split."""
    with stage(folder, "sft", flags, resume=resume) as s:
        config = s.settings.sft
        model = causal.load(folder.model(s.settings), device=s.settings.device)

        def example(d: Demonstration) -> Example:
            return model.tokenizer.example(d.prompt, d.text, max_tokens=config.max_tokens)

        def fits(prompt: Prompt) -> Example:
            return model.tokenizer.example(prompt, "", max_tokens=config.max_tokens)

        s.run.record({"store": s.settings.store})
        with s.open_store() as store:
            examples = s.read(store, "demonstrations", "train", fits, example)
            held_out = s.read(store, "demonstrations", "evaluation", fits, example, most=s.settings.evaluate.measured)
            sft(model, examples, config, s.run, evaluation=list(held_out))
    return s.run


def run_reward(
    folder: ProjectFolder, flags: Mapping[str, Any], *, start: str | None = None, resume: str | None = None
) -> Run:
    """Train a reward model on the store's rankings of the training split, from an sft run's model or the project's."""
    named = {"start": start}
    with stage(folder, "reward", flags, resume=resume, parents=lambda: start_run(folder, start), named=named) as s:
        config = s.settings.reward
        model = start_model(s)

        def fits(prompt: Prompt) -> Example:
            return model.tokenizer.example(prompt, "", max_tokens=config.max_tokens)

        s.run.record({"store": s.settings.store})
        with s.open_store() as store:
            targets = targets_of(s, store) if config.targets == "annotators" else {}

            def ranking(c: Comparison) -> Ranking:
                return render(c, model.tokenizer, config.max_tokens, targets.get(c.id))

            which = [] if config.arm == "all" else [of_arm(config.arm)]
            rankings = s.read(store, "comparisons", "train", fits, ranking, which=which)
            measured = s.read(store, "comparisons", "evaluation", fits, ranking, most=s.settings.evaluate.measured)
            train_reward(
                model,
                rankings,
                config,
                s.run,
                evaluation=[r for r in measured if len(set(r.ranks)) > 1],
                reference=s.noted("reference.json", lambda: _reference(s, store, model)),
                demonstrations=s.noted("zero.json", lambda: _demonstrations(s, store, model))
                if config.zero == "demonstrations"
                else (),
            )
    return s.run


def targets_of(s: Stage, store: Store) -> dict[str, list[float]]:
    """Soft targets of the training comparisons by id: reckoned when the run begins, and kept in its folder."""

    def reckoned() -> dict[str, tuple[float, ...]]:
        comparisons = list(store.comparisons("train"))
        belief = believe(comparisons)
        s.run.record({"noise": {who: round(belief.noise(who), 4) for who in belief.ability}})
        return {c.id: pair_targets(c, belief) for c in comparisons}

    found: dict[str, list[float]] = s.noted("targets.json", reckoned)
    return found


def _reference(s: Stage, store: Store, model: Model) -> list[list[int]]:
    """Samples of the model that PPO starts from and is held to, which set the reward's scale.

    The ranked completions where this very model made at least FEWEST of the first, else fresh ones, drawn as PPO draws.
    """
    checkpoint, read = fingerprint(model.decoder), model.tokenizer
    made = [
        [*read.prompt(c.prompt), *read.completion(one.text, one.finish)]
        for c in islice(store.comparisons("train"), SCALED)
        for one in c.completions
        if one.source.checkpoint == checkpoint
    ]
    if len(made) >= FEWEST:
        s.run.record({"scale": f"{len(made)} ranked completions of the model it starts from"})
        return made
    params = s.settings.ppo.sampling
    asked = islice(store.prompts("train"), SAMPLES)
    prompts = fitting(asked, lambda prompt: (prompt, prompt_tokens(model, prompt, params.max_tokens)))
    if not prompts:
        return []
    drawn = generate(model, [p for p, _ in prompts], math.ceil(SAMPLES / len(prompts)), params, seed=s.settings.seed)
    samples = [[*tokens, *one.tokens] for (_, tokens), group in zip(prompts, drawn, strict=True) for one in group]
    s.run.record({"scale": f"{len(samples)} fresh samples of the model it starts from"})
    return samples


def _demonstrations(s: Stage, store: Store, model: Model) -> list[tuple[int, ...]]:
    """The first demonstrations of the training split, as sequences."""

    def sequence(d: Demonstration) -> tuple[int, ...]:
        return model.tokenizer.example(d.prompt, d.text, max_tokens=s.settings.reward.max_tokens).tokens

    return fitting(islice(store.demonstrations("train"), SAMPLES), sequence)


def run_sample(
    folder: ProjectFolder, flags: Mapping[str, Any], *, model: str | None, prompts: int, completions: int
) -> tuple[Run, int]:
    """Sample completions to rank from a run's model; returns the sampling run and how many questions it left.

    Prompts that nobody has ranked completions of come first, then the others, each in the store's order.
    """
    chosen = history.find_run(folder.runs, model) if model else newest_policy(folder)
    with stage(folder, "sample", flags, resume=None, parents=lambda: [chosen] if chosen else []) as s:
        policy = model_of(folder, s.settings, chosen)
        with s.open_store() as store:
            fresh, ranked = (store.prompts("train", ranked=known) for known in (False, True))
            asked = list(islice(chain(fresh, ranked), prompts))
        if not asked:
            raise DataError("the store has no prompts: import some, e.g. `tutelage import prompts.jsonl`")
        s.run.record({"prompts": len(asked), "completions": len(asked) * completions})

        def drawn(done: int) -> None:
            s.run.record({"drawn": done})

        groups = generate(policy, asked, completions, s.settings.sampling, seed=s.settings.seed, told=drawn)
        source = Source(
            model=policy.name,
            checkpoint=fingerprint(policy.decoder),
            run=s.run.id,
            seed=s.settings.seed,
            sampling=s.settings.sampling.model_dump(),
        )
        questions = [q for p, g in zip(asked, groups, strict=True) if (q := _question(policy, p, g, source))]
        write_questions(s.run.path, questions)
        s.run.record({"questions": len(questions)})
    return s.run, len(questions)


def _question(policy: Model, prompt: Prompt, sampled: Sequence[Sampled], source: Source) -> Question | None:
    """The different completions of a prompt; None when there are not two."""
    texts = {policy.tokenizer.decode(one.tokens): one.finish for one in sampled}
    if len(texts) < 2:
        return None
    made = tuple(Completion(text=text, finish=finish, source=source) for text, finish in texts.items())
    return Question(prompt=prompt, completions=made)


def sampler_of(model: Model) -> Sampler:
    """Our engine for decoders of our own, transformers for all others."""
    match model.decoder:
        case ForeignDecoder():
            return HFSampler(model.decoder, model.tokenizer.end)
        case _:
            return Engine(model.decoder, model.tokenizer.end)


def prompt_tokens(model: Model, prompt: Prompt, room: int) -> list[int]:
    """Tokens of a prompt. Raises DataError when they leave no `room`, in tokens, for an answer."""
    found, context = model.tokenizer.prompt(prompt), model.decoder.config.context
    if len(found) + room > context:
        raise DataError(f"a prompt of {len(found)} tokens leaves no room for {room} more in a context of {context}")
    return found


def generate(
    model: Model,
    prompts: Sequence[Prompt],
    completions: int,
    params: SamplingParams,
    *,
    seed: int,
    told: Callable[[int], None] | None = None,
) -> list[list[Sampled]]:
    """That many completions of each prompt. `told` hears of each percent how many are drawn."""
    tokens = [ids for p in prompts for ids in [model.tokenizer.prompt(p)] * completions]
    percent = 0
    with progress("Sampling", len(tokens)) as show:

        def report(done: int, note: str = "") -> None:
            nonlocal percent
            show(done, note)
            if told is not None and 100 * done // len(tokens) > percent:
                percent = 100 * done // len(tokens)
                told(done)

        sampled = sampler_of(model).generate(tokens, params, seed=seed, progress=report)
    return [sampled[i : i + completions] for i in range(0, len(sampled), completions)]


def newest_policy(folder: ProjectFolder) -> RunInfo | None:
    """The newest finished run of POLICIES, else the newest finished sft run, else None: the project's own model."""
    trained = (r for r in history.list_runs(folder.runs) if r.kind in POLICIES and r.status == "done")
    return next(trained, None) or history.newest_done(folder.runs, "sft")


def model_of(folder: ProjectFolder, settings: Core, run: RunInfo | None) -> Model:
    """A run's resulting model, or the project's model. Raises RunError when the run has left none that writes."""
    if run is None:
        return causal.load(folder.model(settings), device=settings.device)
    if run.kind not in WRITING:
        raise RunError(f"{run.id} is a {run.kind} run, whose model writes no answers: name one of sft, ppo or the like")
    final = Run.open(run.path).final
    if not final.is_dir():
        raise RunError(f"{run.id} has left no model (status: {run.status}): finish it, or name another run")
    return causal.load(final, device=settings.device)


def start_model(s: Stage) -> Model:
    """The model of the sft run among a run's parents, else the project's."""
    parent = next((p for p in s.run.facts["parents"] if p.startswith("sft-")), None)
    return model_of(s.folder, s.settings, history.find_run(s.folder.runs, parent) if parent else None)


def start_run(folder: ProjectFolder, name: str | None) -> list[RunInfo]:
    """The sft run to start from: the one named, or the newest; none when there is none, for the project's own model."""
    if name is None and history.newest_done(folder.runs, "sft") is None:
        return []
    return [history.find_of_kind(folder.runs, "sft", name)]
