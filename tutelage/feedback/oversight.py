"""What leads see of the work: who did how much, how checks went, where answers disagree, what was remarked.

Here, and only here, a completion comes with where it is from: nothing of this may reach a rater's page.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, Row, func, select, true

from tutelage.errors import StudioError
from tutelage.feedback import rows
from tutelage.feedback.answering import ANSWER
from tutelage.feedback.choices import choices
from tutelage.feedback.database import read
from tutelage.feedback.effort import Work, daily_of, work_of
from tutelage.feedback.store import Store
from tutelage.feedback.work import TAKES, Arm, Kind, Ranked, Rated, Standing, Written, spec_of
from tutelage.feedback.work_tables import answers, batches, remarks, work_items
from tutelage.records import Completion, Prompt

RemarkKind = Literal["skip", "flag", "comment"]
WIDEST = 6  # between a rating of 1 and one of 7


@dataclass(frozen=True)
class Said:
    """What one rater said of an item, with ranks in the item's own order."""

    rater: str
    answer: Ranked | Rated | Written
    role: Standing
    shown: tuple[int, ...]
    seconds: float | None
    created: str


@dataclass(frozen=True)
class Remark:
    """A skip, a flag or a comment. `n` names it."""

    n: int
    item: str
    batch: str
    user: str
    kind: RemarkKind
    text: str
    created: str
    settled: bool


@dataclass(frozen=True)
class Case:
    """An item with everything that was said of it."""

    item: str
    batch: str
    kind: Kind
    prompt: Prompt
    completions: tuple[Completion, ...]
    said: tuple[Said, ...]
    remarks: tuple[Remark, ...]
    adjudicated: Said | None
    """What a lead decided, where one has."""


@dataclass(frozen=True)
class Split:
    """An item on which answers disagree, and how much: 0 all alike, towards 1 all different."""

    item: str
    batch: str
    prompt: str
    kind: Kind
    answers: int
    degree: float
    adjudicated: bool


