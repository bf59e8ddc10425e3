"""Sides in turn, A B A B, in one run; medians, the ratio with its spread, memory, losses.

The ratio of a step is the other side's seconds over ours on the same data. A row's ratio is the median over all steps
measured; its spread is the least and the greatest of the rounds' medians. Each side's first step warms it up.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch

from tutelage.bench.sides import Side, Turn
from tutelage.bench.work import ROWS, BenchConfig, RowName, Task, environment, machine, worked_tokens
from tutelage.errors import ConfigError, ModelError
from tutelage.progress import Report

OURS, FULL = "ours", "ours in fp32"


@dataclass(frozen=True)
class SideFigures:
    """What one side did in a row."""

    versions: Mapping[str, str]
    load_seconds: float  # from the start of its process to its first step
    first_seconds: float  # that step, with whatever is compiled in it
    seconds: tuple[tuple[float, ...], ...]  # of each step, by round
    cpu_seconds: tuple[tuple[float, ...], ...]  # the same in seconds of processor time: other programs weigh less on it
    tokens_per_second: float  # median over steps
    losses: tuple[float, ...]  # of each step, the first one too; none where a row's losses can't be compared
    peak_bytes: int

    @classmethod
    def of(cls, side: Side, first: Turn, rounds: Sequence[Turn], tokens: Sequence[int]) -> "SideFigures":
        """From its turns; `tokens` of each step measured."""
        flat = [s for turn in rounds for s in turn.seconds]
        return cls(
            side.versions,
            side.load_seconds,
            first.seconds[0],
            tuple(tuple(turn.seconds) for turn in rounds),
            tuple(tuple(turn.cpu_seconds) for turn in rounds),
            median(n / s for n, s in zip(tokens, flat, strict=True)),
            tuple(rounds[-1].losses),
            rounds[-1].peak_bytes,
        )


@dataclass(frozen=True)
class Ratio:
    """How many times as fast as another side ours is."""

    median: float
    low: float  # of the rounds' medians
    high: float

    @classmethod
    def of(cls, ours: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> "Ratio":
        """From seconds by round and step."""
        rounds = [[b / a for a, b in zip(*pair, strict=True)] for pair in zip(ours, other, strict=True)]
        middles = [median(steps) for steps in rounds]
        return cls(median(one for steps in rounds for one in steps), min(middles), max(middles))

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class RowFigures:
    """What a row came to."""

    row: RowName
    sides: Mapping[str, SideFigures]
    """Ours beside the peer's fastest way, the peer's ways that ran, and ours in fp32 where it ran in another format."""
    failed: Mapping[str, str]  # the peer's ways that did not run, and why

    @property
    def best(self) -> str | None:
        """The peer's fastest way; None where none ran."""
        ways = [name for name in self.sides if name not in (OURS, FULL)]
        return max(ways, key=lambda name: self.sides[name].tokens_per_second, default=None)

    @property
    def ratio(self) -> Ratio | None:
        """Ours against that way, in seconds."""
        return None if self.best is None else Ratio.of(self.sides[OURS].seconds, self.sides[self.best].seconds)

    @property
    def cpu_ratio(self) -> Ratio | None:
        """The same in seconds of processor time."""
        if self.best is None or not all(s > 0 for turn in self.sides[OURS].cpu_seconds for s in turn):
            return None
        return Ratio.of(self.sides[OURS].cpu_seconds, self.sides[self.best].cpu_seconds)

    @property
    def memory_ratio(self) -> float | None:
        """The peer's peak memory over ours."""
        return None if self.best is None else self.sides[self.best].peak_bytes / self.sides[OURS].peak_bytes

    def loss(self, name: str) -> float | None:
        """Mean loss of a side over the last round; None where it says none."""
        side = self.sides.get(name)
        return mean(side.losses[-len(side.seconds[-1]) :]) if side is not None and side.losses else None

    @property
    def figures(self) -> dict[str, Any]:
        """For `--json` and the history."""
        sides = {
            name: {**side.__dict__, "median_seconds": median(s for turn in side.seconds for s in turn)}
            for name, side in self.sides.items()
        }
        return {
            "ratio": self.ratio,
            "cpu_ratio": self.cpu_ratio,
            "memory_ratio": self.memory_ratio,
            "target": ROWS[self.row].target,
            "best": self.best,
            "losses": {name: self.loss(name) for name in self.sides},
            "failed": self.failed,
            "sides": sides,
        }


