"""The people of the studio: users, and the invitations they come by.

Of passwords an argon2id hash is kept, of invitations a SHA-256. A label knows a person only as their id.
"""

import re
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal, get_args

from argon2 import PasswordHasher
from sqlalchemy import Connection, Row, func, select, update

from tutelage.errors import StudioError
from tutelage.feedback.audit import record
from tutelage.feedback.database import read
from tutelage.feedback.people_tables import invitations, sessions, users
from tutelage.feedback.store import Store
from tutelage.records import Annotator, new_id, now

Role = Literal["admin", "lead", "rater"]
Language = Literal["en", "zh_CN"]
RANK: dict[Role, int] = {"rater": 0, "lead": 1, "admin": 2}
LOGIN = re.compile(r"[a-z0-9][a-z0-9._@+-]{1,99}")
SHORTEST_PASSWORD, LONGEST_PASSWORD = 10, 1000  # characters
DAY = 86_400.0
HASHER = PasswordHasher(time_cost=2, memory_cost=47_104, parallelism=1)  # argon2id, 46 MiB
HASHING = threading.BoundedSemaphore(2)  # 46 MiB each: a flood of sign-ins must not fill the memory


def hashed(token: str) -> str:
    """What is kept of a random token."""
    return sha256(token.encode()).hexdigest()


def hash_password(password: str) -> str:
    """An argon2id hash with its salt and cost. Raises StudioError 422 for a password that is too short or too long."""
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise StudioError(f"A password has {SHORTEST_PASSWORD} characters or more, up to {LONGEST_PASSWORD}", 422)
    with HASHING:
        return HASHER.hash(password)


@dataclass(frozen=True)
class User:
    """Somebody who may sign in."""

    id: str
    """`person-<hex>`: the id, and the name, of the annotator that their labels carry."""
    login: str | None
    """None once erased."""
    name: str
    role: Role
    may_export: bool
    language: Language
    active: bool
    hourly_cost: float | None
    created: str

    def at_least(self, role: Role) -> bool:
        """Whether their role includes this one: admin includes lead, lead includes rater."""
        return RANK[self.role] >= RANK[role]


@dataclass(frozen=True)
class Invitation:
    """A way in, for one person, once."""

    id: str
    role: Role
    may_export: bool
    note: str
    """Whom it is for."""
    author: str | None
    created: str
    expires: float
    used_by: str | None
    revoked: bool


def annotator_of(user: str) -> Annotator:
    """The annotator that a user's labels carry: their id is all that labels know."""
    return Annotator(id=user, kind="human", name=user)


def user_from(row: Row[Any]) -> User:
    """A user from their row."""
    return User(
        id=row.id,
        login=row.login,
        name=row.name,
        role=row.role,
        may_export=row.may_export,
        language=row.language,
        active=row.active,
        hourly_cost=row.hourly_cost,
        created=row.created,
    )


def _invitation(row: Row[Any]) -> Invitation:
    fields = ("id", "role", "may_export", "note", "author", "created", "expires", "used_by", "revoked")
    return Invitation(**{name: row._mapping[name] for name in fields})


