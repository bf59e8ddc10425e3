"""Signing in and out: passwords checked, sessions kept in the database, API tokens.

A session's cookie and an API token are random; the database has their SHA-256. A session ends on its day, when nobody
uses it for some days, when it is revoked, and when its user's password changes.
"""

import json
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from argon2.exceptions import InvalidHashError, VerifyMismatchError
from sqlalchemy import Connection, bindparam, select, update

from tutelage.errors import StudioError
from tutelage.feedback.audit import record
from tutelage.feedback.database import read
from tutelage.feedback.people import DAY, HASHER, HASHING, LONGEST_PASSWORD, User, hashed, user_from
from tutelage.feedback.people_tables import api_tokens, sessions, users
from tutelage.feedback.store import Store
from tutelage.feedback.throttle import Limit, charge, forgive
from tutelage.records import new_id, now

SEEN_SECONDS = 600.0  # how exactly it is known when a session was used last
NOBODY = HASHER.hash("nobody has this password")  # checked where there is no such user, so that both take as long
OF_SESSION = (  # who is signed in
    select(users, sessions.c.seen, sessions.c.hash)
    .join(sessions, sessions.c.user_id == users.c.id)
    .where(sessions.c.hash == bindparam("hash"), sessions.c.expires > bindparam("now"))
    .where(sessions.c.seen > bindparam("used_after"), users.c.active)
)
OF_TOKEN = (  # whose token it is, and the token
    select(
        users,
        api_tokens.c.id.label("token_id"),
        api_tokens.c.name.label("token_name"),
        api_tokens.c.created.label("issued"),
        *(api_tokens.c[name] for name in ("scopes", "expires", "used")),
    )
    .join(api_tokens, api_tokens.c.user_id == users.c.id)
    .where(api_tokens.c.hash == bindparam("hash"), ~api_tokens.c.revoked, users.c.active)
    .where(api_tokens.c.expires.is_(None) | (api_tokens.c.expires > bindparam("now")))
)


@dataclass(frozen=True)
class Session:
    """A browser that is signed in."""

    id: str
    """The beginning of the token's hash: enough to revoke it by."""
    created: float
    seen: float
    expires: float
    agent: str


@dataclass(frozen=True)
class Token:
    """An API token, without its secret."""

    id: str
    name: str
    scopes: tuple[str, ...]
    created: str
    expires: float | None
    used: float | None


