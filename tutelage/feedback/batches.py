"""Batches for those who lead: opening and pausing them, what is asked first, and the guidelines beside the work."""

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, bindparam, func, select, true, update

from tutelage.errors import StudioError
from tutelage.feedback import rows, tables
from tutelage.feedback.answering import check_item
from tutelage.feedback.audit import record
from tutelage.feedback.database import read, write
from tutelage.feedback.outbox import announce
from tutelage.feedback.store import CHUNK, Store
from tutelage.feedback.work import LONGEST_TEXT, Batch, BatchSpec, NewItem, State, spec_of
from tutelage.feedback.work_tables import answers, batches, guidelines, leases, work_items
from tutelage.records import content_id, new_id, now


@dataclass(frozen=True)
class Guideline:
    """One version of what raters are asked to go by, in Markdown. The id is what labels carry."""

    id: str
    title: str
    version: int
    text: str
    created: str
    author: str | None


@dataclass(frozen=True)
class Progress:
    """How far a batch is. Checks (gold and repeats) are counted by themselves."""

    items: int
    finished: int
    """Items that have every answer that is wanted of them."""
    wanted: int
    """Answers wanted in all, those that disagreement has added included."""
    answered: int
    """Answers that stand, late ones left out."""
    extra: int
    """Answers that came late and stand beside those wanted."""
    checks: int
    """Answers to gold items and repeats."""
    held: int
    """Items in somebody's hands now."""
    raters: int
    """People with an answer that stands."""


