"""The report: one HTML file that needs nothing else, from plain data. Everything a system wrote is escaped.

Every section is optional and left out when it is empty, so a single training run and a whole demonstration share it.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tutelage.errors import DataError
from tutelage.evaluate.accuracy import RewardAccuracy
from tutelage.evaluate.arena import Match
from tutelage.evaluate.figures import Chart, Figure, draw, draw_lengths, draw_reliability
from tutelage.evaluate.health import Health
from tutelage.evaluate.statistics import Mean, Rate

# Characters that can hide or reorder what follows and that no text needs: controls, overrides of direction, surrogates.
UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True)
class Headline:
    """One of the few numbers at the top."""

    label: str
    value: str
    note: str = ""
    """The interval, n and judge: what makes the number a result."""
    tone: Literal["good", "bad", "plain"] = "plain"


@dataclass(frozen=True)
class Step:
    """One thing that was done, in order."""

    name: str
    detail: str
    seconds: float


@dataclass(frozen=True)
class Answer:
    """What one system wrote for a prompt, with any scores it got."""

    system: str
    text: str
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """One prompt and the answers to it, shown side by side."""

    prompt: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Ancestor:
    """A run in the line of descent; depth 0 is the run itself."""

    depth: int
    id: str
    detail: str


@dataclass(frozen=True)
class Grid:
    """A table of text; the first column names its rows."""

    title: str
    about: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Report:
    """Everything a report may show."""

    title: str
    summary: str
    """A sentence or two: what was asked and what came out."""
    annotators: str | None = None
    """A plain statement of who judged, above all when they were simulated."""
    headlines: tuple[Headline, ...] = ()
    matches: tuple[Match, ...] = ()
    health: tuple[Health, ...] = ()
    steps: tuple[Step, ...] = ()
    grids: tuple[Grid, ...] = ()
    charts: tuple[Chart, ...] = ()
    reward: RewardAccuracy | None = None
    lengths: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Words of every text, by system."""
    samples: tuple[Sample, ...] = ()
    numbers: Mapping[str, object] = field(default_factory=dict)
    """Further numbers by name, such as those of eval.json."""
    configuration: Mapping[str, Any] = field(default_factory=dict)
    lineage: tuple[Ancestor, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    """Command, versions, machine, seed, date: what it takes to do it again."""


def write_report(report: Report, path: Path) -> Path:
    """Write the report as one HTML file without scripts or outside resources; returns the path.

    Raises:
        DataError: the file cannot be written.
    """
    page = render(report)
    aside = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(page, encoding="utf-8")
        os.replace(aside, path)
    except OSError as error:
        raise DataError(f"cannot write the report {path}: {error}") from error
    return path


def render(report: Report) -> str:
    """The report as HTML text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("tutelage.evaluate"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    environment.filters |= {"percent": percent, "duration": duration, "number": number, "yaml": _yaml, "axis": _axis}
    template = environment.get_template("report.html")
    return template.render(
        report=report,
        charts=tuple(draw(chart) for chart in report.charts),
        reliability=_reliability(report),
        lengths=draw_lengths(report.lengths) if report.lengths else None,
        floors=_floors(report.reward) if report.reward else (),
        total_seconds=sum(step.seconds for step in report.steps),
        longest=max((step.seconds for step in report.steps), default=0.0) or 1.0,
    )


@dataclass(frozen=True)
class Floor:
    """One bar of the accuracy chart."""

    label: str
    rate: float
    interval: Rate | None
    kind: Literal["baseline", "model", "limit"]


def _floors(reward: RewardAccuracy) -> tuple[Floor, ...]:
    """Reward-model accuracy between what is trivial and what is possible, in reading order."""
    bag, flat = reward.bag_of_words, (reward.agreement, reward.ceiling)
    rows = [Floor("Coin flip", 0.5, None, "baseline")]
    rows.append(Floor("The longer text wins", reward.longer_wins.rate, reward.longer_wins, "baseline"))
    if bag is not None:
        rows.append(Floor("Bag of words", bag.rate, bag, "baseline"))
    rows.append(Floor("Reward model", reward.accuracy.rate, reward.accuracy, "model"))
    for label, limit in zip(("Two annotators agree", "Ceiling under this noise"), flat, strict=True):
        if limit is not None:
            rows.append(Floor(label, limit, None, "limit"))
    return tuple(rows)


def _reliability(report: Report) -> Figure | None:
    return draw_reliability(report.reward.calibration) if report.reward else None


def percent(value: float, digits: int = 1) -> str:
    """0.784 as 78.4 %, with a narrow space that does not break."""
    return f"{100 * value:.{digits}f}\u202f%"


def duration(seconds: float) -> str:
    """Seconds as people say them: 0.4 s, 41 s, 8 min 41 s, 2 h 5 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def number(value: object) -> str:
    """A number for a table: whole ones with separators, others to four digits, rates and means with their intervals."""
    match value:
        case bool() | None:
            return {True: "yes", False: "no", None: "–"}[value]
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
        case Rate() | Mean():
            return str(value)
        case _:
            return str(value)


def _axis(rate: float) -> str:
    """A share as a CSS length."""
    return f"{100 * min(1.0, max(0.0, rate)):.2f}%"


def _yaml(value: object) -> str:
    import yaml

    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=88)


def _printable(value: object) -> object:
    """Strings without invisible characters, which a model may well produce; they become the replacement sign."""
    from markupsafe import Markup

    if isinstance(value, str) and not isinstance(value, Markup):
        return UNPRINTABLE.sub("\ufffd", value)
    return value
