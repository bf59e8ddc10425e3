"""Events on their way to webhooks: written with what they tell of, sent afterwards, kept until somebody took them.

`announce` adds a row for each webhook that wants an event, inside the transaction that stores the label or opens the
batch: either both are on the disk or neither is. Sending (`studio/webhooks.py`) claims what is due for a minute, so
several processes share the work, and what a killed process had claimed comes due again. A delivery can therefore
arrive twice, with the same id, and is never lost.
"""

import base64
import json
import random
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from sqlalchemy import Connection, Row, delete, func, select, update

from tutelage.errors import StudioError
from tutelage.feedback.audit import record
from tutelage.feedback.database import read
from tutelage.feedback.people_tables import deliveries, webhooks
from tutelage.feedback.store import Store
from tutelage.records import new_id, now

Event = Literal["label.saved", "label.revised", "label.retracted", "batch.opened", "batch.finished", "webhook.test"]
EVENTS: tuple[Event, ...] = get_args(Event)
DELAYS = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""Seconds from one attempt to the next, as the specification of Standard Webhooks has them; over three days in all."""
JITTER = 0.1  # of a delay, either way, so that a receiver that comes back is not met by all of them at once
CLAIM_SECONDS = 60.0  # longer than an attempt may take
KEPT_SECONDS = 30 * 86_400.0  # of the log
MOST_ATTEMPTS = 50  # of a delivery's log; replays can make more than there are delays
LONGEST_WAIT = 86_400.0  # seconds that a receiver's Retry-After may ask for
SECRET_BYTES = 32
Delivered = Literal["delivered", "waiting", "given up"]
LISTENING = select(webhooks.c.id, webhooks.c.events).where(webhooks.c.active)


def announce(connection: Connection, event: Event, **data: Any) -> bool:
    """Tell every webhook that wants this event, in the caller's transaction. `data`: ids and figures, no texts.

    Returns whether there is any webhook, of this event or another: without one nothing more needs to be found out.
    """
    hooks = connection.execute(LISTENING).all()
    wanted = [hook.id for hook in hooks if event in (json.loads(hook.events) or EVENTS)]
    if wanted:
        _queue(connection, wanted, event, data)
    return bool(hooks)


def _queue(connection: Connection, hooks: Sequence[str], event: Event, data: dict[str, Any]) -> None:
    body = json.dumps({"type": event, "timestamp": now().isoformat(), "data": data}, separators=(",", ":"))
    moment = time.time()
    rows = [
        {
            "id": f"msg_{secrets.token_hex(12)}",
            "webhook_id": hook,
            "event": event,
            "body": body,
            "created": moment,
            "attempts": 0,
            "due": moment,
            "error": "",
        }
        for hook in hooks
    ]
    connection.execute(deliveries.insert(), rows)


@dataclass(frozen=True)
class Webhook:
    """An address that is told of events. Its secret is told once, when it is made."""

    id: str
    url: str
    events: tuple[str, ...]
    """Which it wants; empty for all."""
    active: bool
    created: str
    author: str | None


@dataclass(frozen=True)
class Attempt:
    """One try to deliver."""

    at: float
    """Seconds since 1970."""
    status: int | None
    """HTTP status of the answer; None where there was none."""
    error: str


@dataclass(frozen=True)
class Delivery:
    """One event to one webhook: a line of the log."""

    id: str
    webhook: str
    event: str
    created: float
    """Seconds since 1970."""
    attempts: int
    state: Delivered
    due: float | None
    """When it is tried next."""
    status: int | None
    """HTTP status of the last answer; None where there was none."""
    error: str
    history: tuple[Attempt, ...]
    """The latest attempts, up to 50, the oldest first."""


@dataclass(frozen=True)
class Parcel:
    """A claimed delivery with all that sending it needs."""

    id: str
    webhook: str
    url: str
    secret: str
    body: str
    attempts: int


class Outbox:
    """Webhooks, and what is on its way to them. Safe to share between threads, and between processes."""

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.time) -> None:
        """`clock` tells seconds since 1970."""
        self._engine, self._writes, self._clock = store.engine, store.writes, clock

    def add(self, by: str, url: str, events: Sequence[str] = ()) -> tuple[Webhook, str]:
        """A new webhook and its secret (`whsec_…`), which is told this once. The caller has checked the address.

        Raises StudioError 422 for an event that does not exist.
        """
        if unknown := sorted(set(events) - set(EVENTS)):
            raise StudioError(f"There is no event {', '.join(unknown)}: choose from {', '.join(EVENTS)}", 422)
        secret = f"whsec_{base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()}"
        row = {
            "id": new_id(),
            "url": url,
            "secret": secret,
            "events": json.dumps(list(events)),
            "author": by,
            "created": now().isoformat(),
            "active": True,
        }
        with self._writes.write() as connection:
            connection.execute(webhooks.insert(), [row])
            record(connection, by, "add-webhook", str(row["id"]), url=url, events=list(events))
            made = connection.execute(select(webhooks).where(webhooks.c.id == row["id"])).one()
        return _webhook(made), secret

    def webhooks(self) -> list[Webhook]:
        """Every webhook, the oldest first."""
        with read(self._engine) as connection:
            return [_webhook(row) for row in connection.execute(select(webhooks).order_by(webhooks.c.created))]

    def remove(self, by: str, webhook: str) -> None:
        """Turn a webhook off for good; its log stays. Raises StudioError 404 where there is none of that id."""
        with self._writes.write() as connection:
            self._turn_off(connection, webhook)
            record(connection, by, "remove-webhook", webhook)

    def test(self, webhook: str) -> None:
        """Send a `webhook.test` to one webhook. Raises StudioError 404 where there is no active one of that id."""
        with self._writes.write() as connection:
            hook = connection.execute(select(webhooks).where(webhooks.c.id == webhook)).one_or_none()
            if hook is None or not hook.active:
                raise StudioError(f"There is no active webhook '{webhook}'", 404)
            _queue(connection, [webhook], "webhook.test", {"webhook": webhook})

    def log(self, webhook: str | None = None, limit: int = 100) -> list[Delivery]:
        """What was and will be delivered, newest first."""
        query = select(deliveries).order_by(deliveries.c.n.desc()).limit(limit)
        if webhook is not None:
            query = query.where(deliveries.c.webhook_id == webhook)
        with read(self._engine) as connection:
            return [_delivery(row) for row in connection.execute(query)]

    def replay(self, by: str, delivery: str) -> None:
        """Try a delivery again now, with all its attempts before it. Raises StudioError 404 where there is none."""
        with self._writes.write() as connection:
            changed = update(deliveries).where(deliveries.c.id == delivery).values(due=self._clock(), attempts=0)
            if not connection.execute(changed).rowcount:
                raise StudioError(f"There is no delivery '{delivery}'", 404)
            record(connection, by, "replay-delivery", delivery)

    def claim(self, most: int = 20) -> list[Parcel]:
        """Take what is due, the oldest first, for a minute; after that it is due again unless it was settled."""
        moment = self._clock()
        due = (
            select(deliveries, webhooks.c.url, webhooks.c.secret)
            .join(webhooks, webhooks.c.id == deliveries.c.webhook_id)
            .where(deliveries.c.due <= moment, webhooks.c.active)
            .order_by(deliveries.c.n)
            .limit(most)
        )
        with read(self._engine) as connection:  # so that a studio with nothing to send takes no turn at writing
            if connection.execute(due.limit(1)).first() is None:
                return []
        with self._writes.write() as connection:
            rows = connection.execute(due).all()
            held = deliveries.c.id.in_([row.id for row in rows])
            connection.execute(update(deliveries).where(held).values(due=moment + CLAIM_SECONDS))
        return [Parcel(row.id, row.webhook_id, row.url, row.secret, row.body, row.attempts) for row in rows]

    def settle(self, parcel: Parcel, status: int | None, error: str = "", wait: float | None = None) -> None:
        """What became of an attempt: an HTTP status, or the error where there was none.

        2xx is delivered; 410 turns the webhook off; all else is tried again, at the earliest after `wait` seconds (the
        receiver's Retry-After), until the delays are used up.
        """
        due: float | None = None
        if status is None or not 200 <= status < 300:
            error = error or f"answered {status}"
            if status != 410 and parcel.attempts < len(DELAYS):
                delay = DELAYS[parcel.attempts] * random.uniform(1 - JITTER, 1 + JITTER)
                due = self._clock() + max(delay, min(wait or 0.0, LONGEST_WAIT))
        made = Attempt(self._clock(), status, error[:500])
        values = {"attempts": parcel.attempts + 1, "status": status, "error": made.error, "due": due}
        this = deliveries.c.id == parcel.id
        with self._writes.write() as connection:
            before = json.loads(connection.scalar(select(deliveries.c.history).where(this)) or "[]")
            values["history"] = json.dumps([*before, asdict(made)][-MOST_ATTEMPTS:])
            connection.execute(update(deliveries).where(this).values(**values))
            if status == 410:
                self._turn_off(connection, parcel.webhook)
                record(connection, None, "remove-webhook", parcel.webhook, reason="it answered 410 Gone")

    def forget(self) -> int:
        """Delete what was settled a month ago or more. Returns how many lines of the log that were."""
        old = (deliveries.c.due.is_(None), deliveries.c.created < self._clock() - KEPT_SECONDS)
        with read(self._engine) as connection:
            if not connection.execute(select(func.count()).select_from(deliveries).where(*old)).scalar_one():
                return 0
        with self._writes.write() as connection:
            return int(connection.execute(delete(deliveries).where(*old)).rowcount)

    def _turn_off(self, connection: Connection, webhook: str) -> None:
        if not connection.execute(update(webhooks).where(webhooks.c.id == webhook).values(active=False)).rowcount:
            raise StudioError(f"There is no webhook '{webhook}'", 404)
        waiting = (deliveries.c.webhook_id == webhook, deliveries.c.due.is_not(None))
        connection.execute(update(deliveries).where(*waiting).values(due=None, error="the webhook was turned off"))


def _webhook(row: Row[Any]) -> Webhook:
    return Webhook(row.id, row.url, tuple(json.loads(row.events)), row.active, row.created, row.author)


def _delivery(row: Row[Any]) -> Delivery:
    taken = row.status is not None and 200 <= row.status < 300
    state: Delivered = "waiting" if row.due is not None else "delivered" if taken else "given up"
    tried = tuple(Attempt(**one) for one in json.loads(row.history or "[]"))
    told = (row.attempts, state, row.due, row.status, row.error, tried)
    return Delivery(row.id, row.webhook_id, row.event, row.created, *told)
