"""Sampling for leads: one run at a time, in a thread of the studio's process, by the same call as `tutelage sample`.

Everything about a job that lasts is in its run's folder: how far it is, whether it ended. So every process of a studio
shows the same, and a studio that was stopped meanwhile shows the run as killed; what it had drawn is not kept.
"""

import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from tutelage import history
from tutelage.config import Section
from tutelage.errors import StudioError, TutelageError
from tutelage.feedback.audit import note
from tutelage.feedback.store import Store
from tutelage.folder import ProjectFolder
from tutelage.history import RunInfo
from tutelage.wire import WRITING, run_sample

SEEDS = 2**31


class Wanted(Section):
    """What a lead wants sampled."""

    run: str | None = None
    """The run whose model samples; None for the newest policy, else the project's model."""
    prompts: int = Field(default=100, ge=1, le=10_000)
    """How many prompts of the training split; those that nobody has ranked come first."""
    completions: int = Field(default=4, ge=2, le=9)
    """Completions of each."""
    temperature: float = Field(default=1.0, gt=0, le=5)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int = Field(default=128, ge=1, le=4096)
    """The most new tokens of a completion."""

    @property
    def flags(self) -> dict[str, Any]:
        """The settings of the run; the seed is a new one, so that the same prompts get new completions."""
        return {
            "sampling.temperature": self.temperature,
            "sampling.top_p": self.top_p,
            "sampling.max_tokens": self.max_tokens,
            "seed": secrets.randbelow(SEEDS),
        }


@dataclass(frozen=True)
class Job:
    """A sampling run, as a page shows it."""

    run: RunInfo
    drawn: int
    """Completions so far."""
    of: int
    """Completions wanted; 0 as long as the model is being loaded."""
    questions: int


class Sampling:
    """The sampling runs of a project. Safe to share between threads."""

    def __init__(self, project: ProjectFolder | None, store: Store) -> None:
        self._project, self._store = project, store
        self._turn = threading.Lock()
        self._thread: threading.Thread | None = None
        self.problem = ""
        """What was wrong with this process's last job."""

    def policies(self) -> Sequence[RunInfo]:
        """Runs that have left a model to sample from, the newest first."""
        if self._project is None:
            return ()
        return [r for r in history.list_runs(self._project.runs) if r.kind in WRITING and r.status == "done"]

    def jobs(self, most: int = 20) -> list[Job]:
        """Sampling runs, the newest first."""
        runs = [] if self._project is None else history.list_runs(self._project.runs, "sample")[:most]
        return [
            Job(run, *(int(run.data.get(name, 0)) for name in ("drawn", "completions", "questions"))) for run in runs
        ]

    def start(self, by: str, wanted: Wanted) -> None:
        """Begin. Raises StudioError: 503 without a project, 422 without prompts, 409 while a run is going on."""
        if self._project is None:
            raise StudioError("This studio has no project, so no model can answer: start it in a project folder", 503)
        if not self._store.count("prompts"):
            raise StudioError("The store has no prompts: import some first", 422)
        with self._turn:
            busy = self._thread is not None and self._thread.is_alive()
            if busy or any(job.run.status == "running" for job in self.jobs()):
                raise StudioError("A sampling run is going on: wait until it is done", 409)
            self.problem = ""
            note(self._store, by, "sample", wanted.run or "", **wanted.model_dump(exclude={"run"}))
            self._thread = threading.Thread(
                target=self._run, args=(self._project, wanted), name="sampling", daemon=True
            )
            self._thread.start()

    def wait(self) -> None:
        """Until this process's job is over."""
        if self._thread is not None:
            self._thread.join()

    def _run(self, project: ProjectFolder, wanted: Wanted) -> None:
        try:
            run_sample(project, wanted.flags, model=wanted.run, prompts=wanted.prompts, completions=wanted.completions)
        except TutelageError as error:
            self.problem = str(error)
