"""A run being worked on: its settings, its share of the store, and the status it ends with."""

import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from sqlalchemy import ColumnElement

from tutelage import history
from tutelage.checkpoint import complete, write_atomically
from tutelage.config import Section
from tutelage.errors import DataError, Interrupted, RunError, TrainingError
from tutelage.feedback.store import Labelled, Store, Trainable
from tutelage.folder import Core, ProjectFolder
from tutelage.history import RunInfo
from tutelage.judge.compare import JudgeConfig
from tutelage.judge.constitution import ConstitutionConfig
from tutelage.judge.propositions import PropositionsConfig
from tutelage.judge.rules import RulesConfig
from tutelage.learn.best_of_n import RaftConfig
from tutelage.learn.dpo import DPOConfig
from tutelage.learn.group import GroupConfig
from tutelage.learn.ppo import PPOConfig
from tutelage.learn.reward import RewardConfig
from tutelage.learn.sft import SFTConfig
from tutelage.learn.two_rewards import SafetyConfig
from tutelage.model.batch import Lazy
from tutelage.progress import console
from tutelage.records import Annotator, Comparison, Demonstration, Prompt, Split
from tutelage.runs import Run
from tutelage.sample.sampler import SamplingParams

NEWEST = "newest"
T = TypeVar("T")
U = TypeVar("U")
L = TypeVar("L", Comparison, Demonstration)


class EvaluateConfig(Section):
    """Evaluation of a run on what it was never trained on."""

    prompts: int = Field(default=200, ge=2)
    """Most held-out prompts that are answered and judged."""
    measured: int = Field(default=64, ge=0)
    """Held-out demonstrations, rankings or prompts that are measured while training."""


class Settings(Core):
    """Everything a project's file may set."""

    sft: SFTConfig = SFTConfig()
    reward: RewardConfig = RewardConfig()
    ppo: PPOConfig = PPOConfig()
    dpo: DPOConfig = DPOConfig()
    group: GroupConfig = GroupConfig()
    raft: RaftConfig = RaftConfig()
    rules: RulesConfig = RulesConfig()
    propositions: PropositionsConfig = PropositionsConfig()
    safety: SafetyConfig = SafetyConfig()
    sampling: SamplingParams = SamplingParams()
    evaluate: EvaluateConfig = EvaluateConfig()
    judge: JudgeConfig = JudgeConfig()
    constitution: ConstitutionConfig = ConstitutionConfig()


def reward_tokens(run: RunInfo, settings: Settings) -> int:
    """Most tokens of a sequence that a reward run was trained on: its own setting, where it has one."""
    own = history.settings_of(run.path).get("reward", {})
    return int(own.get("max_tokens", settings.reward.max_tokens))


def open_store(folder: ProjectFolder, settings: Core) -> Store:
    """A project's feedback."""
    return Store(folder.store_url(settings))


@dataclass(frozen=True)
class Stage:
    """A run about to be worked on, with the settings it was started with."""

    folder: ProjectFolder
    settings: Settings
    run: Run
    resumed: bool

    def open_store(self) -> Store:
        """The project's feedback."""
        return open_store(self.folder, self.settings)

    def read(
        self,
        store: Store,
        kind: Trainable,
        split: Split,
        fits: Callable[[Prompt], object],
        rendered: Callable[[Any], U],
        *,
        most: int | None = None,
        which: Sequence[ColumnElement[bool]] = (),
    ) -> Lazy[U]:
        """A split's records of a kind as tokens, made when they are asked for: eight bytes each lie in memory.

        Which ones they are is written into the run when it begins, and it goes on with those, whatever was added or
        taken back meanwhile. Those whose prompt does not fit the model (`fits` raises DataError) are left out, with a
        warning that counts them. `most` reads only so many, `which` only those that meet conditions. Raises
        TrainingError when none fits.
        """
        check = lru_cache(maxsize=64)(fits)  # labels of one prompt follow one another

        def number(row: tuple[int, Prompt]) -> int:
            check(row[1])
            return row[0]

        def choose() -> NDArray[np.int64]:
            found = np.fromiter(_fitting(islice(store.asked(kind, split, *which), most), number), dtype=np.int64)
            held_out = "ratings held out" if kind == "ratings" else "held out"
            self.run.record({kind if split == "train" else held_out: len(found)})
            if split == "train" and kind != "prompts" and len(found):
                self.run.record({"annotators": self._people(store, kind, int(found[-1]), which)})
            return found

        numbers = self.kept(f"{kind}-{split}", choose)
        fetch: Callable[[Sequence[int]], Sequence[Any]]
        match kind:
            case "prompts":
                fetch = store.prompts_at
            case "demonstrations":
                fetch = store.demonstrations_at
            case "comparisons":
                fetch = store.comparisons_at
            case "ratings":
                fetch = store.ratings_at
        return Lazy(len(numbers), lambda places: [rendered(one) for one in fetch(numbers[list(places)].tolist())])

    def kept(self, name: str, choose: Callable[[], NDArray[np.int64]]) -> NDArray[np.int64]:
        """Numbers that are chosen when the run begins and stay with it, in `rows/` of its folder."""
        path = self._rows(name)
        if not path.exists():
            content = BytesIO()
            np.save(content, choose())
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, content.getvalue())
        return np.asarray(np.load(path), dtype=np.int64)

    def noted(self, name: str, make: Callable[[], Any]) -> Any:
        """What is made when the run begins and stays with it, as JSON in a file of its folder."""
        path = self.run.path / name
        if not path.exists():
            write_atomically(path, json.dumps(make()))
        return json.loads(path.read_text(encoding="utf-8"))

    def _rows(self, name: str) -> Path:
        return self.run.path / "rows" / f"{name}.npy"

    def _people(
        self, store: Store, kind: Labelled, last: int, which: Sequence[ColumnElement[bool]]
    ) -> list[dict[str, Any]]:
        """Who made the labels of a kind up to row number `last`, and those of other kinds that the run reads too."""
        counts = Counter(dict(store.labelled_by(kind, "train", last, *which)))
        for other in get_args(Labelled):
            path = self._rows(f"{other}-train")
            if other != kind and path.exists() and len(numbers := np.load(path)):
                counts.update(dict(store.labelled_by(other, "train", int(numbers[-1]))))
        return _people(counts.most_common())


