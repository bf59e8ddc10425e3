"""What runs there are, which led to which, and how two of them differ."""

import difflib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tutelage.errors import RunError
from tutelage.runs import Run, is_held, read_facts
from tutelage.settings import flat

RESUMABLE = ("sft", "reward", "ppo", "dpo", "group", "raft")  # kinds of runs that go on from a checkpoint


@dataclass(frozen=True)
class RunInfo:
    """One run as run.json describes it."""

    id: str
    kind: str
    status: str  # running, done, interrupted, failed; killed: it says running but nobody writes it
    parents: tuple[str, ...]
    started: str  # ISO 8601, UTC
    seconds: float  # of work, over all resumptions
    command: str
    data: dict[str, Any]  # what it learned from: store, counts, annotators
    path: Path


@dataclass(frozen=True)
class Lineage:
    """A run and the runs it came from. `info` is None for a parent that is no longer there."""

    id: str
    info: RunInfo | None
    parents: tuple["Lineage", ...]

    def walk(self, depth: int = 0) -> Iterator[tuple[int, "Lineage"]]:
        """This run and all its ancestors, each with its distance."""
        yield depth, self
        for parent in self.parents:
            yield from parent.walk(depth + 1)


@dataclass(frozen=True)
class Difference:
    """Where runs differ: one value a run, in the order asked for; None where a run lacks it."""

    ids: tuple[str, ...]
    settings: dict[str, tuple[Any, ...]]  # only those that differ, by dotted key
    numbers: dict[str, tuple[Any, ...]]  # last value of every metric, then eval.json by dotted key


def info(path: Path) -> RunInfo:
    """Read one run. Raises RunError when the folder is not a run."""
    facts = read_facts(path)
    killed = facts["status"] == "running" and not is_held(path)
    return RunInfo(
        id=path.name,
        kind=facts["kind"],
        status="killed" if killed else facts["status"],
        parents=tuple(facts["parents"]),
        started=facts["started"],
        seconds=facts["seconds"],
        command=facts["command"],
        data=facts["data"],
        path=path,
    )


def list_runs(root: Path, kind: str | None = None) -> list[RunInfo]:
    """Every run under `root`, newest first; of one kind when asked."""
    if not root.is_dir():
        return []
    found = [info(p) for p in root.iterdir() if (p / "run.json").is_file()]
    return sorted((r for r in found if kind in (None, r.kind)), key=lambda r: (r.started, r.id), reverse=True)


def find_run(root: Path, name: str) -> RunInfo:
    """The run with this id, or with an id that only it begins or ends with. Raises RunError naming what is near."""
    if (root / name / "run.json").is_file():
        return info(root / name)
    runs = list_runs(root)
    matching = [r for r in runs if r.id.startswith(name) or r.id.endswith(name)]
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise RunError(f"{name!r} is the beginning or end of {len(matching)} runs: {', '.join(r.id for r in matching)}")
    near = difflib.get_close_matches(name, [r.id for r in runs], n=1, cutoff=0.4)
    hint = f"Did you mean {near[0]}?" if near else f"There are {len(runs)} runs; `tutelage runs list` shows them."
    raise RunError(f"no run {name!r} in {root}. {hint}")


def find_unfinished(root: Path, kind: str, name: str | None = None) -> RunInfo:
    """The run to resume: the one named, or the newest of its kind that did not finish. Raises RunError when none."""
    if name is not None:
        run = find_run(root, name)
        if run.kind != kind:
            how = f"resume it by `tutelage {run.kind} --resume {run.id}`"
            raise RunError(
                f"{run.id} is a {run.kind} run, not {kind}: "
                f"{how if run.kind in RESUMABLE else 'runs of that kind are begun again'}"
            )
        if run.status == "done":
            raise RunError(f"{run.id} is done: there is nothing to resume")
        return run
    for run in list_runs(root, kind):
        if run.status in ("interrupted", "failed", "killed"):
            return run
    raise RunError(f"no interrupted {kind} run in {root}: start one by `tutelage {kind}`")


def newest_done(root: Path, kind: str) -> RunInfo | None:
    """The newest finished run of a kind, or None."""
    return next((r for r in list_runs(root, kind) if r.status == "done"), None)


def find_of_kind(root: Path, kind: str, name: str | None) -> RunInfo:
    """The run named, or the newest finished one. Raises RunError when there is none or it is of another kind."""
    found = find_run(root, name) if name is not None else newest_done(root, kind)
    if found is None:
        raise RunError(f"there is no finished {kind} run in {root}: make one by `tutelage {kind}`")
    if found.kind != kind:
        raise RunError(f"{found.id} is a {found.kind} run, but a {kind} run is needed here")
    return found


def lineage(root: Path, run_id: str) -> Lineage:
    """The run and everything it came from. Raises RunError when the run itself is not there."""
    return _trace(root, find_run(root, run_id).id, ())


def _trace(root: Path, run_id: str, seen: tuple[str, ...]) -> Lineage:
    if run_id in seen:
        raise RunError(f"run {run_id} is its own ancestor: {' <- '.join((*seen, run_id))}")
    if not (root / run_id / "run.json").is_file():
        return Lineage(run_id, None, ())
    found = info(root / run_id)
    return Lineage(run_id, found, tuple(_trace(root, parent, (*seen, run_id)) for parent in found.parents))


def compare(root: Path, run_ids: Sequence[str]) -> Difference:
    """Settings that differ and the last numbers of each, side by side. Raises RunError for fewer than two runs."""
    if len(run_ids) < 2:
        raise RunError(f"comparing needs at least two runs, but got {len(run_ids)}")
    runs = [find_run(root, name) for name in run_ids]
    settings = _side_by_side([dict(flat(settings_of(r.path))) for r in runs])
    numbers = _side_by_side([last_numbers(r.path) for r in runs])
    return Difference(
        ids=tuple(r.id for r in runs),
        settings={key: values for key, values in settings.items() if any(v != values[0] for v in values)},
        numbers=numbers,
    )


def settings_of(path: Path) -> dict[str, Any]:
    """The resolved settings of a run. Raises RunError when they cannot be read."""
    try:
        found = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise RunError(f"cannot read {path / 'config.yaml'}: {error}") from error
    return dict(found or {})


def last_numbers(path: Path) -> dict[str, Any]:
    """The last value of every metric of a run, then the numbers of its eval.json by dotted key."""
    numbers: dict[str, Any] = {}
    for row in Run.open(path).metrics():
        numbers |= row
    if (path / "eval.json").exists():
        numbers |= flat(json.loads((path / "eval.json").read_text(encoding="utf-8")))
    return numbers


def _side_by_side(columns: Sequence[dict[str, Any]]) -> dict[str, tuple[Any, ...]]:
    names = dict.fromkeys(name for column in columns for name in column)
    return {name: tuple(column.get(name) for column in columns) for name in names}