def measure(
    task: Task,
    config: BenchConfig,
    ours: Sequence[str],
    peers: Mapping[str, Sequence[str]],
    folder: Path,
    report: Report,
) -> RowFigures:
    """Run a row. `ours` and `peers` are commands to which the path of the side's task is added.

    Each of the peer's ways takes turns with a process of ours of its own, so that no more than two sides are in memory
    at once; our figures are those beside its fastest way. A way that ends too early is left out and named in
    `failed`; ModelError when ours does.
    """
    row = next(name for name in ROWS if name == task.row)
    around, tokens = environment(config), [worked_tokens(task, i) for i in range(1, task.total_steps)]
    found: dict[str, SideFigures] = {}
    beside: dict[str, SideFigures] = {}
    failed: dict[str, str] = {}
    for number, way in enumerate(peers or ("",)):
        commands = {OURS: ours} | ({way: peers[way]} if way else {})

        def done(turn: int, number: int = number) -> None:
            report(number * config.rounds + turn, ROWS[row].what)

        pair, problem = _in_turns(task, config, commands, folder, around, tokens, done)
        beside[way if way in pair else ""] = pair.pop(OURS)
        found |= pair
        failed |= problem
    best = max(found, key=lambda name: found[name].tokens_per_second, default="")
    sides = {OURS: beside[best], **found}
    if task.dtype != "float32" and sides[OURS].losses:
        full, _ = _in_turns(
            replace(task, dtype="float32"), config, {FULL: ours}, folder, around, tokens, lambda _: None
        )
        sides |= full
    return RowFigures(row, sides, failed)


def _in_turns(
    task: Task,
    config: BenchConfig,
    commands: Mapping[str, Sequence[str]],
    folder: Path,
    around: Mapping[str, str],
    tokens: Sequence[int],
    done: Callable[[int], None],
) -> tuple[dict[str, SideFigures], dict[str, str]]:
    """The sides' figures by name, and why those that ended too early did; ModelError when ours did."""
    sides: dict[str, Side] = {}
    failed: dict[str, str] = {}
    turns: dict[str, list[Turn]] = {}

    def at_work(name: str, steps: int, command: Sequence[str] = ()) -> None:
        """Start a side or give it a turn; a peer that fails is out."""
        try:
            if command:
                file = replace(task, way=name).write(folder / f"{name}.json")
                sides[name] = Side.start(name, [*command, str(file)], folder, around)
            turns.setdefault(name, []).append(sides[name].turn(steps))
        except ModelError as error:
            if name in (OURS, FULL):
                raise
            failed[name] = str(error)
            if name in sides:
                sides.pop(name).end()

    try:
        for name, command in commands.items():
            at_work(name, 1, command)
        for turn in range(config.rounds):
            for name in list(sides):
                at_work(name, config.steps)
            done(turn + 1)
    finally:
        for side in sides.values():
            side.end()
    return {name: SideFigures.of(side, turns[name][0], turns[name][1:], tokens) for name, side in sides.items()}, failed


def help_seconds(times: int = 5) -> float:
    """Median wall seconds of `tutelage --help`."""
    taken = []
    for _ in range(times):
        since = time.perf_counter()
        subprocess.run([sys.executable, "-m", "tutelage", "--help"], check=True, stdout=subprocess.DEVNULL)
        taken.append(time.perf_counter() - since)
    return median(taken)


def commit() -> str | None:
    """What is checked out where this file lies, with + when files differ from it; None outside a repository."""
    here = Path(__file__).parent

    def git(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=False)

    try:
        head = git("rev-parse", "--short", "HEAD")
    except FileNotFoundError:
        return None
    if head.returncode:
        return None
    return head.stdout.strip() + ("+" if git("status", "--porcelain", "--untracked-files=no").stdout else "")


def facts(config: BenchConfig) -> dict[str, Any]:
    """When, of what, where and with which settings."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine() | {"cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else ""},
        "settings": config.model_dump(mode="json"),
    }


def check_history(path: Path) -> None:
    """Before anything is measured. Raises ConfigError where no line could be appended."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a").close()
    except OSError as error:
        raise ConfigError(f"--record is {path}, which cannot be written: {error.strerror}") from error


def record(path: Path, figures: Mapping[str, Any]) -> None:
    """Append a line to the history."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(figures, ensure_ascii=False, allow_nan=False) + "\n")