@contextmanager
def stage(
    folder: ProjectFolder,
    kind: str,
    flags: Mapping[str, Any],
    *,
    resume: str | None,
    parents: Callable[[], Sequence[RunInfo]] = tuple,
    named: Mapping[str, str | None] = MappingProxyType({}),
) -> Iterator[Stage]:
    """Start a run, or reopen one with the settings it has, and close it with the status it earned.

    `resume` is None for a new run, "newest" for the newest unfinished one, else the id of one. `named` are the runs
    that flags ask for, by flag: a resumed run has its own. Raises RunError for one that is given nevertheless.
    """
    if resume is None:
        settings = folder.settings(Settings, flags)
        run = Run.start(folder.runs, kind, settings, parents=[p.id for p in parents()])
    else:
        given = [*flags, *(flag for flag, value in named.items() if value is not None), *folder.given]
        if given:
            flags_given = ", ".join(f"--{flag}" for flag in given)
            raise RunError(f"--resume goes on with the run's own settings and models; leave out {flags_given}")
        run = Run.open(history.find_unfinished(folder.runs, kind, None if resume == NEWEST else resume).path)
        settings = ProjectFolder(folder.path, run.path / "config.yaml").settings(Settings)
        if not complete(run.path / "checkpoints"):
            console.print(f"{run.id} has no checkpoint yet: it begins again.", style="yellow")
        run.hold()
    try:
        yield Stage(folder, settings, run, resumed=resume is not None)
    except (KeyboardInterrupt, Interrupted):
        run.finish("interrupted")
        if kind not in history.RESUMABLE:
            raise Interrupted(f"{run.id} is interrupted and keeps nothing to go on from: begin it again.") from None
        raise Interrupted(
            f"{run.id} is interrupted. Go on with: tutelage {kind} --resume {run.id}{folder.flag}"
        ) from None
    except BaseException:
        run.finish("failed")
        raise
    run.finish("done")


def fitting(records: Iterable[T], rendered: Callable[[T], U]) -> list[U]:
    """The records as tokens; those that do not fit the model are left out, with a warning that counts them.

    Raises TrainingError when none fits.
    """
    return list(_fitting(records, rendered))


def _fitting(records: Iterable[T], rendered: Callable[[T], U]) -> Iterator[U]:
    """One after another, what `fitting` gives together."""
    made = faults = 0
    first = ""
    for record in records:
        try:
            one = rendered(record)
        except DataError as error:
            first, faults = first or str(error), faults + 1
        else:
            made += 1
            yield one
    if faults and not made:
        raise TrainingError(f"none of the {faults} records can be used. The first: {first}")
    if faults:
        warnings.warn(f"{faults} of {made + faults} records were left out. The first: {first}", stacklevel=3)


class Tally:
    """Who made the labels that pass through, of what kind, and how many each: the people of a run's lineage."""

    def __init__(self) -> None:
        self._counts: Counter[Annotator] = Counter()

    def of(self, labels: Iterable[L]) -> Iterator[L]:
        """The labels as they are, counted."""
        for label in labels:
            self._counts[label.annotator] += 1
            yield label

    def rows(self) -> list[dict[str, Any]]:
        """The busiest first."""
        return _people(self._counts.most_common())


def _people(counted: Iterable[tuple[Annotator, int]]) -> list[dict[str, Any]]:
    return [{"id": who.id, "name": who.name, "kind": who.kind, "labels": labels} for who, labels in counted]