class People:
    """Users and invitations. Safe to share between threads, and between processes with one database."""

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.time) -> None:
        """`clock` tells seconds since 1970."""
        self._engine, self._writes, self._clock = store.engine, store.writes, clock

    def all(self) -> list[User]:
        """Every user, in the order they joined."""
        with read(self._engine) as connection:
            return [user_from(row) for row in connection.execute(select(users).order_by(users.c.created, users.c.id))]

    def find(self, user: str) -> User:
        """One user. Raises StudioError 404 where there is none of that id."""
        with read(self._engine) as connection:
            return _found(connection, user)

    def change(self, by: User, user: str, **changes: Any) -> User:
        """Change name, language, role, may_export, active or hourly_cost, on the record.

        People may change their own name and language; leads what raters cost and whether they are active; the rest is
        the administrators'. Raises StudioError 403 otherwise, and 409 where no administrator would be left.
        """
        allowed = {"name", "language", "role", "may_export", "active", "hourly_cost"}
        if unknown := set(changes) - allowed:
            raise StudioError(f"A user has no {', '.join(sorted(unknown))} that can be changed", 422)
        _check_values(changes)
        with self._writes.write() as connection:
            before = _found(connection, user)
            _check_change(by, before, set(changes))
            connection.execute(update(users).where(users.c.id == user).values(**changes))
            if not connection.scalar(_administrators()):
                raise StudioError("Nobody would be an administrator any more: make somebody else one first", 409)
            if not changes.get("active", True):
                connection.execute(sessions.delete().where(sessions.c.user_id == user))
            record(connection, by.id, "change-user", user, **changes)
            return _found(connection, user)

    def change_password(self, user: str, password: str) -> None:
        """Set a password and end every session of the user. The caller has checked the old one."""
        made = hash_password(password)
        with self._writes.write() as connection:
            connection.execute(update(users).where(users.c.id == user).values(password=made))
            connection.execute(sessions.delete().where(sessions.c.user_id == user))
            record(connection, user, "change-password", user)

    def invite(
        self, by: User, role: Role, *, may_export: bool = False, note: str = "", days: float = 7.0
    ) -> tuple[Invitation, str]:
        """An invitation and its token, which is told this once. Leads invite raters; administrators anybody.

        Raises StudioError 403 for a role that is not theirs to give.
        """
        if role not in get_args(Role):
            raise StudioError(f"There is no role '{role}': choose {', '.join(get_args(Role))}", 422)
        if not by.at_least("lead") or ((may_export or role != "rater") and not by.at_least("admin")):
            raise StudioError("Only an administrator may invite leads, administrators and people who export", 403)
        with self._writes.write() as connection:
            invitation, token = self._invite(connection, by.id, role, may_export, note, days)
            record(connection, by.id, "invite", invitation.id, role=role, may_export=may_export)
        return invitation, token

    def first_invitation(self) -> str | None:
        """A token for the first administrator, good for a day; None when there is one. The token before is void."""
        with self._writes.write() as connection:
            if connection.scalar(_administrators()):
                return None
            connection.execute(update(invitations).where(invitations.c.role == "admin").values(revoked=True))
            return self._invite(connection, None, "admin", True, "the first administrator", 1.0)[1]

    def invitations(self) -> list[Invitation]:
        """Every invitation, newest first."""
        with read(self._engine) as connection:
            found = connection.execute(select(invitations).order_by(invitations.c.created.desc()))
            return [_invitation(row) for row in found]

    def revoke(self, by: User, invitation: str) -> None:
        """Make an invitation void."""
        with self._writes.write() as connection:
            connection.execute(update(invitations).where(invitations.c.id == invitation).values(revoked=True))
            record(connection, by.id, "revoke-invitation", invitation)

    def invited(self, token: str) -> Invitation:
        """The invitation of a token. Raises StudioError 404 when it is unknown, used, expired or void."""
        with read(self._engine) as connection:
            return self._valid(connection, token)

    def join(self, token: str, *, login: str, name: str, password: str, language: Language = "en") -> User:
        """Make the user that an invitation is for; it is used up in the same transaction.

        Raises StudioError: 404 for a token that is no good, 409 for a login that is taken, 422 for what is malformed.
        """
        login, name = login.strip().lower(), name.strip()
        if not LOGIN.fullmatch(login):
            raise StudioError("A sign-in name has 2 to 100 of the letters a to z, digits and . _ @ + -", 422)
        _check_values({"name": name, "language": language})
        self.invited(token)  # before the costly hash
        made = hash_password(password)
        with self._writes.write() as connection:
            invitation = self._valid(connection, token)
            if connection.scalar(select(func.count()).where(users.c.login == login)):
                raise StudioError("This sign-in name is taken: choose another", 409)
            user = {
                "id": f"person-{secrets.token_hex(8)}",
                "login": login,
                "name": name,
                "role": invitation.role,
                "may_export": invitation.may_export,
                "language": language,
                "password": made,
                "active": True,
                "created": now().isoformat(),
            }
            connection.execute(users.insert(), [user])
            used = update(invitations).where(invitations.c.id == invitation.id).values(used_by=user["id"])
            connection.execute(used)
            record(connection, str(user["id"]), "join", invitation.id, role=invitation.role)
            return _found(connection, str(user["id"]))

    def _invite(
        self, connection: Connection, author: str | None, role: Role, may_export: bool, note: str, days: float
    ) -> tuple[Invitation, str]:
        token = secrets.token_urlsafe(32)
        row = {
            "id": new_id(),
            "hash": hashed(token),
            "role": role,
            "may_export": may_export,
            "note": note[:200],
            "author": author,
            "created": now().isoformat(),
            "expires": self._clock() + days * DAY,
            "revoked": False,
        }
        connection.execute(invitations.insert(), [row])
        found = connection.execute(select(invitations).where(invitations.c.id == row["id"])).one()
        return _invitation(found), token

    def _valid(self, connection: Connection, token: str) -> Invitation:
        row = connection.execute(select(invitations).where(invitations.c.hash == hashed(token))).one_or_none()
        if row is None or row.revoked or row.used_by is not None or row.expires <= self._clock():
            raise StudioError("This invitation is not valid any more: ask whoever sent it for a new one", 404)
        return _invitation(row)


def _found(connection: Connection, user: str) -> User:
    row = connection.execute(select(users).where(users.c.id == user)).one_or_none()
    if row is None:
        raise StudioError(f"There is no user '{user}'", 404)
    return user_from(row)


def _administrators() -> Any:
    return select(func.count()).where(users.c.role == "admin", users.c.active, users.c.password != "")


def _check_values(values: dict[str, Any]) -> None:
    if not 1 <= len(values.get("name", "x")) <= 100:
        raise StudioError("A name has 1 to 100 characters", 422)
    if values.get("language", "en") not in get_args(Language):
        raise StudioError(f"There is no language '{values['language']}': choose {', '.join(get_args(Language))}", 422)
    if values.get("role", "rater") not in get_args(Role):
        raise StudioError(f"There is no role '{values['role']}': choose {', '.join(get_args(Role))}", 422)
    if (values.get("hourly_cost") or 0) < 0:
        raise StudioError("An hour's cost is no negative number", 422)


def _check_change(by: User, user: User, fields: set[str]) -> None:
    own = by.id == user.id and fields <= {"name", "language"}
    led = by.at_least("lead") and user.role == "rater" and fields <= {"active", "hourly_cost"}
    if not (own or led or by.at_least("admin")):
        raise StudioError("Only an administrator may change that of somebody else", 403)
