"""Roads from a reward to a policy, put together: PPO, group methods, rejection sampling, best-of-n."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from typing import Any, Literal

from tutelage import history
from tutelage.errors import DataError
from tutelage.evaluate.best_of_n import Point, charts, curve
from tutelage.evaluate.report import Report, write_report
from tutelage.feedback.store import Store
from tutelage.folder import ProjectFolder
from tutelage.history import RunInfo
from tutelage.learn.best_of_n import raft, score
from tutelage.learn.group import group
from tutelage.learn.ppo import ppo
from tutelage.model.batch import Example
from tutelage.model.causal import Model
from tutelage.records import Demonstration, Prompt
from tutelage.runs import Run
from tutelage.scoring import Reader, judges_memory, networks, scorers, scoring, text_reward
from tutelage.stage import Settings, Stage, fitting, stage
from tutelage.terminal import plain
from tutelage.wire import generate, model_of, newest_policy, sampler_of, start_model, start_run

RULES = ("rules", "judge")  # in place of a reward run's id: what scores without one
PROPOSITIONS = "propositions"  # the newest reward run with the settings' propositions


@contextmanager
def _against(
    folder: ProjectFolder,
    kind: Literal["ppo", "group", "raft"],
    flags: Mapping[str, Any],
    start: str | None,
    asked: tuple[str | None, str | None],
    resume: str | None,
) -> Iterator[tuple[Stage, Store, Model]]:
    """A stage against a reward, its store, and the model it starts from; `asked` names the reward runs."""

    def parents() -> list[RunInfo]:
        found = folder.settings(Settings, flags)
        choice = {"ppo": found.ppo.reward, "group": found.group.reward, "raft": found.raft.reward}
        return [*scorers(folder, choice[kind], *asked), *start_run(folder, start)]

    named = {"start": start, "scorer": asked[0], "safety": asked[1]}
    with stage(folder, kind, flags, resume=resume, parents=parents, named=named) as s, s.open_store() as store:
        yield s, store, start_model(s)


def run_ppo(
    folder: ProjectFolder,
    flags: Mapping[str, Any],
    *,
    start: str | None = None,
    scorer: str | None = None,
    safety: str | None = None,
    resume: str | None = None,
) -> Run:
    """Train an sft run's model against a reward, on the store's prompts of the training split."""
    with _against(folder, "ppo", flags, start, (scorer, safety), resume) as (s, store, model):
        config = s.settings.ppo
        with scoring(s, store, model, config.reward, config.sampling) as (reader, reward):
            prompts, held_out = _prompts(s, store, reader)
            shown = _fits(s, model), _shown(s, model)
            ptx = s.read(store, "demonstrations", "train", *shown) if config.ptx_weight else ()
            ppo(model, reward, prompts, config, s.run, held_out=held_out, ptx=ptx, sampler=sampler_of(model))
    return s.run


def _prompts(s: Stage, store: Store, reader: Reader) -> tuple[Sequence[list[int]], list[list[int]]]:
    """Prompts to learn from, and those held out to measure on."""
    most = s.settings.evaluate.measured
    return (
        s.read(store, "prompts", "train", reader.tokens, reader.tokens),
        list(s.read(store, "prompts", "evaluation", reader.tokens, reader.tokens, most=most)),
    )


def _fits(s: Stage, model: Model) -> Callable[[Prompt], Example]:
    """Whether a demonstration's prompt leaves room for its text."""
    return lambda prompt: model.tokenizer.example(prompt, "", max_tokens=s.settings.sft.max_tokens)


def _shown(s: Stage, model: Model) -> Callable[[Demonstration], Example]:
    """How a demonstration is read: as SFT reads it."""
    return lambda d: model.tokenizer.example(d.prompt, d.text, max_tokens=s.settings.sft.max_tokens)


def run_group(
    folder: ProjectFolder,
    flags: Mapping[str, Any],
    *,
    start: str | None = None,
    scorer: str | None = None,
    safety: str | None = None,
    resume: str | None = None,
) -> Run:
    """Train an sft run's model by RLOO, GRPO or REINFORCE on the store's prompts, against a reward."""
    with _against(folder, "group", flags, start, (scorer, safety), resume) as (s, store, model):
        config = s.settings.group
        with scoring(s, store, model, config.reward, config.sampling) as (reader, reward):
            prompts, held_out = _prompts(s, store, reader)
            group(model, reward, prompts, config, s.run, held_out=held_out, sampler=sampler_of(model))
    return s.run


