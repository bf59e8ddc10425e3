"""People for leads: who they are, what they may, what they cost; invitations."""

import math
import time
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from tutelage.errors import StudioError
from tutelage.feedback.erasure import Erased, erase
from tutelage.feedback.people import Role, User
from tutelage.studio.annotate import Fields, translator
from tutelage.studio.auth import Admin, Lead
from tutelage.studio.lead_view import moment, named
from tutelage.studio.lead_words import ROLES
from tutelage.studio.room import Room, TheRoom

router = APIRouter(include_in_schema=False)


@router.get("/lead/people")
def people(request: Request, user: Lead, room: TheRoom) -> Response:
    """Everybody, and the invitations that are open."""
    return _page(request, room, user)


@router.post("/lead/people/invite")
def invite(request: Request, user: Lead, room: TheRoom, fields: Fields) -> Response:
    """Make an invitation; its link is shown this once."""
    roles: dict[str, Role] = {"rater": "rater", "lead": "lead", "admin": "admin"}
    role = roles.get(fields.get("role", ""))
    if role is None:
        raise StudioError("Choose a role", 422)
    _, token = room.people.invite(
        user,
        role,
        may_export="may_export" in fields,
        note=fields.get("note", ""),
        days=room.settings.invitation_days,
    )
    base = (room.settings.url or str(request.base_url)).rstrip("/")
    return _page(request, room, user, link=f"{base}/join/{token}", note=fields.get("note", ""))


@router.post("/lead/people/invitations/{invitation}")
def revoke(user: Lead, room: TheRoom, invitation: str) -> Response:
    """Take an invitation back."""
    room.people.revoke(user, invitation)
    return RedirectResponse("/lead/people", 303)


@router.post("/lead/people/{person}")
def change(user: Lead, room: TheRoom, person: str, fields: Fields) -> Response:
    """Change what the form of a person says; who may change what, the people know."""
    before = room.people.find(person)
    wanted: dict[str, Any] = {"active": "active" in fields, "hourly_cost": _cost(fields.get("hourly_cost", ""))}
    if user.at_least("admin"):
        wanted |= {"role": fields.get("role", before.role), "may_export": "may_export" in fields}
    now: dict[str, Any] = {"active": before.active, "hourly_cost": before.hourly_cost}
    now |= {"role": before.role, "may_export": before.may_export}
    changed = {name: value for name, value in wanted.items() if now[name] != value}
    if changed:
        room.people.change(user, person, **changed)
    return RedirectResponse("/lead/people", 303)


@router.post("/lead/people/{person}/sign-out")
def sign_out(user: Admin, room: TheRoom, person: str) -> Response:
    """Sign somebody out everywhere."""
    room.entrance.revoke_sessions(user, room.people.find(person).id)
    return RedirectResponse("/lead/people", 303)


@router.post("/lead/people/{person}/erase")
def erase_person(request: Request, user: Admin, room: TheRoom, person: str, fields: Fields) -> Response:
    """Forget who somebody is; their labels stay under the id, or go too. Says which runs learned from them."""
    found = room.people.find(person)
    if fields.get("sure") != found.name:
        raise StudioError(room.gettext(request, "To erase somebody, write their name as it stands there."), 422)
    runs = None if room.project is None else room.project.runs
    erased = erase(room.store, user, person, keep_labels="keep_labels" in fields, runs=runs)
    return _page(request, room, user, erased=erased)


def _cost(value: str) -> float | None:
    if not value.strip():
        return None
    try:
        cost = float(value)
    except ValueError:
        cost = math.nan
    if not 0 <= cost <= 1e6:
        raise StudioError(f"The cost of an hour is '{value}', expected a number from 0 to 1,000,000", 422)
    return cost


def _page(
    request: Request, room: Room, user: User, *, link: str = "", note: str = "", erased: Erased | None = None
) -> Response:
    translate, everybody = translator(room, request), room.people.all()
    by_id = {one.id: one for one in everybody}
    pending = [one for one in room.people.invitations() if one.used_by is None and not one.revoked]
    return room.page(
        request,
        "lead-people.html",
        people=[(one, moment(one.created)) for one in everybody],
        invitations=[(one, named(one.author or "", by_id)) for one in pending if one.expires > time.time()],
        days=lambda one: max(0, math.ceil((one.expires - time.time()) / 86_400)),
        roles={role: translate(name) for role, name in ROLES.items()},
        may_change=lambda one: user.at_least("admin") or one.role == "rater",
        link=link,
        note=note,
        erased=erased,
    )