class Batches:
    """The batches of a store and their guidelines. Safe to share between threads and processes."""

    def __init__(self, store: Store, *, rng: random.Random | None = None) -> None:
        """`rng` draws overlap and queue (the system's own randomness if None)."""
        self._engine, self._rng = store.engine, rng or random.SystemRandom()

    def open(self, spec: BatchSpec, items: Iterable[NewItem], author: str | None = None) -> Batch:
        """Make a batch of the items and put it up. Overlap, arms and places in the queue are drawn here.

        Raises StudioError 422 for an item that this kind of work cannot ask, and for a batch of nothing.
        """
        asked = list(items)
        if not asked:
            raise StudioError("There is nothing to ask: a batch needs items", 422)
        for item in asked:
            check_item(spec, len(item.completions), item.gold)
            if spec.kind == "chat" and item.prompt.messages[0].role == "text":
                raise StudioError("A conversation begins with messages, not with text to continue", 422)
        for start in range(0, len(asked), CHUNK):  # texts first, so that others write in between
            self._add_texts(asked[start : start + CHUNK])
        batch = {
            "id": new_id(),
            "name": spec.name,
            "spec": spec.model_dump_json(),
            "state": "open",
            "created": now().isoformat(),
            "author": author,
        }
        made = self._queue(spec, asked)
        with write(self._engine) as connection:
            _check_links(connection, spec)
            connection.execute(batches.insert(), [batch])
            connection.execute(work_items.insert(), [row | {"batch_id": batch["id"]} for row in made])
            record(connection, author, "open-batch", str(batch["id"]), name=spec.name, items=len(asked))
            announce(connection, "batch.opened", batch=batch["id"], kind=spec.kind, items=len(asked))
        return self.find(str(batch["id"]))

    def _add_texts(self, items: Sequence[NewItem]) -> None:
        with write(self._engine) as connection:
            rows.insert(connection, [item.prompt for item in items])
            completions = [rows.completion_row(c, item.prompt.id) for item in items for c in item.completions]
            rows.add_new(connection, tables.completions, completions)

    def _queue(self, spec: BatchSpec, items: Sequence[NewItem]) -> list[dict[str, Any]]:
        """Rows of the items, in the order given, with their seats and places drawn."""
        active = any(item.priority is not None for item in items)
        made: list[dict[str, Any]] = []
        for item in items:
            gold = item.gold is not None
            seats = spec.overlap if self._rng.random() < spec.overlap_share else 1
            chosen = active and not gold and self._rng.random() >= spec.random_share
            row = {
                "id": new_id(),
                "prompt_id": item.prompt.id,
                "completions": json.dumps([c.id for c in item.completions]),
                "purpose": "gold" if gold else "ask",
                "gold": None if item.gold is None else item.gold.model_dump_json(),
                "arm": "active" if chosen else "random",
                "priority": item.priority,
                "position": self._rng.random(),
                "wanted": 1 if gold else seats,
                "answered": 0,
                "open": not gold,
            }
            made.append(row)
        chosen_rows = [row for row in made if row["arm"] == "active"]
        places = spread({row["id"]: row["priority"] or 0.0 for row in chosen_rows}, 0.0)
        for row in chosen_rows:
            row["position"] = places[str(row["id"])]
        return made

    def all(self) -> list[Batch]:
        """Every batch, newest first."""
        with read(self._engine) as connection:
            return [batch_from(row) for row in connection.execute(select(batches).order_by(batches.c.n.desc()))]

    def find(self, batch: str) -> Batch:
        """One batch. Raises StudioError 404 where there is none of that id."""
        with read(self._engine) as connection:
            return _found(connection, batch)

    def set_state(self, batch: str, state: State, by: str | None = None) -> Batch:
        """Open, pause or close a batch. What raters hold is still taken."""
        with write(self._engine) as connection:
            _found(connection, batch)
            connection.execute(update(batches).where(batches.c.id == batch).values(state=state))
            record(connection, by, f"batch-{state}", batch)
            return _found(connection, batch)

    def change(self, batch: str, by: str | None = None, **changes: Any) -> Batch:
        """Change name, deadline, guideline, raters, shares or most_answers of a batch that is running.

        Kind, overlap and random share stay: items were drawn by them. Raises StudioError 422 for those, and ValueError
        (pydantic's) for a value that does not fit.
        """
        if fixed := set(changes) & {"kind", "overlap", "overlap_share", "random_share", "pass_mark"}:
            raise StudioError(f"{', '.join(sorted(fixed))} cannot change once items are drawn: open a new batch", 422)
        with write(self._engine) as connection:
            spec = BatchSpec.model_validate(_found(connection, batch).spec.model_dump() | changes)
            _check_links(connection, spec)
            values = {"spec": spec.model_dump_json(), "name": spec.name}
            connection.execute(update(batches).where(batches.c.id == batch).values(**values))
            record(connection, by, "change-batch", batch, changed=sorted(changes))
            return _found(connection, batch)

    def prioritise(self, batch: str, priorities: Mapping[str, float]) -> int:
        """Reorder what is left of the queue by how much each answer would teach; returns how many items moved.

        Items of the random arm keep their places, so what they show stays a fair sample. The first time, the arms are
        drawn: each item left is active with probability 1 − random_share.
        """
        w = work_items.c
        with write(self._engine) as connection:
            spec = _found(connection, batch).spec
            left = connection.execute(select(w.id, w.arm, w.position).where(w.batch_id == batch, w.open == true()))
            rows_left = left.all()
            if not connection.scalar(select(func.count()).where(w.batch_id == batch, w.priority.is_not(None))):
                active = {r.id for r in rows_left if self._rng.random() >= spec.random_share}
            else:
                active = {r.id for r in rows_left if r.arm == "active"}
            begin = min((r.position for r in rows_left), default=0.0)
            places = spread({id: priorities[id] for id in active if id in priorities}, begin)
            moved = [
                {"item": id, "place": place, "value": priorities[id], "drawn": "active"} for id, place in places.items()
            ]
            kept = [{"item": r.id, "value": priorities[r.id]} for r in rows_left if r.id in priorities.keys() - places]
            if moved:
                change = update(work_items).where(w.id == bindparam("item"))
                new: dict[str, Any] = {
                    "position": bindparam("place"),
                    "priority": bindparam("value"),
                    "arm": bindparam("drawn"),
                }
                connection.execute(change.values(new), moved)
            if kept:
                change = update(work_items).where(w.id == bindparam("item"))
                connection.execute(change.values(priority=bindparam("value")), kept)
        return len(moved)

    def progress(self, batch: str) -> Progress:
        """How far a batch is, counted now."""
        w, a = work_items.c, answers.c
        ask = (w.batch_id == batch, w.purpose == "ask")
        sums = [func.count(), func.coalesce(func.sum(w.wanted), 0), func.coalesce(func.sum(w.answered), 0)]
        standing = (a.batch_id == batch, a.standing == true())
        joined = select(func.count()).select_from(answers.join(work_items, w.id == a.item_id)).where(*standing)
        with read(self._engine) as connection:
            items, wanted, answered = connection.execute(select(*sums).where(*ask)).one()
            left = connection.scalar(select(func.count()).where(w.batch_id == batch, w.open == true()))
            extra = connection.scalar(select(func.count()).where(*standing, a.role == "extra"))
            checks = connection.scalar(joined.where(w.purpose != "ask"))
            people = connection.scalar(select(func.count(a.rater_id.distinct())).where(*standing))
            running = (leases.c.batch_id == batch, leases.c.state == "held", leases.c.until > now().timestamp())
            held = connection.scalar(select(func.count()).where(*running))
        counted = (items - (left or 0), int(wanted), int(answered), extra or 0, checks or 0, held or 0, people or 0)
        return Progress(items, *counted)

    def add_guideline(self, title: str, text: str, author: str | None = None) -> Guideline:
        """A new version of a guideline; the same text under the same title is the version that there is."""
        title, text = title.strip(), text.strip()
        if not 1 <= len(title) <= 200 or not 1 <= len(text) <= LONGEST_TEXT:
            raise StudioError(
                f"A guideline has a title (up to 200 characters) and a text (up to {LONGEST_TEXT:,})", 422
            )
        g = guidelines.c
        row = {"id": content_id("guideline", title, text), "title": title, "text": text, "author": author}
        with write(self._engine) as connection:
            if connection.scalar(select(func.count()).where(g.id == row["id"])) == 0:
                newest = connection.scalar(select(func.max(g.version)).where(g.title == title)) or 0
                new = row | {"version": newest + 1, "created": now().isoformat()}
                connection.execute(guidelines.insert(), [new])
                record(connection, author, "add-guideline", str(row["id"]), title=title, version=newest + 1)
        return self.guideline(str(row["id"]))

    def guideline(self, id: str) -> Guideline:
        """One version. Raises StudioError 404 where there is none of that id."""
        with read(self._engine) as connection:
            row = connection.execute(select(guidelines).where(guidelines.c.id == id)).one_or_none()
        if row is None:
            raise StudioError(f"There is no guideline '{id}'", 404)
        return Guideline(**row._mapping)

    def guidelines(self) -> list[Guideline]:
        """Every version: titles in order, the newest version of each first."""
        query = select(guidelines).order_by(guidelines.c.title, guidelines.c.version.desc())
        with read(self._engine) as connection:
            return [Guideline(**row._mapping) for row in connection.execute(query)]