def run_raft(
    folder: ProjectFolder,
    flags: Mapping[str, Any],
    *,
    start: str | None = None,
    scorer: str | None = None,
    safety: str | None = None,
    resume: str | None = None,
) -> Run:
    """Fine-tune an sft run's model on the best of its own samples, by a reward."""
    with _against(folder, "raft", flags, start, (scorer, safety), resume) as (s, store, model):
        config = s.settings.raft
        few, read = s.settings.evaluate.measured, _shown(s, model)
        probe = list(s.read(store, "demonstrations", "evaluation", _fits(s, model), read, most=few))
        with scoring(s, store, model, config.reward, config.sampling) as (reader, reward):
            prompts = s.read(store, "prompts", "train", reader.tokens, reader.tokens)
            raft(model, reward, prompts, config, s.run, probe=probe, sampler=sampler_of(model))
    return s.run


def run_curve(
    folder: ProjectFolder,
    flags: Mapping[str, Any],
    *,
    model: str | None = None,
    scorer: str | None = None,
    safety: str | None = None,
    gold: str | None = None,
    samples: int = 64,
) -> tuple[Run, tuple[Point, ...]]:
    """The best-of-n curve of a run's model on held-out prompts; curve.html and eval.json are left in the run made.

    `scorer` chooses (the newest reward run, a run's id, "rules", "judge", or "propositions"), with `safety` two reward
    runs as one; `gold`, one of the same names, looks on.
    """
    chosen = history.find_run(folder.runs, model) if model else newest_policy(folder)
    names = {"proxy": scorer or history.find_of_kind(folder.runs, "reward", None).id}
    if gold is not None:
        names["gold"] = gold
    asked = {who: [run.id for run in [_judge(folder, name)] if run is not None] for who, name in names.items()}
    if safety is not None:
        asked["proxy"] = [run.id for run in scorers(folder, "model", names["proxy"], safety)]

    def parents() -> list[RunInfo]:
        runs = dict.fromkeys(name for some in asked.values() for name in some)
        return [*([chosen] if chosen else []), *(history.find_run(folder.runs, name) for name in runs)]

    with (
        stage(folder, "curve", flags, resume=None, parents=parents) as s,
        s.open_store() as store,
        judges_memory(s, *names.values()) as memory,
    ):
        policy, params = model_of(folder, s.settings, chosen), s.settings.sampling
        reader, rewards = Reader(policy, params.max_tokens), {}
        for who, name in names.items():
            network = networks(s, store, reader, asked[who], params)
            rewards[who] = reader.reward(network, text_reward(s, store, policy, name, network, memory))
        held_out = islice(store.prompts("evaluation"), s.settings.evaluate.prompts)
        prompts = [prompt for prompt, _ in fitting(held_out, lambda p: (p, reader.tokens(p)))]
        if len(prompts) < 2:
            raise DataError(f"the store holds out {len(prompts)} prompts for evaluation: import more, 2 at the least")
        groups = generate(policy, prompts, samples, params, seed=s.settings.seed)
        rows = [policy.tokenizer.prompt(p) for p in prompts for _ in range(samples)]
        answers = [one.tokens for group in groups for one in group]
        tables = {who: score(one, rows, answers).reshape(-1, samples).tolist() for who, one in rewards.items()}
        points = curve(tables["proxy"], tables.get("gold"), seed=s.settings.seed)
        s.run.record({"prompts": len(prompts), "samples": samples, "model": policy.name, **names})
        s.run.evaluate({"run": s.run.id, "points": [plain(asdict(point)) for point in points]})
        drawn = charts(points, names["proxy"], names.get("gold"))
        report = Report(f"Best of n: {policy.name}", f"{len(prompts)} prompts, {samples} samples each.", charts=drawn)
        write_report(report, s.run.path / "curve.html")
    return s.run, points


def _judge(folder: ProjectFolder, name: str) -> RunInfo | None:
    """The reward run that a name stands for; None for what scores without one."""
    if name in RULES:
        return None
    return history.find_of_kind(folder.runs, "reward", None if name == PROPOSITIONS else name)
