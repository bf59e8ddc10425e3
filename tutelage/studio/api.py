"""The API: everything that a page does, as JSON under /api. `GET /api/openapi.json` describes it.

    router          who may
    ------          -------
    api_work        scope label: your own work
    api_chat        scope label: your own conversations with the model
    api_lead        scope lead: batches, guidelines, prompts, progress; people and the audit trail
    api_cases       scope lead: disagreements, remarks, decisions; scope admin: erasing a person
    api_hooks       scope lead: webhooks and the log of their deliveries
    api_export      scope export: the labels as files

Here are the caller's own things: who they are, and their tokens. Errors are `problem.Problem`.
"""

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import Field

from tutelage.errors import StudioError
from tutelage.feedback.entrance import Token
from tutelage.feedback.people import User
from tutelage.records import Record
from tutelage.studio import api_cases, api_chat, api_export, api_hooks, api_lead, api_work
from tutelage.studio.caller import Scope, TheCaller
from tutelage.studio.problem import PROBLEMS
from tutelage.studio.room import TheRoom

router = APIRouter(prefix="/api", responses=PROBLEMS)
PARTS = (api_work, api_chat, api_lead, api_cases, api_hooks, api_export)
for part in PARTS:
    router.include_router(part.router)


@dataclass(frozen=True)
class Me:
    """The caller."""

    user: User
    scopes: tuple[Scope, ...]
    """What this token, or this session, may do now."""


class NewToken(Record):
    """A token to be made."""

    name: str = Field(min_length=1, max_length=100)
    """What it is for."""
    scopes: tuple[Scope, ...] = Field(min_length=1, max_length=4)
    """No more than you have yourself."""
    days: float = Field(default=90.0, gt=0, le=3650)
    """It ends after so many days."""


@dataclass(frozen=True)
class MadeToken:
    """A new token with its secret, which is told this once."""

    token: Token
    secret: str


@router.get("/me", tags=["you"])
def me(caller: TheCaller) -> Me:
    """Who you are, and what you may do."""
    return Me(caller.user, tuple(sorted(caller.scopes)))


@router.get("/tokens", tags=["you"])
def tokens(caller: TheCaller, room: TheRoom) -> list[Token]:
    """Your tokens that are not revoked."""
    return room.entrance.tokens(caller.user.id)


@router.post("/tokens", status_code=201, tags=["you"])
def issue_token(wanted: NewToken, caller: TheCaller, room: TheRoom) -> MadeToken:
    """Make a token. It cannot do more than what made it: a token of scope label makes no token of scope lead."""
    if beyond := sorted(set(wanted.scopes) - caller.scopes):
        raise StudioError(f"You do not have the scope {', '.join(beyond)}, so no token of yours can have it", 403)
    token, secret = room.entrance.issue_token(caller.user, wanted.name, wanted.scopes, days=wanted.days)
    return MadeToken(token, secret)


@router.delete("/tokens/{token}", status_code=204, tags=["you"])
def revoke_token(token: Annotated[str, Path(min_length=1, max_length=64)], caller: TheCaller, room: TheRoom) -> None:
    """Make a token void. Administrators may void anybody's."""
    room.entrance.revoke_token(caller.user, token)