class Entrance:
    """Sessions and tokens. Safe to share between threads, and between processes with one database."""

    def __init__(
        self,
        store: Store,
        *,
        session_days: float = 14.0,
        idle_days: float = 3.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock` tells seconds since 1970."""
        self._engine, self._writes, self._clock = store.engine, store.writes, clock
        self._lasts, self._idle = session_days * DAY, idle_days * DAY

    def sign_in(self, login: str, password: str, *, address: str, agent: str = "", old: str = "") -> tuple[User, str]:
        """The user and the token of a new session; the session of the token `old`, if any, ends.

        Raises StudioError: 401 for a wrong name or password, not saying which; 429 after too many tries.
        """
        login = login.strip().lower()
        limits = [
            Limit(f"login:{login} address:{address}", 5),
            Limit(f"login:{login}", 20),
            Limit(f"address:{address}", 200),
        ]
        with self._writes.write() as connection:
            charge(connection, self._clock(), limits)
            row = connection.execute(select(users).where(users.c.login == login)).one_or_none()
        right = _matches(row.password if row is not None and row.active else NOBODY, password)
        with self._writes.write() as connection:
            if row is not None and row.active and right:
                forgive(connection, limits)
                record(connection, row.id, "sign-in", address=address)
                return user_from(row), self._start(connection, row.id, agent, old)
            record(connection, None if row is None else row.id, "sign-in-failed", address=address)
        raise StudioError("The sign-in name or the password is wrong", 401)

    def start(self, user: User, *, agent: str = "", old: str = "") -> str:
        """The token of a new session, for somebody who has just joined or changed their password."""
        with self._writes.write() as connection:
            return self._start(connection, user.id, agent, old)

    def check_password(self, user: User, password: str, *, address: str) -> None:
        """Raises StudioError 403 unless it is the user's password, 429 after too many tries."""
        limits = [Limit(f"check:{user.id}", 5)]
        with self._writes.write() as connection:
            charge(connection, self._clock(), limits)
            known = connection.scalar(select(users.c.password).where(users.c.id == user.id))
        if not _matches(known or NOBODY, password):
            raise StudioError("The password is wrong", 403)
        with self._writes.write() as connection:
            forgive(connection, limits)

    def user_of_session(self, token: str) -> User | None:
        """Who is signed in with this token; None where the session is unknown or has ended."""
        at = self._clock()
        values = {"hash": hashed(token), "now": at, "used_after": at - self._idle}
        with read(self._engine) as connection:
            row = connection.execute(OF_SESSION, values).one_or_none()
        if row is None:
            return None
        if row.seen < at - SEEN_SECONDS:
            with self._writes.write() as connection:
                connection.execute(update(sessions).where(sessions.c.hash == row.hash).values(seen=at))
        return user_from(row)

    def end(self, token: str) -> None:
        """Sign out."""
        with self._writes.write() as connection:
            connection.execute(sessions.delete().where(sessions.c.hash == hashed(token)))

    def sessions(self, user: str) -> list[Session]:
        """Where a user is signed in, the latest used first."""
        query = select(sessions).where(sessions.c.user_id == user, sessions.c.expires > self._clock())
        with read(self._engine) as connection:
            found = connection.execute(query.order_by(sessions.c.seen.desc())).all()
        return [Session(row.hash[:16], row.created, row.seen, row.expires, row.agent) for row in found]

    def revoke_sessions(self, by: User, user: str, session: str | None = None) -> int:
        """End one session of a user, or all of them. Returns how many. StudioError 403 for somebody else's."""
        if by.id != user and not by.at_least("admin"):
            raise StudioError("Only an administrator may sign somebody else out", 403)
        ended = sessions.delete().where(sessions.c.user_id == user)
        if session is not None:
            ended = ended.where(sessions.c.hash.startswith(session, autoescape=True))
        with self._writes.write() as connection:
            record(connection, by.id, "revoke-sessions", user)
            return connection.execute(ended).rowcount

    def issue_token(
        self, by: User, name: str, scopes: Sequence[str], *, days: float | None = 90.0
    ) -> tuple[Token, str]:
        """An API token of the user's own and its secret, which is told this once."""
        secret = secrets.token_urlsafe(32)
        row = {
            "id": new_id(),
            "hash": hashed(secret),
            "user_id": by.id,
            "name": name[:100],
            "scopes": json.dumps(list(scopes)),
            "created": now().isoformat(),
            "expires": None if days is None else self._clock() + days * DAY,
            "revoked": False,
        }
        with self._writes.write() as connection:
            connection.execute(api_tokens.insert(), [row])
            record(connection, by.id, "issue-token", str(row["id"]), scopes=list(scopes))
        return next(t for t in self.tokens(by.id) if t.id == row["id"]), secret

    def user_of_token(self, secret: str) -> tuple[User, Token] | None:
        """Whose token this is, and the token; None where it is unknown, expired or revoked."""
        at = self._clock()
        with read(self._engine) as connection:
            row = connection.execute(OF_TOKEN, {"hash": hashed(secret), "now": at}).one_or_none()
        if row is None:
            return None
        if row.used is None or row.used < at - SEEN_SECONDS:
            with self._writes.write() as connection:
                connection.execute(update(api_tokens).where(api_tokens.c.id == row.token_id).values(used=at))
        scopes = tuple(json.loads(row.scopes))
        return user_from(row), Token(row.token_id, row.token_name, scopes, row.issued, row.expires, at)

    def tokens(self, user: str) -> list[Token]:
        """A user's tokens that are not revoked."""
        t = api_tokens.c
        with read(self._engine) as connection:
            rows = connection.execute(select(api_tokens).where(t.user_id == user, ~t.revoked).order_by(t.created)).all()
        return [Token(r.id, r.name, tuple(json.loads(r.scopes)), r.created, r.expires, r.used) for r in rows]

    def revoke_token(self, by: User, token: str) -> None:
        """Make a token void. Raises StudioError 404 where it is not the user's and they are no administrator."""
        t = api_tokens.c
        mine = (t.id == token,) if by.at_least("admin") else (t.id == token, t.user_id == by.id)
        with self._writes.write() as connection:
            if not connection.execute(update(api_tokens).where(*mine).values(revoked=True)).rowcount:
                raise StudioError(f"There is no API token '{token}'", 404)
            record(connection, by.id, "revoke-token", token)

    def _start(self, connection: Connection, user: str, agent: str, old: str) -> str:
        at, token = self._clock(), secrets.token_urlsafe(32)
        stale = (sessions.c.user_id == user) & ((sessions.c.expires <= at) | (sessions.c.seen <= at - self._idle))
        connection.execute(sessions.delete().where(stale | (sessions.c.hash == hashed(old))))
        row = {
            "hash": hashed(token),
            "user_id": user,
            "created": at,
            "seen": at,
            "expires": at + self._lasts,
            "agent": agent[:200],
        }
        connection.execute(sessions.insert(), [row])
        return token


def _matches(known: str, password: str) -> bool:
    """Whether a password has this hash."""
    try:
        with HASHING:
            return HASHER.verify(known, password[: LONGEST_PASSWORD + 1])
    except (VerifyMismatchError, InvalidHashError):
        return False
