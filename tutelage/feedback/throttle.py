"""Back-off in the database: who tries too often waits, twice as long each time, whichever process answers."""

from dataclasses import dataclass
from hashlib import sha256

from sqlalchemy import Connection, select

from tutelage.errors import StudioError
from tutelage.feedback.people_tables import throttles

FORGOTTEN_SECONDS = 3600.0  # after an hour of quiet the count starts anew
LONGEST_SECONDS = 900.0


@dataclass(frozen=True)
class Limit:
    """What is counted, and how many are free."""

    name: str
    """What is counted: `login:ann`, `address:192.0.2.1`."""
    free: int
    """So many tries cost nothing; the next waits a second, then two, four, … up to a quarter of an hour."""

    @property
    def key(self) -> str:
        """What the table keeps: no address in the clear."""
        return sha256(self.name.encode()).hexdigest()


def charge(connection: Connection, now: float, limits: list[Limit]) -> None:
    """Count a try against each limit, before it is known whether it succeeds: so a hundred at once count a hundred.

    Raises StudioError 429 with the seconds to wait while a limit is on; such a try is not counted.
    """
    keys = [limit.key for limit in limits]
    known = {row.key: row for row in connection.execute(select(throttles).where(throttles.c.key.in_(keys)))}
    wait = max((row.until - now for row in known.values()), default=0.0)
    if wait > 0:
        raise StudioError(f"Too many tries: wait {wait:.0f} seconds and try again", 429, retry_after=wait)
    connection.execute(throttles.delete().where(throttles.c.key.in_(keys)))
    connection.execute(throttles.delete().where(throttles.c.seen < now - FORGOTTEN_SECONDS))
    for limit in limits:
        row = known.get(limit.key)
        count = 1 + (row.tries if row is not None and row.seen > now - FORGOTTEN_SECONDS else 0)
        delay = min(2.0 ** min(count - limit.free, 30), LONGEST_SECONDS) if count >= limit.free else 0.0
        values = {"key": limit.key, "tries": count, "until": now + delay, "seen": now}
        connection.execute(throttles.insert(), [values])


def forgive(connection: Connection, limits: list[Limit]) -> None:
    """Forget what was counted: the try succeeded."""
    connection.execute(throttles.delete().where(throttles.c.key.in_([limit.key for limit in limits])))
