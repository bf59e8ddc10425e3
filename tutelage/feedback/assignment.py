"""Which question to ask whom next, and what became of the answer.

A rater holds one item, or as many as their page reads ahead. A claim is one write; so is an answer, which adds its
labels to the store in the same one: what `submit` returned is on the disk. Seats: of every item there are `wanted`
seats; answers that stand and leases that run take one each, and never are more taken than there are. An answer that
comes after its lease ended and its seat went to somebody else is kept as an extra label.

    desk = Desk(store)
    batch = desk.open(BatchSpec(name="films", kind="comparison"), from_questions(questions, "comparison"))
    match desk.next("person-1"):
        case Held() as held: desk.submit("person-1", held.id, key, Ranked(ranks=(1, 2)))
        case Nothing(reason): ...
"""

import random
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, select, true
from sqlalchemy.dialects import postgresql, sqlite

from tutelage.errors import StudioError
from tutelage.feedback.answering import (
    BY_KEY,
    DROP_DRAFT,
    GIVEN,
    LATEST,
    SET_LEASE,
    Submission,
    announce_saved,
    reopen,
    saved,
    store_answer,
    told,
)
from tutelage.feedback.batches import Batches
from tutelage.feedback.choices import recent_conversations
from tutelage.feedback.claiming import (
    AT_WORK,
    BATCH_OF,
    BATCHES,
    FINAL,
    HELD,
    HELD_OF,
    LEFT,
    Claim,
    Found,
    has_seat,
    take,
)
from tutelage.feedback.database import read
from tutelage.feedback.outbox import announce
from tutelage.feedback.showing import handed, more_hopeful, offer, recent_answer
from tutelage.feedback.store import Store
from tutelage.feedback.work import (
    LONGEST_TEXT,
    Answer,
    Batch,
    BatchSpec,
    Held,
    NewItem,
    Nothing,
    Offer,
    Recent,
    Saved,
    spec_of,
)
from tutelage.feedback.work_tables import answers, drafts, remarks
from tutelage.records import now

MOST_AHEAD = 60  # items that one rater's page may have besides the one asked for: ten minutes of quick work
FEW_AHEAD = 5  # so many in hand are always allowed
LONGEST_KEY = 64  # characters of a submission's key


