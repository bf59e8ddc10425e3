"""A run being worked on: its settings, its share of the store, and the status it ends with."""

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from pydantic import Field

from tutelage import history
from tutelage.config import Section
from tutelage.errors import DataError, Interrupted, RunError, TrainingError
from tutelage.feedback.store import Store
from tutelage.folder import Core, ProjectFolder
from tutelage.history import RunInfo
from tutelage.learn.ppo import PPOConfig
from tutelage.learn.reward import RewardConfig
from tutelage.learn.sft import SFTConfig
from tutelage.records import Annotator, Comparison, Demonstration
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
    sampling: SamplingParams = SamplingParams()
    evaluate: EvaluateConfig = EvaluateConfig()


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

    def few(self, count: int) -> int:
        """How many of `count` held-out records are measured while training."""
        return min(count, self.settings.evaluate.measured)

    def take(self, name: str, total: int, records: Iterable[T]) -> Iterator[T]:
        """The records, or on resumption as many as the run began with: the store only ever grows at its end.

        `total` is how many there are now. Raises RunError when fewer are left than the run began with.
        """
        known = self.run.facts["data"].get(name) if self.resumed else None
        if known is None:
            self.run.record({name: total})
        elif total < known:
            raise RunError(f"{self.run.id} began with {known} {name}, but only {total} are left: start a new run")
        return islice(records, total if known is None else known)


@contextmanager
def stage(
    folder: ProjectFolder,
    kind: str,
    flags: Mapping[str, Any],
    *,
    resume: str | None,
    parents: Callable[[], Sequence[RunInfo]] = tuple,
) -> Iterator[Stage]:
    """Start a run, or reopen one with the settings it has, and close it with the status it earned.

    `resume` is None for a new run, "newest" for the newest unfinished one, else the id of one.
    """
    if resume is None:
        settings = folder.settings(Settings, flags)
        run = Run.start(folder.runs, kind, settings, parents=[p.id for p in parents()])
    else:
        if flags:
            raise RunError(
                f"--resume goes on with the run's own settings; leave out {', '.join(f'--{k}' for k in flags)}"
            )
        run = Run.open(history.find_unfinished(folder.runs, kind, None if resume == NEWEST else resume).path)
        settings = ProjectFolder(folder.path, run.path / "config.yaml").settings(Settings)
    try:
        yield Stage(folder, settings, run, resumed=resume is not None)
    except (KeyboardInterrupt, Interrupted):
        run.finish("interrupted")
        raise Interrupted(f"{run.id} is interrupted. Go on with: {run.how_to_resume}{folder.flag}") from None
    except BaseException:
        run.finish("failed")
        raise
    run.finish("done")


def fitting(records: Iterable[T], rendered: Callable[[T], U]) -> list[U]:
    """The records as tokens; those that do not fit the model are left out, with a warning that counts them.

    Raises TrainingError when none fits.
    """
    made: list[U] = []
    faults: list[str] = []
    for record in records:
        try:
            made.append(rendered(record))
        except DataError as error:
            faults.append(str(error))
    total = len(made) + len(faults)
    if faults and not made:
        raise TrainingError(f"none of the {total} records can be used. The first: {faults[0]}")
    if faults:
        warnings.warn(f"{len(faults)} of {total} records were left out. The first: {faults[0]}", stacklevel=2)
    return made


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
        counted = self._counts.most_common()
        return [{"id": who.id, "name": who.name, "kind": who.kind, "labels": n} for who, n in counted]
