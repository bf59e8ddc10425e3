"""The audit trail, guidelines, exports and backups."""

import tempfile
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, RedirectResponse, Response
from starlette.background import BackgroundTask

from tutelage.feedback.audit import Entry, entries, note
from tutelage.feedback.backup import back_up, backup_name
from tutelage.studio.annotate import Fields, translator
from tutelage.studio.auth import Admin, Lead
from tutelage.studio.lead_view import moment, named
from tutelage.studio.lead_words import ACTIONS, FORMATS, NO, YES
from tutelage.studio.room import TheRoom
from tutelage.studio.text import markdown
from tutelage.studio.words import Translate

router = APIRouter(include_in_schema=False)
PAGE = 100
LATEST = 2**62


@router.get("/lead/trail")
def trail(
    request: Request, user: Lead, room: TheRoom, before: int = LATEST, person: str = "", action: str = ""
) -> Response:
    """Who did what, the newest first."""
    translate = translator(room, request)
    people = {one.id: one for one in room.people.all()}
    names = {batch.id: batch.spec.name for batch in room.batches.all()} | {id: one.name for id, one in people.items()}
    wanted = (action,) if action in ACTIONS else ()
    last = min(max(before, 0), LATEST)
    found = entries(room.store, before=last, limit=PAGE, user=person or None, actions=wanted)
    actions = {name: translate(said) for name, said in ACTIONS.items()}
    return room.page(
        request,
        "lead-trail.html",
        lines=[
            (moment(e.created), named(e.user or translate("the console"), people), _done(e, actions), e) for e in found
        ],
        named=lambda id: names.get(id) or (id if len(id) < 32 else f"{id[:8]}…"),
        detailed=lambda value: _detail(value, translate),
        older=found[-1].n if len(found) == PAGE else None,
        people=list(people.values()),
        actions=actions,
        person=person,
        action=action,
    )


@router.get("/lead/guidelines")
def guidelines(request: Request, user: Lead, room: TheRoom, show: str = "") -> Response:
    """Every guideline, the newest version of each first."""
    found = room.batches.guidelines()
    people = {one.id: one for one in room.people.all()}
    chosen = room.batches.guideline(show) if show else (found[0] if found else None)
    return room.page(
        request,
        "lead-guidelines.html",
        guidelines=found,
        chosen=chosen,
        html="" if chosen is None else markdown(chosen.text).html,
        author="" if chosen is None else named(chosen.author or "", people),
        created="" if chosen is None else moment(chosen.created),
    )


@router.post("/lead/guidelines")
def add_guideline(user: Lead, room: TheRoom, fields: Fields) -> Response:
    """A new guideline, or a new version."""
    made = room.batches.add_guideline(fields.get("title", ""), fields.get("text", "").replace("\r\n", "\n"), user.id)
    return RedirectResponse(f"/lead/guidelines?show={made.id}", 303)


@router.get("/lead/export")
def export_page(request: Request, user: Lead, room: TheRoom) -> Response:
    """Exports for those who may, and the backup for administrators."""
    translate = translator(room, request)
    people = {one.id: one for one in room.people.all()}
    done = entries(room.store, actions=("export", "backup"), limit=20)
    return room.page(
        request,
        "lead-export.html",
        formats={name: translate(said) for name, said in FORMATS.items()},
        done=[(moment(e.created), named(e.user or "", people), translate(ACTIONS[e.action]), e) for e in done],
    )


@router.post("/lead/backup")
def backup(user: Admin, room: TheRoom) -> Response:
    """The whole database as a file, people's password hashes and all: for administrators, and on the record."""
    note(room.store, user.id, "backup")
    folder = tempfile.TemporaryDirectory(prefix="tutelage-backup-")
    path = Path(folder.name) / backup_name(room.store.engine.url)
    try:
        back_up(room.store.engine.url, path)
    except BaseException:
        folder.cleanup()
        raise
    return FileResponse(
        path, filename=path.name, media_type="application/octet-stream", background=BackgroundTask(folder.cleanup)
    )


def _detail(value: object, translate: Translate) -> str:
    """A detail of an entry, as people write it."""
    match value:
        case bool():
            return translate(YES if value else NO)
        case list():
            return ", ".join(map(str, value)) or "–"
        case _:
            return "–" if value is None else str(value)


def _done(entry: Entry, actions: dict[str, str]) -> str:
    return actions.get(entry.action, entry.action)