class Desk:
    """Hands out work and takes it back. Safe to share between threads, and between processes with one database.

    Raters are named by the id of their user. Every method raises StudioError (with a status, 404 unknown, 409 at odds
    with what is there, 422 malformed) for what cannot be, and StoreError where the database cannot be read or written.
    """

    def __init__(
        self, store: Store, *, clock: Callable[[], float] = time.time, rng: random.Random | None = None
    ) -> None:
        """`clock` tells seconds since 1970; `rng` draws what is shown where (the system's own randomness if None)."""
        self._engine, self._clock = store.engine, clock
        self._rng = rng or random.SystemRandom()
        self._batches = Batches(store, rng=rng)
        self._writes = store.writes

    def open(self, spec: BatchSpec, items: Iterable[NewItem], author: str | None = None) -> Batch:
        """Make a batch of the items and put it up, as `Batches.open` does."""
        return self._batches.open(spec, items, author)

    def next(self, rater: str, batch: str | None = None, besides: Sequence[str] = ()) -> Held | Nothing:
        """The rater's next item, of one batch or of any: the one still held if there is one, else a new claim.

        `besides` are items that the page has already and wants another one to: for pages that read ahead. The order
        of the completions is drawn once for each rater and item, and kept.
        """
        if len(besides) > MOST_AHEAD:
            raise StudioError(f"A page may have {MOST_AHEAD} items in hand, not {len(besides)}: answer some first", 422)
        with self._writes.write() as connection:
            at = self._clock()
            held = self._still_held(connection, rater, batch, besides, at)
            if held is not None:
                return held
            why = Nothing("nothing", batch=batch)
            for row in self._open_batches(connection, batch):
                if row.state != "open":
                    return Nothing("paused", batch=row.id)
                claim = self._claim(connection, row, rater, at, besides)
                match claim.find():
                    case Found() as item:
                        take(connection, item, claim.spec, rater, at)
                        given = _given(connection, rater, item.item.id)
                        return handed(connection, given, fresh=given.since == at)
                    case Nothing() as nothing:
                        why = more_hopeful(why, nothing)
            return why

    def held(self, rater: str, item: str) -> Held:
        """An item that this rater was given, in whatever state: to show again, to correct, to take drafts from."""
        with read(self._engine) as connection:
            return handed(connection, _given(connection, rater, item))

    def allowance(self, batch: str) -> int:
        """How many items of a batch a page may have in hand: all pages together hold half of what is left at most."""
        with read(self._engine) as connection:
            left = connection.scalar(LEFT, {"batch": batch}) or 0
            raters = connection.scalar(AT_WORK, {"batch": batch, "now": self._clock()}) or 1
        return min(max(FEW_AHEAD, left // (2 * raters)), MOST_AHEAD)

    def renew(self, rater: str, *items: str) -> list[float | None]:
        """Keep items for another lease. Returns until when; None where somebody else has taken the seat."""
        with self._writes.write() as connection:
            return [self._renewed(connection, _given(connection, rater, item), self._clock()) for item in items]

    def give_back(self, rater: str, *items: str) -> None:
        """Let go of items that the rater's page had read ahead: others may have them. A late answer is still taken."""
        with self._writes.write() as connection:
            for item in items:
                given = _given(connection, rater, item)
                if given.state == "held":
                    self._lapse(connection, given)

    def submit(self, rater: str, item: str, key: str, answer: Answer, seconds: float | None = None) -> Saved:
        """Store an answer and the labels that it is.

        The same key again, or the same answer again, stores nothing and returns what was stored. Another answer to the
        same item is a new revision: its labels replace the earlier ones, which are taken back. `seconds` of activity
        are what the page counted; they are bounded by the time since the item was first shown.
        """
        if not 1 <= len(key) <= LONGEST_KEY:
            raise StudioError(
                f"The key of a submission has 1 to {LONGEST_KEY} characters; this one has {len(key)}", 422
            )
        with self._writes.write() as connection:
            known = connection.execute(BY_KEY, {"rater": rater, "item": key}).one_or_none()
            if known is not None:
                if known.item_id != item:
                    raise StudioError("This key was used for the answer to another item: make a new one", 409)
                return saved(known, again=True)
            given = _given(connection, rater, item)
            made = store_answer(connection, Submission(key, answer, seconds), given, self._clock())
            announce_saved(connection, made, given)
            return made

    def undo(self, rater: str, batch: str | None = None) -> Held | None:
        """Take the rater's latest answer back and put its item into their hands again; None if there is none."""
        latest = select(answers).where(*_own(rater))
        if batch is not None:
            latest = latest.where(answers.c.batch_id == batch)
        with self._writes.write() as connection:
            last = connection.execute(latest.order_by(answers.c.n.desc()).limit(1)).one_or_none()
            if last is None:
                return None
            return self._take_back(connection, last)

    def take_back(self, rater: str, item: str) -> Held:
        """Take the answer to one item back and put it into the rater's hands again; a second time changes nothing."""
        with self._writes.write() as connection:
            given = _given(connection, rater, item)
            last = connection.execute(LATEST, {"item": item, "rater": rater}).one_or_none()
            return handed(connection, given) if last is None or not last.standing else self._take_back(connection, last)

    def skip(self, rater: str, item: str, reason: str) -> None:
        """Give an item back for good: it is never offered to this rater again. An answer that stands is kept."""
        with self._writes.write() as connection:
            if _given(connection, rater, item).state == "answered":
                raise StudioError("This item is answered: undo the answer first", 409)
            keys = {"item": item, "rater": rater}
            connection.execute(SET_LEASE, keys | {"new_state": "skipped", "new_until": self._clock()})
            connection.execute(DROP_DRAFT, keys)
            _remark(connection, rater, item, "skip", reason)

    def flag(self, rater: str, item: str, text: str) -> None:
        """Tell the leads of something about an item. It changes nothing for the rater, who goes on."""
        with self._writes.write() as connection:
            _given(connection, rater, item)
            _remark(connection, rater, item, "flag", text)

    def draft(self, rater: str, item: str, body: str) -> None:
        """Keep what the page holds so far, as JSON; the last one wins, and an answer ends it."""
        if len(body) > LONGEST_TEXT:
            raise StudioError(f"A draft has up to {LONGEST_TEXT:,} characters; this one has {len(body):,}", 422)
        with self._writes.write() as connection:
            _given(connection, rater, item)
            insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
            row = insert(drafts).values(item_id=item, rater_id=rater, body=body, saved=self._clock())
            again = {"body": row.excluded.body, "saved": row.excluded.saved}
            connection.execute(row.on_conflict_do_update(index_elements=["item_id", "rater_id"], set_=again))

    def recent(self, rater: str, limit: int = 20) -> list[Recent]:
        """The rater's own standing answers, newest first; of a conversation its last choice."""
        mine = select(answers).where(*_own(rater))
        with read(self._engine) as connection:
            found = connection.execute(mine.order_by(answers.c.n.desc()).limit(limit)).all()
            given = [recent_answer(connection, row) for row in found]
            talks = recent_conversations(connection, rater, limit)
        return sorted([*given, *talks], key=lambda one: one.created, reverse=True)[:limit] if talks else given

    def offers(self, rater: str) -> list[Offer]:
        """The batches open to the rater, and what there is to do in each: for the home page."""
        with read(self._engine) as connection:
            at = self._clock()
            claims = [self._claim(connection, row, rater, at) for row in connection.execute(BATCHES).all()]
            mine = [claim for claim in claims if claim.spec.raters is None or rater in claim.spec.raters]
            return [offer(claim) for claim in mine]

    def _open_batches(self, connection: Connection, batch: str | None) -> list[Row[Any]]:
        if batch is None:
            return list(connection.execute(BATCHES))
        found = list(connection.execute(BATCH_OF, {"batch": batch}))
        if not found:
            raise StudioError(f"There is no batch '{batch}'", 404)
        return found

    def _claim(
        self, connection: Connection, row: Row[Any], rater: str, at: float, besides: Sequence[str] = ()
    ) -> Claim:
        return Claim(connection, row.id, spec_of(row.spec), rater, at, self._rng, besides)

    def _still_held(
        self, connection: Connection, rater: str, batch: str | None, besides: Sequence[str], at: float
    ) -> Held | None:
        """What the rater has in hand, renewed; what has gone to somebody else meanwhile is let go."""
        query = HELD if batch is None else HELD_OF
        for lease in connection.execute(query, {"rater": rater, "batch": batch}).all():
            if lease.item_id in besides:
                continue
            given = _given(connection, rater, lease.item_id)
            if self._renewed(connection, given, at) is not None:
                return handed(connection, _given(connection, rater, lease.item_id))
            self._lapse(connection, lease)
        return None

    def _lapse(self, connection: Connection, lease: Row[Any]) -> None:
        keys = {"item": lease.item_id, "rater": lease.rater_id}
        connection.execute(SET_LEASE, keys | {"new_state": "lapsed", "new_until": lease.until})

    def _take_back(self, connection: Connection, answer: Row[Any]) -> Held:
        rater, item = answer.rater_id, answer.item_id
        reopen(connection, answer, _given(connection, rater, item), self._clock())
        announce(connection, "label.retracted", **told(rater, saved(answer, again=True)))
        return handed(connection, _given(connection, rater, item))

    def _renewed(self, connection: Connection, given: Row[Any], at: float) -> float | None:
        if given.state in FINAL:
            return float(given.until)
        running = given.state == "held" and given.until > at
        if not running and not has_seat(connection, given.item_id, given.rater_id, at):
            return None
        until = at + spec_of(given.spec).lease_seconds
        keys = {"item": given.item_id, "rater": given.rater_id}
        connection.execute(SET_LEASE, keys | {"new_state": "held", "new_until": until})
        return until


def _own(rater: str) -> tuple[ColumnElement[bool], ...]:
    """The rater's answers that stand; what they decided as a lead is none of these."""
    return answers.c.rater_id == rater, answers.c.standing == true(), answers.c.role != "adjudication"


def _given(connection: Connection, rater: str, item: str) -> Row[Any]:
    row = connection.execute(GIVEN, {"item": item, "rater": rater}).one_or_none()
    if row is None:
        raise StudioError(f"The item '{item}' was not given to you: ask for the next one", 404)
    return row


def _remark(connection: Connection, user: str, item: str, kind: str, text: str) -> None:
    if not 1 <= len(text.strip()) <= LONGEST_TEXT:
        raise StudioError(f"Say why, in up to {LONGEST_TEXT:,} characters", 422)
    row = {"item_id": item, "user_id": user, "kind": kind, "text": text.strip(), "created": now().isoformat()}
    connection.execute(remarks.insert(), [row | {"settled": False}])
