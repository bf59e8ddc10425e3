"""Batches for leads: what to ask, of whom and how often; how far it is; what raters remarked."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import RedirectResponse, Response
from pydantic import ValidationError

from tutelage.errors import StudioError, TutelageError
from tutelage.feedback.adjudication import Adjudication
from tutelage.feedback.oversight import Oversight
from tutelage.feedback.work import Batch, BatchSpec, State
from tutelage.studio import figures
from tutelage.studio.annotate import Fields, place_of, translator
from tutelage.studio.auth import Lead
from tutelage.studio.lead_sources import SIZES, items_of, sources
from tutelage.studio.lead_view import MOST_DAYS, batch_row, calendar, moment, named, snippet, work_rows
from tutelage.studio.lead_words import REMARKS, STATES
from tutelage.studio.room import Room, TheRoom
from tutelage.studio.view import whole
from tutelage.studio.words import TITLES

router = APIRouter(include_in_schema=False)
SHARES = ("overlap_share", "gold_share", "repeat_share", "random_share", "pass_mark")  # percent on the page
NUMBERS = ("overlap", "most_answers", "turns", "round")
NEW: Mapping[str, str] = {
    "kind": "comparison",
    "count": "200",
    "overlap": "3",
    "overlap_share": "12",
    "most_answers": "5",
    "gold_share": "4",
    "repeat_share": "2",
    "random_share": "25",
    "lease_minutes": "15",
    "turns": "6",
}


async def raters_of(request: Request) -> tuple[str, ...] | None:
    """The raters that were ticked; None where the form says that everybody may answer."""
    form = await request.form()
    ticked = tuple(one for one in form.getlist("raters") if isinstance(one, str))
    return None if form.get("who") == "everybody" else ticked


Raters = Annotated[tuple[str, ...] | None, Depends(raters_of)]


@router.get("/lead/batches")
def batches(request: Request, user: Lead, room: TheRoom) -> Response:
    """Every batch, the newest first."""
    translate = translator(room, request)
    rows = [batch_row(batch, room.batches.progress(batch.id), translate) for batch in room.batches.all()]
    return room.page(request, "lead-batches.html", batches=rows, **_words(request, room))


@router.get("/lead/batches/new")
def new_batch(request: Request, user: Lead, room: TheRoom, run: str = "") -> Response:
    """The form for a new batch; `run` is the sampling run to begin with."""
    return _form(request, room, {**NEW, **({"run": run} if run else {})}, None, None)


@router.post("/lead/batches/new")
def open_batch(request: Request, user: Lead, room: TheRoom, fields: Fields, raters: Raters) -> Response:
    """Put a batch up, or show the form again with what is wrong."""
    try:
        spec = BatchSpec.model_validate(spec_of(fields, raters))
        items = items_of(room, spec.kind, fields)
        made = room.batches.open(spec, items, user.id)
    except ValidationError as error:
        return _form(request, room, fields, raters, told(error))
    except TutelageError as error:
        if isinstance(error, StudioError) and error.status not in (404, 409, 422):
            raise
        return _form(request, room, fields, raters, room.told(request, error))
    return RedirectResponse(f"/lead/batches/{made.id}", 303)


@router.get("/lead/batches/{batch}")
def batch_page(request: Request, user: Lead, room: TheRoom, batch: str) -> Response:
    """How far a batch is, and who does it."""
    return _page(request, room, room.batches.find(batch), None)


@router.post("/lead/batches/{batch}/state")
def set_state(user: Lead, room: TheRoom, batch: str, fields: Fields) -> Response:
    """Pause, resume or close it."""
    states: dict[str, State] = {"open": "open", "paused": "paused", "closed": "closed"}
    if fields.get("state") not in states:
        raise StudioError("A batch is open, paused or closed", 422)
    room.batches.set_state(batch, states[fields["state"]], user.id)
    return RedirectResponse(f"/lead/batches/{batch}", 303)


@router.post("/lead/batches/{batch}/change")
def change(request: Request, user: Lead, room: TheRoom, batch: str, fields: Fields, raters: Raters) -> Response:
    """Change what can change while it runs."""
    kept = ("name", "deadline", "guideline", "most_answers", "gold_share", "repeat_share", "raters")
    try:
        wanted = spec_of(fields, raters)
        room.batches.change(batch, user.id, **{name: wanted.get(name) for name in kept if name in wanted})
    except ValidationError as error:
        return _page(request, room, room.batches.find(batch), told(error))
    except StudioError as error:
        if error.status != 422:
            raise
        return _page(request, room, room.batches.find(batch), room.told(request, error))
    return RedirectResponse(f"/lead/batches/{batch}", 303)


@router.post("/lead/remarks/{remark}")
def settle(user: Lead, room: TheRoom, remark: str, fields: Fields) -> Response:
    """See to a skip or flag."""
    number = whole(remark)
    if number is None:
        raise StudioError(f"There is no remark {remark[:20]}", 404)
    Adjudication(room.store).settle(user.id, number)
    batch = fields.get("batch", "")
    return RedirectResponse(f"/lead/batches/{batch}" if batch.isalnum() else "/lead/batches", 303)


def spec_of(fields: Mapping[str, str], raters: tuple[str, ...] | None) -> dict[str, Any]:
    """A BatchSpec's values from the form: percent into shares, minutes into seconds, empty fields left out.

    Raises StudioError 422 for what is no number or no moment, and where nobody is to answer.
    """
    if raters == ():
        raise StudioError("Tick those who may answer, or let everybody answer", 422)
    given = {name: value.strip() for name, value in fields.items() if value.strip()}
    spec: dict[str, Any] = {name: given[name] for name in ("name", "kind", "onboarding") if name in given}
    spec |= {name: given[name] for name in NUMBERS if name in given}
    spec |= {name: _share(given[name], name) for name in SHARES if name in given}
    if "lease_minutes" in given:
        spec["lease_seconds"] = 60 * _number(given["lease_minutes"], "lease_minutes")
    spec["deadline"] = _deadline(given.get("deadline"))
    spec["guideline"] = given.get("guideline")
    return spec | {"raters": raters}


def told(error: ValidationError) -> str:
    """What is wrong with a form, field by field."""
    return "; ".join(f"{'.'.join(map(str, one['loc'])) or 'batch'}: {one['msg']}" for one in error.errors())


def _share(value: str, name: str) -> float:
    return _number(value, name) / 100


def _number(value: str, name: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise StudioError(f"{name} is '{value}', expected a number", 422)
    return number


def _deadline(value: str | None) -> str | None:
    """The form's local time is UTC, as `deadline_of` shows it."""
    if value is None:
        return None
    try:
        return datetime.fromisoformat(value).replace(tzinfo=UTC).isoformat()
    except ValueError as error:
        raise StudioError(f"deadline is '{value}', expected a date and a time", 422) from error