def spread(priorities: Mapping[str, float], begin: float) -> dict[str, float]:
    """Places in the queue from `begin` to 1, evenly apart, the highest priority first.

    Among items with uniformly random places, their share of any stretch of the queue is the same.
    """
    ranked = sorted(priorities, key=lambda id: -priorities[id])
    return {id: begin + (1 - begin) * i / len(ranked) for i, id in enumerate(ranked)}


def batch_from(row: Row[Any]) -> Batch:
    """A batch from its row."""
    return Batch(row.id, spec_of(row.spec), row.state, row.created, row.author)


def _found(connection: Connection, batch: str) -> Batch:
    row = connection.execute(select(batches).where(batches.c.id == batch)).one_or_none()
    if row is None:
        raise StudioError(f"There is no batch '{batch}'", 404)
    return batch_from(row)


def _check_links(connection: Connection, spec: BatchSpec) -> None:
    if spec.onboarding is not None and _found(connection, spec.onboarding).spec.pass_mark is None:
        raise StudioError(f"The batch '{spec.onboarding}' is no onboarding test: it has no pass_mark", 422)
    known = select(func.count()).where(guidelines.c.id == spec.guideline)
    if spec.guideline is not None and not connection.scalar(known):
        raise StudioError(f"There is no guideline '{spec.guideline}'", 422)