class Oversight:
    """Reads the work of a store for those who lead. Safe to share between threads and processes."""

    def __init__(self, store: Store) -> None:
        self._engine = store.engine

    def work(self, batch: str | None = None) -> dict[str, Work]:
        """What everybody has done, by rater's id: in a batch, or in all."""
        with read(self._engine) as connection:
            return work_of(connection, batch)

    def daily(self, days: int, batch: str | None = None) -> dict[str, int]:
        """How many answers were stored each day (UTC, ISO 8601) that had any, the latest `days` of these, in order."""
        with read(self._engine) as connection:
            return daily_of(connection, days, batch)

    def arms(self, batch: str) -> dict[Arm, tuple[int, int]]:
        """Of a batch's items, checks left out: how many came by each arm, and how many of these are finished."""
        w = work_items.c
        query = select(w.arm, w.open, func.count()).where(w.batch_id == batch, w.purpose == "ask")
        made: dict[Arm, tuple[int, int]] = {"random": (0, 0), "active": (0, 0)}
        with read(self._engine) as connection:
            for arm, waits, count in connection.execute(query.group_by(w.arm, w.open)):
                items, finished = made[arm]
                made[arm] = (items + count, finished + (0 if waits else count))
        return made

    def waiting(self, batch: str) -> list[tuple[str, Prompt, tuple[Completion, ...]]]:
        """Items of a batch that still want answers, with what they ask. Raises StudioError 404 for no such batch."""
        w = work_items.c
        query = select(w.id, w.prompt_id, w.completions).where(w.batch_id == batch, w.open == true()).order_by(w.n)
        with read(self._engine) as connection:
            if not connection.scalar(select(func.count()).where(batches.c.id == batch)):
                raise StudioError(f"There is no batch '{batch}'", 404)
            found = [(row.id, row.prompt_id, json.loads(row.completions)) for row in connection.execute(query)]
            asked = rows.load_prompts(connection, {prompt for _, prompt, _ in found})
            return [(item, asked[prompt], _completions(connection, ids)) for item, prompt, ids in found]

    def labels(self, batch: str) -> set[str]:
        """Ids of the records that a batch's standing answers are."""
        query = select(answers.c.labels).where(answers.c.batch_id == batch, answers.c.standing == true())
        with read(self._engine) as connection:
            talked = {row.id for row in choices(connection, work_items.c.batch_id == batch)}
            return talked | {label for (ids,) in connection.execute(query) for label in json.loads(ids)}

    def periods(self) -> dict[str, str]:
        """The batch, by name and in the order they were opened, of the labels of the kind of work that gave most.

        Only of one kind: how often people agree on pairs and on rankings of six is not the same question.
        """
        query = (
            select(answers.c.labels, batches.c.name, batches.c.spec)
            .join(batches, batches.c.id == answers.c.batch_id)
            .where(answers.c.standing == true())
            .order_by(batches.c.n, answers.c.n)
        )
        made: dict[Kind, dict[str, str]] = defaultdict(dict)
        with read(self._engine) as connection:
            for ids, name, spec in connection.execute(query):
                made[spec_of(spec).kind] |= dict.fromkeys(json.loads(ids), name)
            made["chat"] = {row.id: row.name for row in choices(connection)}
        ranked = [labels for kind, labels in made.items() if TAKES[kind] == "ranked"]
        return max(ranked, key=len, default={})

    def remarks(self, batch: str | None = None, *, settled: bool = False, limit: int = 200) -> list[Remark]:
        """Skips and flags, the newest first: those no lead has seen to, or those one has."""
        query = _remarks().where(remarks.c.kind != "comment", remarks.c.settled == settled)
        if batch is not None:
            query = query.where(work_items.c.batch_id == batch)
        with read(self._engine) as connection:
            return [_remark(row) for row in connection.execute(query.order_by(remarks.c.n.desc()).limit(limit))]

    def splits(self, batch: str | None = None) -> list[Split]:
        """Items on which raters disagree, the most divided first; those adjudicated come last."""
        a, w = answers.c, work_items.c
        shared = select(a.item_id).where(a.standing == true(), a.role != "adjudication")
        shared = shared.group_by(a.item_id).having(func.count() > 1)
        query = (
            select(a.item_id, a.batch_id, a.role, a.body, w.prompt_id, batches.c.spec)
            .join(work_items, w.id == a.item_id)
            .join(batches, batches.c.id == a.batch_id)
            .where(a.item_id.in_(shared), a.standing == true(), w.purpose == "ask", a.kind != "written")
        )
        if batch is not None:
            query = query.where(a.batch_id == batch)
        by_item: dict[str, list[Any]] = defaultdict(list)
        with read(self._engine) as connection:
            for row in connection.execute(query.order_by(a.n)):
                by_item[row.item_id].append(row)
        made = [_split(item, those) for item, those in by_item.items()]
        return sorted((one for one in made if one.degree > 0), key=lambda one: (one.adjudicated, -one.degree))

    def case(self, item: str) -> Case:
        """One item. Raises StudioError 404 where there is none of that id."""
        w, a = work_items.c, answers.c
        with read(self._engine) as connection:
            row = connection.execute(
                select(w.batch_id, w.prompt_id, w.completions, batches.c.spec)
                .join(batches, batches.c.id == w.batch_id)
                .where(w.id == item)
            ).one_or_none()
            if row is None:
                raise StudioError(f"There is no item '{item}'", 404)
            standing = select(answers).where(a.item_id == item, a.standing == true()).order_by(a.n)
            said = [_said(one) for one in connection.execute(standing)]
            remarked = _remarks().where(remarks.c.item_id == item).order_by(remarks.c.n)
            return Case(
                item=item,
                batch=row.batch_id,
                kind=spec_of(row.spec).kind,
                prompt=rows.load_prompts(connection, {row.prompt_id})[row.prompt_id],
                completions=_completions(connection, json.loads(row.completions)),
                said=tuple(one for one in said if one.role != "adjudication"),
                remarks=tuple(_remark(one) for one in connection.execute(remarked)),
                adjudicated=next((one for one in reversed(said) if one.role == "adjudication"), None),
            )

    def prompts(self, ids: Iterable[str]) -> dict[str, Prompt]:
        """Prompts by id."""
        with read(self._engine) as connection:
            return rows.load_prompts(connection, set(ids))


def _completions(connection: Connection, ids: Sequence[str]) -> tuple[Completion, ...]:
    known = rows.load_completions(connection, set(ids)) if ids else {}
    return tuple(known[id] for id in ids)


def _split(item: str, those: Sequence[Row[Any]]) -> Split:
    said = [ANSWER.validate_json(row.body) for row in those if row.role != "adjudication"]
    kind = spec_of(those[0].spec).kind
    return Split(
        item=item,
        batch=those[0].batch_id,
        prompt=those[0].prompt_id,
        kind=kind,
        answers=len(said),
        degree=_degree(said),
        adjudicated=any(row.role == "adjudication" for row in those),
    )


def _degree(said: Sequence[Ranked | Rated | Written]) -> float:
    """How divided answers are: the share that is not the commonest order, or the range of ratings over the widest."""
    scores = [one.score for one in said if isinstance(one, Rated)]
    if scores:
        return (max(scores) - min(scores)) / WIDEST
    orders = Counter(one.ranks for one in said if isinstance(one, Ranked))
    return 1 - orders.most_common(1)[0][1] / orders.total() if orders else 0.0


def _said(row: Row[Any]) -> Said:
    shown = tuple(json.loads(row.shown))
    return Said(row.rater_id, ANSWER.validate_json(row.body), row.role, shown, row.seconds, row.created)


def _remarks() -> Any:
    """Remarks with the batch of their item."""
    return select(remarks, work_items.c.batch_id).join(work_items, work_items.c.id == remarks.c.item_id)


def _remark(row: Row[Any]) -> Remark:
    return Remark(row.n, row.item_id, row.batch_id, row.user_id, row.kind, row.text, row.created, row.settled)