def _form(
    request: Request, room: Room, values: Mapping[str, str], raters: tuple[str, ...] | None, problem: str | None
) -> Response:
    return room.page(
        request,
        "lead-batch-new.html",
        200 if problem is None else 422,
        values=dict(values),
        chosen=raters,
        problem=problem,
        sources=sources(room),
        sizes=SIZES,
        tests=[b for b in room.batches.all() if b.spec.pass_mark is not None and b.state == "open"],
        **_choices(room, raters),
        **_words(request, room),
    )


def _page(request: Request, room: Room, batch: Batch, problem: str | None) -> Response:
    translate, oversight = translator(room, request), Oversight(room.store)
    people = {one.id: one for one in room.people.all()}
    remarks = oversight.remarks(batch.id)
    daily = calendar(oversight.daily(MOST_DAYS, batch.id))
    said = translate("Answers a day over {days} days").format(days=len(daily))
    return room.page(
        request,
        "lead-batch.html",
        200 if problem is None else 422,
        row=batch_row(batch, room.batches.progress(batch.id), translate),
        place=place_of(batch.spec.kind, batch.id),
        work=work_rows(oversight.work(batch.id), people),
        remarks=[(r, named(r.user, people), translate(REMARKS[r.kind]), moment(r.created)) for r in remarks],
        daily=figures.columns(daily, said),
        days=list(daily),
        arms=oversight.arms(batch.id),
        divided=sum(not one.adjudicated for one in oversight.splits(batch.id)),
        opened=moment(batch.created),
        author=named(batch.author or "", people),
        chosen=batch.spec.raters,
        problem=problem,
        **_choices(room, batch.spec.raters),
        **_words(request, room),
    )


def _choices(room: Room, chosen: tuple[str, ...] | None) -> dict[str, Any]:
    """What a form offers: of the people those who are active, and all who are chosen already."""
    known = {one.id: one for one in room.people.all()}
    listed = dict.fromkeys([*(id for id, one in known.items() if one.active), *(chosen or ())])
    people = [(id, named(id, known), id in known and known[id].active) for id in listed]
    return {"guidelines": room.batches.guidelines(), "people": people}


def _words(request: Request, room: Room) -> dict[str, Any]:
    translate = translator(room, request)
    return {
        "titles": {kind: translate(title) for kind, title in TITLES.items()},
        "states": {state: translate(name) for state, name in STATES.items()},
        "snippet": snippet,
    }
