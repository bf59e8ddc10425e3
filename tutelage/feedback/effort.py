"""What each rater has done, in figures: of one batch or of all, conversations counted choice by choice."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, func, select, true

from tutelage.feedback.answering import ANSWER, score
from tutelage.feedback.choices import choices
from tutelage.feedback.work_tables import answers, leases, work_items


@dataclass
class Work:
    """What one rater has done, of a batch or of all."""

    answered: int = 0
    """Answers that stand, checks left out."""
    extra: int = 0
    """Of these, those that came late."""
    skipped: int = 0
    changed: int = 0
    """Answers that replaced an earlier one."""
    seconds: list[float] = field(default_factory=list)
    """Of each answer whose time is known."""
    gold: list[float] = field(default_factory=list)
    """How right each answer to a gold item was, 0 to 1."""
    repeats: list[float] = field(default_factory=list)
    """How alike each answer to a repeat was to the first one, 0 to 1."""


def work_of(connection: Connection, batch: str | None) -> dict[str, Work]:
    """What everybody has done, by rater's id."""
    a, w = answers.c, work_items.c
    query = select(answers, w.purpose, w.repeat_of).join(work_items, w.id == a.item_id).where(a.role != "adjudication")
    skips = select(leases.c.rater_id, func.count()).where(leases.c.state == "skipped").group_by(leases.c.rater_id)
    if batch is not None:
        query, skips = query.where(a.batch_id == batch), skips.where(leases.c.batch_id == batch)
    made: dict[str, Work] = defaultdict(Work)
    found = connection.execute(query.where(a.standing == true()).order_by(a.n)).all()
    for rater, skipped in connection.execute(skips):
        made[rater].skipped = skipped
    first = {(row.rater_id, row.item_id): row.body for row in found}
    for row in found:
        _add(made[row.rater_id], row, first.get((row.rater_id, row.repeat_of)))
    for row in choices(connection, *_of(batch)):
        made[row.rater_id].answered += 1
        made[row.rater_id].seconds += [] if row.seconds is None else [row.seconds]
    return dict(made)


def daily_of(connection: Connection, days: int, batch: str | None) -> dict[str, int]:
    """How many answers were stored each day that had any."""
    day = func.substr(answers.c.created, 1, 10)
    query = select(day, func.count()).where(answers.c.role != "adjudication").group_by(day)
    if batch is not None:
        query = query.where(answers.c.batch_id == batch)
    found: Counter[str] = Counter()
    for date, count in connection.execute(query.order_by(day.desc()).limit(days)):
        found[date] = count
    found.update(row.created[:10] for row in choices(connection, *_of(batch)))
    return dict(sorted(found.items())[-days:])


def _of(batch: str | None) -> tuple[ColumnElement[bool], ...]:
    return () if batch is None else (work_items.c.batch_id == batch,)


def _add(work: Work, row: Row[Any], first: str | None) -> None:
    """Count one standing answer; `first` is what the rater had said of the item that this one repeats."""
    if row.purpose == "gold":
        work.gold += [] if row.score is None else [row.score]
    elif row.purpose == "repeat":
        again = None if first is None else score(ANSWER.validate_json(first), ANSWER.validate_json(row.body))
        work.repeats += [] if again is None else [again]
    else:
        work.answered += 1
        work.extra += row.role == "extra"
        work.changed += row.revision > 1
        work.seconds += [] if row.seconds is None else [row.seconds]
