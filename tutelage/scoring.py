"""What scores the answers of a policy: a reward run, two of them, rules, propositions, or an AI judge directly."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tutelage import history
from tutelage.errors import ConfigError, DataError, ModelError
from tutelage.feedback.store import Store
from tutelage.folder import ProjectFolder
from tutelage.history import RunInfo
from tutelage.judge.memory import Memory
from tutelage.judge.propositions import read_tagged
from tutelage.judge.rules import Exact, Instructions, Number, RuleReward, RulesConfig, read_instructions
from tutelage.judging import REPLIES, graded_by
from tutelage.learn.best_of_n import score
from tutelage.learn.reward import RewardModel, load_reward
from tutelage.learn.rollout import Reward, RewardSource
from tutelage.learn.two_rewards import TwoRewards
from tutelage.model.causal import Model
from tutelage.model.heads import relink
from tutelage.records import Prompt, Split
from tutelage.rule_based import rule_based_reward
from tutelage.sample.sampler import SamplingParams
from tutelage.stage import Stage, fitting
from tutelage.terminal import plain
from tutelage.wire import SAMPLES, generate, prompt_tokens

SCALE = "two-rewards.json"
TOGETHER = 500  # demonstrations read at once
ALONE = ("rules", "judge")  # sources that ask no reward run


class TextReward(Protocol):
    """A reward of texts."""

    def rewards(self, answers: Sequence[tuple[Prompt, str]]) -> list[float]:
        """One for each answer, in their order."""


class Reader:
    """Prompts as tokens, and what was asked by which tokens: rewards of texts read the record again."""

    def __init__(self, model: Model, room: int) -> None:
        """`room` is for an answer, in tokens."""
        self.model, self.room = model, room
        self.asked: dict[tuple[int, ...], Prompt] = {}
        self.remembers = False
        self.checks: list[Callable[[Prompt], None]] = []

    def tokens(self, prompt: Prompt) -> list[int]:
        """Raises DataError when there is no room, or when a rule can't judge answers to the prompt."""
        found = prompt_tokens(self.model, prompt, self.room)
        for check in self.checks:
            check(prompt)
        if self.remembers:
            self.asked[tuple(found)] = prompt
        return found

    def reward(self, network: Reward | None, texts: TextReward | None) -> Reward:
        """The network, the reward of texts, or their sum, as training asks for it."""
        if texts is None:
            assert network is not None
            return network
        self.remembers = True
        if isinstance(texts, RuleReward):
            self.checks.append(texts.check)
        decode = self.model.tokenizer.decode

        def both(prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> Tensor:
            answers = [(self.asked[tuple(p)], decode(r)) for p, r in zip(prompts, responses, strict=True)]
            total = torch.tensor(texts.rewards(answers), dtype=torch.float32)
            return total if network is None else total + score(network, prompts, responses)

        return both


def scorers(folder: ProjectFolder, source: RewardSource, name: str | None, safety: str | None) -> list[RunInfo]:
    """The reward runs that a source asks: the one named (or the newest), and one for safety beside it."""
    if source in ALONE:
        for named in (name, safety):
            if named is not None:
                raise ConfigError(f"reward is '{source}', so {named} is not asked: set reward to 'model' or 'both'")
        return []
    names = [name] if safety is None else [name, safety]
    found = [history.find_of_kind(folder.runs, "reward", one) for one in names]
    if safety is not None and found[0].id == found[1].id:
        raise ConfigError(f"{found[0].id} would be scorer and safety at once: name two reward runs")
    return found


@contextmanager
def scoring(
    s: Stage, store: Store, model: Model, source: RewardSource, params: SamplingParams
) -> Iterator[tuple[Reader, Reward]]:
    """How prompts are read, and what scores the answers; the reward runs are among the run's parents.

    What judges have cost by the end stands in the run's run.json.
    """
    s.run.record({"store": s.settings.store})
    reader = Reader(model, params.max_tokens)
    with judges_memory(s, source) as memory:
        network = networks(s, store, reader, [p for p in s.run.facts["parents"] if p.startswith("reward-")], params)
        yield reader, reader.reward(network, text_reward(s, store, model, source, network, memory))


@contextmanager
def judges_memory(s: Stage, *sources: str) -> Iterator[Memory | None]:
    """Where judges' replies are kept, if any of these sources asks one; the bill is recorded at the end."""
    with ExitStack() as stack:
        graded = "propositions" in sources and s.settings.propositions.grader == "judge"
        if not (graded or "judge" in sources):
            yield None
            return
        memory = stack.enter_context(Memory(s.folder.path / REPLIES, s.settings.judge.endpoint.prices))
        try:
            yield memory
        finally:
            s.run.record({"judges": plain(memory.bill())})


def networks(s: Stage, store: Store, reader: Reader, names: Sequence[str], params: SamplingParams) -> Reward | None:
    """The model of one reward run, the models of two as one reward, or none."""
    found = [load_reward(s.folder.runs / name / "model", s.settings.device) for name in names]
    for one in found:
        relink(one.scorer.decoder, reader.model.decoder)
    match found:
        case [helpful, safe]:
            return _two(s, store, reader, helpful, safe, params)
        case _:
            return found[0] if found else None


def text_reward(
    s: Stage, store: Store, model: Model, source: str, network: Reward | None, memory: Memory | None
) -> TextReward | None:
    """What reads the answers as texts; None where only networks score."""
    match source:
        case "rules" | "both":
            return _rules(s, store)
        case "judge":
            return graded_by(s.folder, s.settings, memory)
        case "propositions":
            return rule_based_reward(s, store, model.tokenizer, network, memory)
        case _:
            return None


def _two(
    s: Stage, store: Store, reader: Reader, helpful: RewardModel, safe: RewardModel, params: SamplingParams
) -> TwoRewards:
    """Two reward models as one, its scale set on samples of the model the run starts from, and kept in its folder."""
    config = s.settings.safety
    named = [] if config.prompts is None else read_tagged(inside(s, config.prompts, "safety.prompts"))
    tagged = set(_sequences(reader.model, named))
    two = TwoRewards(helpful, safe, lambda prompt: tuple(prompt) in tagged, config.threshold)

    def scale() -> dict[str, Any]:
        prompts = fitting(islice(store.prompts("train"), SAMPLES), lambda p: (p, reader.tokens(p)))
        if not prompts:
            raise DataError("two rewards are scaled on samples, but the store has no prompts: import some")
        times = math.ceil(SAMPLES / len(prompts))
        drawn = generate(reader.model, [p for p, _ in prompts], times, params, seed=s.settings.seed)
        answers = [(tokens, one.tokens) for (_, tokens), group in zip(prompts, drawn, strict=True) for one in group]
        two.whiten_on([p for p, _ in answers], [r for _, r in answers])
        return {"mean": two.mean, "std": two.std}

    found = s.noted(SCALE, scale)
    two.mean, two.std = found["mean"], found["std"]
    return two


def _sequences(model: Model, prompts: Sequence[Prompt]) -> Iterator[tuple[int, ...]]:
    """Prompts as tokens. A bare text was read as a user's turn too, which needs a chat template."""
    for prompt in prompts:
        try:
            yield tuple(model.tokenizer.prompt(prompt))
        except ModelError:
            continue


def _rules(s: Stage, store: Store) -> RuleReward:
    """The settings' rules, with the answers and instructions they need. Raises ConfigError without rules."""
    config: RulesConfig = s.settings.rules
    if not config.checks:
        raise ConfigError("the reward is 'rules', but rules.checks is empty: list at least one rule")
    asked = any(isinstance(rule, Exact | Number) and rule.answer is None for rule in config.checks)
    answers = _answers(s, store) if asked else {}
    files = [rule.file for rule in config.checks if isinstance(rule, Instructions) and rule.file is not None]
    found = [read_instructions(inside(s, file, "rules.checks")) for file in files]
    return RuleReward(config.checks, answers, {key: made for one in found for key, made in one.items()})


def _answers(s: Stage, store: Store) -> dict[str, tuple[str, ...]]:
    """What was written to each prompt, of either split, when the run began."""

    def choose() -> NDArray[np.int64]:
        both = (store.asked("demonstrations", split) for split in get_args(Split))
        return np.fromiter((number for rows in both for number, _ in rows), dtype=np.int64)

    numbers, found = s.kept("demonstrations-answers", choose).tolist(), dict[str, tuple[str, ...]]()
    for start in range(0, len(numbers), TOGETHER):
        for d in store.demonstrations_at(numbers[start : start + TOGETHER]):
            found[d.prompt.id] = (*found.get(d.prompt.id, ()), d.text)
    return found


def inside(s: Stage, file: Path, key: str) -> Path:
    """A file as the settings name it: from the project folder on."""
    found = s.folder.path / file
    if not found.is_file():
        raise DataError(f"there is no file {found}: {key} names it")
    return found
