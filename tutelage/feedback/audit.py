"""The audit trail: who did what to whom, written in the transaction that did it, and never changed."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from tutelage.feedback.database import read, write
from tutelage.feedback.people_tables import audit
from tutelage.feedback.store import Store
from tutelage.records import now


@dataclass(frozen=True)
class Entry:
    """One line of the trail."""

    n: int
    created: str
    user: str | None
    """Id of the user who did it; None for the console."""
    action: str
    subject: str
    detail: dict[str, Any]


def record(connection: Connection, user: str | None, action: str, subject: str = "", **detail: Any) -> None:
    """Write a line, in the caller's transaction."""
    row = {
        "created": now().isoformat(),
        "user_id": user,
        "action": action,
        "subject": subject,
        "detail": json.dumps(detail, ensure_ascii=False),
    }
    connection.execute(audit.insert(), [row])


def note(store: Store, user: str | None, action: str, subject: str = "", **detail: Any) -> None:
    """Write a line in a transaction of its own: for what changes no table, such as an export."""
    with write(store.engine) as connection:
        record(connection, user, action, subject, **detail)


def entries(
    store: Store, *, before: int | None = None, limit: int = 100, user: str | None = None, actions: Iterable[str] = ()
) -> list[Entry]:
    """Lines of the trail, newest first: those older than line `before`, by one user, of some actions."""
    query = select(audit).order_by(audit.c.n.desc()).limit(limit)
    if before is not None:
        query = query.where(audit.c.n < before)
    if user is not None:
        query = query.where(audit.c.user_id == user)
    if wanted := list(actions):
        query = query.where(audit.c.action.in_(wanted))
    with read(store.engine) as connection:
        rows = connection.execute(query).all()
    return [Entry(row.n, row.created, row.user_id, row.action, row.subject, json.loads(row.detail)) for row in rows]
