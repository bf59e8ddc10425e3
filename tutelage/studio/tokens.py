"""A page for one's own API tokens: what there is, a new one, and taking one back."""

import time
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response

from tutelage.errors import StudioError
from tutelage.feedback.people import DAY, User
from tutelage.studio.auth import SignedIn
from tutelage.studio.caller import SCOPES, Scope, rights
from tutelage.studio.lead_view import moment
from tutelage.studio.room import Room, TheRoom
from tutelage.studio.words import _

router = APIRouter(include_in_schema=False)
DAYS = (7, 30, 90, 365)
SAID: dict[Scope, str] = {
    "label": _("answer, as you"),
    "lead": _("lead: batches, people, quality, webhooks"),
    "export": _("export labels"),
    "admin": _("administer: roles, erasing people"),
}


@router.get("/tokens")
def tokens(request: Request, user: SignedIn, room: TheRoom) -> Response:
    """Your tokens, and the form of a new one."""
    return _page(request, room, user)


@router.post("/tokens")
def issue(
    request: Request,
    user: SignedIn,
    room: TheRoom,
    name: Annotated[str, Form()] = "",
    scopes: Annotated[tuple[str, ...], Form()] = (),
    days: Annotated[int, Form()] = 90,
) -> Response:
    """Make a token; its secret is shown this once."""
    wanted = [scope for scope in SCOPES if scope in scopes]
    if not name.strip() or not wanted or days not in DAYS:
        return _page(
            request, room, user, 422, problem=room.gettext(request, _("Give it a name and something it may do."))
        )
    if not set(wanted) <= rights(user):
        raise StudioError("A token of yours may do no more than you", 403)
    _token, secret = room.entrance.issue_token(user, name.strip(), wanted, days=days)
    return _page(request, room, user, secret=secret)


@router.post("/tokens/{token}")
def revoke(user: SignedIn, room: TheRoom, token: str) -> Response:
    """Make a token void."""
    room.entrance.revoke_token(user, token)
    return RedirectResponse("/tokens", 303)


def _page(
    request: Request, room: Room, user: User, status: int = 200, *, secret: str = "", problem: str = ""
) -> Response:
    found = room.entrance.tokens(user.id)
    allowed = rights(user)
    return room.page(
        request,
        "tokens.html",
        status,
        tokens=[(one, moment(one.created), max(0, round(((one.expires or 0) - time.time()) / DAY))) for one in found],
        scopes={scope: room.gettext(request, said) for scope, said in SAID.items() if scope in allowed},
        choices=DAYS,
        secret=secret,
        problem=problem,
    )
