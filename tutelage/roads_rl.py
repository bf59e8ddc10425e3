"""More roads from feedback to policy, put together: group methods, rejection sampling, best-of-n; rewards by rule."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from tutelage import history
from tutelage.errors import ConfigError, DataError
from tutelage.evaluate.best_of_n import Point, charts, curve
from tutelage.evaluate.report import Report, write_report
from tutelage.feedback.store import Store
from tutelage.folder import ProjectFolder
from tutelage.history import RunInfo
from tutelage.judge.rules import Exact, Instructions, Number, RuleReward, RulesConfig, read_instructions
from tutelage.learn.best_of_n import raft, score
from tutelage.learn.group import group
from tutelage.learn.reward import RewardModel, load_reward
from tutelage.learn.rollout import RewardFunction
from tutelage.model.batch import Example
from tutelage.model.causal import Model
from tutelage.model.heads import relink
from tutelage.records import Demonstration, Prompt
from tutelage.runs import Run
from tutelage.stage import Settings, Stage, fitting, stage
from tutelage.terminal import plain
from tutelage.wire import generate, model_of, newest_policy, prompt_tokens, sampler_of, start_model, start_run

RULES = "rules"  # in place of a reward run's id: the settings' rules
Choice = Literal["model", "rules", "both"]


class TextReward(Protocol):
    """A reward of texts."""

    def rewards(self, answers: Sequence[tuple[Prompt, str]]) -> list[float]:
        """One for each answer, in their order."""


class Reader:
    """Prompts as tokens, and what was asked by which tokens: rewards of texts read the record again."""

    def __init__(self, model: Model, room: int, rules: RuleReward | None) -> None:
        """`room` is for an answer, in tokens."""
        self.model, self.room, self.rules = model, room, rules
        self.asked: dict[tuple[int, ...], Prompt] = {}

    def tokens(self, prompt: Prompt) -> list[int]:
        """Raises DataError when there is no room, or when a rule can't judge answers to the prompt."""
        found = prompt_tokens(self.model, prompt, self.room)
        if self.rules is not None:
            self.rules.check(prompt)
            self.asked[tuple(found)] = prompt
        return found

    def reward(self, network: RewardModel | None, texts: TextReward | None) -> RewardModel | RewardFunction:
        """The network, the reward of texts, or their sum, as training asks for it."""
        if texts is None:
            assert network is not None
            return network
        decode = self.model.tokenizer.decode

        def both(prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> Tensor:
            answers = [(self.asked[tuple(p)], decode(r)) for p, r in zip(prompts, responses, strict=True)]
            total = torch.tensor(texts.rewards(answers), dtype=torch.float32)
            return total if network is None else total + score(network, prompts, responses)

        return both


def run_group(
    folder: ProjectFolder,
    flags: Mapping[str, Any],
    *,
    start: str | None = None,
    scorer: str | None = None,
    resume: str | None = None,
) -> Run:
    """Train an sft run's model by RLOO, GRPO or REINFORCE on the store's prompts, against a reward run's or rules."""

    def parents() -> list[RunInfo]:
        choice = folder.settings(Settings, flags).group.reward
        return [*_scorer(folder, choice, scorer), *start_run(folder, start)]

    with stage(folder, "group", flags, resume=resume, parents=parents) as s, s.open_store() as store:
        config, model = s.settings.group, start_model(s)
        reader, reward = _reward(s, store, model, config.reward, config.sampling.max_tokens)
        prompts = s.read(store, "prompts", "train", reader.tokens, reader.tokens)
        held_out = s.read(
            store, "prompts", "evaluation", reader.tokens, reader.tokens, most=s.settings.evaluate.measured
        )
        group(model, reward, prompts, config, s.run, held_out=list(held_out), sampler=sampler_of(model))
    return s.run


def run_raft(
    folder: ProjectFolder,
    flags: Mapping[str, Any],
    *,
    start: str | None = None,
    scorer: str | None = None,
    resume: str | None = None,
) -> Run:
    """Fine-tune an sft run's model on the best of its own samples, by a reward run's model or rules."""

    def parents() -> list[RunInfo]:
        choice = folder.settings(Settings, flags).raft.reward
        return [*_scorer(folder, choice, scorer), *start_run(folder, start)]

    with stage(folder, "raft", flags, resume=resume, parents=parents) as s, s.open_store() as store:
        config, model = s.settings.raft, start_model(s)
        reader, reward = _reward(s, store, model, config.reward, config.sampling.max_tokens)

        def example(d: Demonstration) -> Example:
            return model.tokenizer.example(d.prompt, d.text, max_tokens=s.settings.sft.max_tokens)

        few = islice(store.demonstrations("evaluation"), s.settings.evaluate.measured)
        probe = fitting(few, example)
        prompts = s.read(store, "prompts", "train", reader.tokens, reader.tokens)
        raft(model, reward, prompts, config, s.run, probe=probe, sampler=sampler_of(model))
    return s.run


def run_curve(
    folder: ProjectFolder,
    flags: Mapping[str, Any],
    *,
    model: str | None = None,
    scorer: str | None = None,
    gold: str | None = None,
    samples: int = 64,
) -> tuple[Run, tuple[Point, ...]]:
    """The best-of-n curve of a run's model on held-out prompts; curve.html and eval.json are left in the run made.

    `scorer` chooses (the newest reward run, a run's id, or "rules"), `gold` looks on (a run's id, or "rules").
    """
    chosen = history.find_run(folder.runs, model) if model else newest_policy(folder)
    names = {"proxy": scorer or history.find_of_kind(folder.runs, "reward", None).id}
    if gold is not None:
        names["gold"] = gold
    judges = {who: _judge(folder, name) for who, name in names.items()}

    def parents() -> list[RunInfo]:
        return [run for run in (chosen, *judges.values()) if run is not None]

    with stage(folder, "curve", flags, resume=None, parents=parents) as s, s.open_store() as store:
        policy, params = model_of(folder, s.settings, chosen), s.settings.sampling
        rules = _rules(s, store) if RULES in names.values() else None
        reader = Reader(policy, params.max_tokens, rules)
        asked = islice(store.prompts("evaluation"), s.settings.evaluate.prompts)
        prompts = [prompt for prompt, _ in fitting(asked, lambda p: (p, reader.tokens(p)))]
        groups = generate(policy, prompts, samples, params, seed=s.settings.seed)
        rows = [policy.tokenizer.prompt(p) for p in prompts for _ in range(samples)]
        answers = [one.tokens for group in groups for one in group]
        tables = {}
        for who, run in judges.items():
            network = None if run is None else load_reward(run.path / "model", s.settings.device)
            found = score(reader.reward(network, rules if run is None else None), rows, answers)
            tables[who] = found.reshape(-1, samples).tolist()
        points = curve(tables["proxy"], tables.get("gold"), seed=s.settings.seed)
        s.run.record({"prompts": len(prompts), "samples": samples, "model": policy.name, **names})
        s.run.evaluate({"run": s.run.id, "points": [plain(asdict(point)) for point in points]})
        drawn = charts(points, names["proxy"], names.get("gold"))
        report = Report(f"Best of n: {policy.name}", f"{len(prompts)} prompts, {samples} samples each.", charts=drawn)
        write_report(report, s.run.path / "curve.html")
    return s.run, points


def _scorer(folder: ProjectFolder, choice: Choice, name: str | None) -> list[RunInfo]:
    """The reward run to train against, if one is needed."""
    if choice == "rules":
        if name is not None:
            raise ConfigError(f"reward is 'rules', so {name} is not asked: set it to 'both', or name no scorer")
        return []
    return [history.find_of_kind(folder.runs, "reward", name)]


def _judge(folder: ProjectFolder, name: str) -> RunInfo | None:
    """A reward run; None for the rules."""
    return None if name == RULES else history.find_of_kind(folder.runs, "reward", name)


def _reward(
    s: Stage, store: Store, model: Model, choice: Choice, room: int
) -> tuple[Reader, RewardModel | RewardFunction]:
    """How prompts are read, and what scores the answers."""
    rules = _rules(s, store) if choice != "model" else None
    network = None
    scorer = next((p for p in s.run.facts["parents"] if p.startswith("reward-")), None)
    if scorer is not None:
        network = load_reward(s.folder.runs / scorer / "model", s.settings.device)
        relink(network.scorer.decoder, model.decoder)
    s.run.record({"store": s.settings.store})
    reader = Reader(model, room, rules)
    return reader, reader.reward(network, rules)


def _rules(s: Stage, store: Store) -> RuleReward:
    """The settings' rules, with the answers and instructions they need. Raises ConfigError without rules."""
    config: RulesConfig = s.settings.rules
    if not config.checks:
        raise ConfigError("the reward is 'rules', but rules.checks is empty: list at least one rule")
    answers: dict[str, tuple[str, ...]] = {}
    if any(isinstance(rule, Exact | Number) and rule.answer is None for rule in config.checks):
        for d in store.demonstrations():
            answers[d.prompt.id] = (*answers.get(d.prompt.id, ()), d.text)
    files = [rule.file for rule in config.checks if isinstance(rule, Instructions) and rule.file is not None]
    instructions = {key: made for file in files for key, made in read_instructions(_inside(s, file)).items()}
    return RuleReward(config.checks, answers, instructions)


def _inside(s: Stage, file: Path) -> Path:
    """A file as the settings name it: from the project folder on."""
    found = s.folder.path / file
    if not found.is_file():
        raise DataError(f"there is no file {found}: rules.checks names it for its instructions")
    return found
