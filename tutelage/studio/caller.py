"""Who calls the API, and what they may do there: dependencies for its routes.

    @router.get("/batches")
    def batches(user: ForLead, room: TheRoom) -> list[Batch]: ...

A program shows a token (`Authorization: Bearer …`), which has scopes; a page of the studio uses its session, and may do
whatever its user may. A token never does more than its user may now: whoever is no lead any more has no `lead` left.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Annotated, Literal, get_args

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from tutelage.errors import StudioError
from tutelage.feedback.people import Role, User
from tutelage.studio.auth import address_of, signed_in
from tutelage.studio.room import TheRoom

Scope = Literal["label", "lead", "export", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
BEARER = HTTPBearer(auto_error=False, description="An API token: a rater's, lead's or administrator's own")


@dataclass(frozen=True)
class Caller:
    """The user behind a request, and what this request may do in their name."""

    user: User
    """With no more role and permission than the scopes give."""
    scopes: frozenset[Scope]


def rights(user: User) -> frozenset[Scope]:
    """The scopes that a user may give a token of theirs."""
    allowed = {
        "label": True,
        "lead": user.at_least("lead"),
        "export": user.may_export,
        "admin": user.at_least("admin"),
    }
    return frozenset(scope for scope in SCOPES if allowed[scope])


def called(
    request: Request, room: TheRoom, given: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)]
) -> Caller:
    """Who calls. Raises StudioError: 401 without a valid token or session, 429 for too many requests."""
    if given is None:
        user = signed_in(request)
        room.pace.take(user.id)
        return Caller(user, rights(user))
    found = room.entrance.user_of_token(given.credentials)
    if found is None:
        room.pace.take(f"unknown {address_of(request)}")
        raise StudioError("This API token is unknown, has expired or was revoked: make a new one", 401)
    user, token = found
    room.pace.take(user.id)
    request.scope["user"] = user
    scopes = rights(user) & frozenset(scope for scope in SCOPES if scope in token.scopes)
    role: Role = "admin" if "admin" in scopes else "lead" if "lead" in scopes else "rater"
    return Caller(replace(user, role=role, may_export="export" in scopes), scopes)


TheCaller = Annotated[Caller, Depends(called)]


def scoped(scope: Scope) -> Callable[[Caller], Awaitable[User]]:
    """A dependency: the caller's user, when they may do this. Raises StudioError 403 when not."""

    async def allowed(caller: TheCaller) -> User:
        if scope not in caller.scopes:
            mine = ", ".join(sorted(caller.scopes)) or "none"
            raise StudioError(f"This needs the scope '{scope}'; here are {mine}", 403)
        return caller.user

    return allowed


ForLabels = Annotated[User, Depends(scoped("label"))]
ForLead = Annotated[User, Depends(scoped("lead"))]
ForExport = Annotated[User, Depends(scoped("export"))]
ForAdmin = Annotated[User, Depends(scoped("admin"))]
