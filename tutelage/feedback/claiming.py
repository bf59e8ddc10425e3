"""Which item a rater gets: the queries behind `Desk.next`, each run inside its one transaction.

An item of the queue has `wanted` seats. Taken are those of answers that stand and of leases that run.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import BindParameter, Connection, Double, Row, String, bindparam, exists, func, select, true
from sqlalchemy.dialects import postgresql, sqlite

from tutelage.feedback.work import BatchSpec, Kind, Nothing, spec_of
from tutelage.feedback.work_tables import answers, batches, leases, work_items
from tutelage.records import new_id

BATCH: BindParameter[str] = bindparam("batch", type_=String)
RATER: BindParameter[str] = bindparam("rater", type_=String)
ITEM: BindParameter[str] = bindparam("item", type_=String)
NOW: BindParameter[float] = bindparam("now", type_=Double)
RECENT_ANSWERS, REPEATABLE = 10, 100  # a repeat comes after ten others, of the hundred before those
REPEATED: set[Kind] = {"comparison", "ranking", "rating", "versus"}

mine = leases.alias("mine")
others = leases.alias("others")
FINAL = ("answered", "skipped")
UNTOUCHED = ~exists().where(
    mine.c.item_id == work_items.c.id, mine.c.rater_id == RATER, mine.c.state.in_((*FINAL, "held"))
)  # by this rater
TAKEN = (
    select(func.count())
    .where(
        others.c.item_id == work_items.c.id,
        others.c.state == "held",
        others.c.until > NOW,
        others.c.rater_id != RATER,
    )
    .scalar_subquery()
)  # by others who hold it now
FREE = work_items.c.wanted - work_items.c.answered > TAKEN
BATCHES = select(batches).where(batches.c.state == "open").order_by(batches.c.n)
BATCH_OF = select(batches).where(batches.c.id == BATCH)
HELD = select(leases).where(leases.c.rater_id == RATER, leases.c.state == "held").order_by(leases.c.since)
HELD_OF = HELD.where(leases.c.batch_id == BATCH)
SEAT = select(work_items.c.purpose, FREE.label("free")).where(work_items.c.id == ITEM)
QUEUE = (
    select(work_items)
    .where(work_items.c.batch_id == BATCH, work_items.c.open == true(), UNTOUCHED, FREE)
    .order_by(work_items.c.position)
    .limit(1)
)
BESIDES: BindParameter[list[str]] = bindparam("besides", expanding=True)
QUEUE_BESIDES = QUEUE.where(work_items.c.id.not_in(BESIDES))
GOLD = select(work_items).where(work_items.c.batch_id == BATCH, work_items.c.purpose == "gold", UNTOUCHED).limit(1)
OWN_REPEATS = select(work_items.c.repeat_of).where(
    work_items.c.batch_id == BATCH, work_items.c.purpose == "repeat", work_items.c.rater_id == RATER
)
REPEATS = (
    select(answers.c.item_id, answers.c.shown)
    .join(work_items, work_items.c.id == answers.c.item_id)
    .where(
        answers.c.rater_id == RATER,
        answers.c.batch_id == BATCH,
        answers.c.standing == true(),
        work_items.c.purpose == "ask",
        answers.c.item_id.not_in(OWN_REPEATS),
    )
    .order_by(answers.c.n.desc())
    .offset(RECENT_ANSWERS)
    .limit(REPEATABLE)
)
LEFT = select(func.count()).where(work_items.c.batch_id == BATCH, work_items.c.open == true())
AT_WORK = select(func.count(leases.c.rater_id.distinct())).where(
    leases.c.batch_id == BATCH, leases.c.state == "held", leases.c.until > NOW
)
ANY_LEFT = select(work_items.c.n).where(work_items.c.batch_id == BATCH, work_items.c.open == true()).limit(1)
SOONEST = (
    select(func.min(leases.c.until))
    .join(work_items, work_items.c.id == leases.c.item_id)
    .where(
        leases.c.batch_id == BATCH,
        leases.c.state == "held",
        leases.c.until > NOW,
        leases.c.rater_id != RATER,
        work_items.c.open == true(),
        UNTOUCHED,
    )
)
TEST = select(func.count()).where(work_items.c.batch_id == BATCH, work_items.c.purpose == "gold")
TAKEN_TEST = select(func.count()).where(
    leases.c.batch_id == BATCH, leases.c.rater_id == RATER, leases.c.state.in_(FINAL)
)
SCORES = select(func.coalesce(func.sum(answers.c.score), 0.0)).where(
    answers.c.batch_id == BATCH, answers.c.rater_id == RATER, answers.c.revision == 1
)  # of a test the first answers: one that is corrected once the result is known proves nothing


@dataclass(frozen=True)
class Found:
    """An item to be handed out, and the order to show its completions in if it was never shown before."""

    item: Row[Any]
    shown: tuple[int, ...]


@dataclass(frozen=True)
class Claim:
    """One rater asking for work of one batch at one moment."""

    connection: Connection
    batch: str
    spec: BatchSpec
    rater: str
    now: float
    rng: random.Random
    besides: Sequence[str] = ()
    """Items that the rater's page has already, in hand or let go."""

    def find(self) -> Found | Nothing:
        """The item to hand out: now and then gold or a repeat, else the next in the queue; or why there is none."""
        if (barrier := self.barrier()) is not None:
            return barrier
        if self.spec.pass_mark is not None:
            return self._from(GOLD.order_by(work_items.c.position)) or Nothing("done", batch=self.batch)
        draw = self.rng.random()
        check: Found | None = None
        if draw < self.spec.gold_share:
            check = self._from(GOLD.order_by(func.random()))
        elif draw < self.spec.gold_share + self.spec.repeat_share and self.spec.kind in REPEATED:
            check = self._repeat()
        return check or self._from(QUEUE_BESIDES if self.besides else QUEUE) or self._why_nothing()

    def look(self) -> Nothing | None:
        """Why there is nothing for the rater, without handing anything out; None when there is an item."""
        if (barrier := self.barrier()) is not None:
            return barrier
        values = {"batch": self.batch, "rater": self.rater}
        if self.connection.execute(HELD_OF, values).first() is not None:
            return None
        query = QUEUE if self.spec.pass_mark is None else GOLD
        return None if self._one(query) is not None else self._why_nothing()

    def barrier(self) -> Nothing | None:
        """What keeps the rater from any work of this batch."""
        if self.spec.raters is not None and self.rater not in self.spec.raters:
            return Nothing("nothing", batch=self.batch)
        if self.spec.deadline is not None and self.now >= self.spec.deadline.timestamp():
            return Nothing("deadline", batch=self.batch)
        if self.spec.onboarding is None:
            return None
        passed = self._passed(self.spec.onboarding)
        if passed is None:
            return Nothing("onboarding", batch=self.spec.onboarding)
        return None if passed else Nothing("failed", batch=self.spec.onboarding)

    def _passed(self, test: str) -> bool | None:
        """Whether the rater has passed an onboarding test; None where they are not through with it."""
        values = {"batch": test, "rater": self.rater}
        asked = self.connection.scalar(TEST, values) or 0
        if (self.connection.scalar(TAKEN_TEST, values) or 0) < asked:
            return None
        spec = spec_of(self.connection.execute(BATCH_OF, {"batch": test}).one().spec)
        return bool((self.connection.scalar(SCORES, values) or 0.0) >= (spec.pass_mark or 0.0) * asked - 1e-9)

    def _one(self, query: Any) -> Row[Any] | None:
        values: dict[str, Any] = {"batch": self.batch, "rater": self.rater, "now": self.now}
        if query is QUEUE_BESIDES:
            values["besides"] = list(self.besides)
        return self.connection.execute(query, values).one_or_none()

    def _from(self, query: Any) -> Found | None:
        item = self._one(query)
        if item is None:
            return None
        k = len(json.loads(item.completions))
        return Found(item, tuple(self.rng.sample(range(k), k)))

    def _repeat(self) -> Found | None:
        """A new item that repeats one of the rater's own, sides swapped: the last place comes first."""
        values = {"batch": self.batch, "rater": self.rater}
        candidates = self.connection.execute(REPEATS, values).all()
        if not candidates:
            return None
        chosen = self.rng.choice(candidates)
        original = self.connection.execute(select(work_items).where(work_items.c.id == chosen.item_id)).one()
        row = {column.name: original._mapping[column.name] for column in work_items.c if column.name != "n"} | {
            "id": new_id(),
            "purpose": "repeat",
            "repeat_of": original.id,
            "rater_id": self.rater,
            "wanted": 1,
            "answered": 0,
            "open": False,
        }
        self.connection.execute(work_items.insert(), [row])
        made = self.connection.execute(select(work_items).where(work_items.c.id == row["id"])).one()
        return Found(made, tuple(reversed(json.loads(chosen.shown))))

    def _why_nothing(self) -> Nothing:
        if self.spec.pass_mark is not None:
            return Nothing("done", batch=self.batch)
        if self.connection.scalar(ANY_LEFT, {"batch": self.batch}) is None:
            return Nothing("finished", batch=self.batch)
        until = self.connection.scalar(SOONEST, {"batch": self.batch, "rater": self.rater, "now": self.now})
        return Nothing("done", batch=self.batch) if until is None else Nothing("leased", until=until, batch=self.batch)


def has_seat(connection: Connection, item: str, rater: str, now: float) -> bool:
    """Whether the item has a seat for this rater, their own lease left out. Checks always have."""
    row = connection.execute(SEAT, {"item": item, "rater": rater, "now": now}).one()
    return row.purpose != "ask" or bool(row.free)


def take(connection: Connection, found: Found, spec: BatchSpec, rater: str, now: float) -> None:
    """Lease the item found to the rater. Where they had it before, the order shown then is kept."""
    values = {
        "item_id": found.item.id,
        "rater_id": rater,
        "batch_id": found.item.batch_id,
        "state": "held",
        "shown": json.dumps(found.shown),
        "guideline": spec.guideline,
        "since": now,
        "until": now + spec.lease_seconds,
    }
    connection.execute(_lease(connection.dialect.name), values)


@cache
def _lease(dialect: str) -> postgresql.Insert | sqlite.Insert:
    insert = (postgresql.insert if dialect == "postgresql" else sqlite.insert)(leases)
    again = {"state": insert.excluded.state, "until": insert.excluded.until}
    return insert.on_conflict_do_update(index_elements=["item_id", "rater_id"], set_=again)
