"""The raters' pages: what there is to do, one item after another, and their own answers to correct.

A page works without scripts: a form, a redirect, the next page. With scripts it asks for JSON and never waits.
"""

import time
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response

from tutelage.errors import StudioError
from tutelage.feedback.people import User
from tutelage.feedback.work import LONGEST_TEXT, Held, Nothing
from tutelage.studio.auth import SignedIn
from tutelage.studio.failures import wants_json
from tutelage.studio.masking import Masker
from tutelage.studio.room import Room, TheRoom
from tutelage.studio.text import markdown
from tutelage.studio.view import answer_of, done_of, task_of
from tutelage.studio.words import FLAGS, SCALE, SKIP_REASONS, TITLES, Translate, keys_of, labelled, why_not

router = APIRouter(include_in_schema=False)
RECENT = 50  # answers on the page of one's own


async def fields_of(request: Request) -> dict[str, str]:
    """The fields of the form that was sent; of several of one name, the last."""
    return {name: value for name, value in (await request.form()).multi_items() if isinstance(value, str)}


async def flags_of(request: Request) -> list[str]:
    """The flags that were ticked."""
    known = {value for value, _said in FLAGS}
    return [value for value in (await request.form()).getlist("flags") if isinstance(value, str) and value in known]


Fields = Annotated[dict[str, str], Depends(fields_of)]
Flags = Annotated[list[str], Depends(flags_of)]


def masker_of(room: Room) -> Masker:
    """Who hides the names of models: the well-known ones, and the project's."""
    return room.masker


def translator(room: Room, request: Request) -> Translate:
    """Messages in the language of whoever asks."""
    return partial(room.gettext, request)


@router.get("/")
def home(request: Request, user: SignedIn, room: TheRoom) -> Response:
    """What there is to do."""
    translate, now = translator(room, request), time.time()
    offers = [
        {
            "name": offer.name,
            "kind": offer.kind,
            "answered": offer.answered,
            "left": offer.left,
            "deadline": None if offer.deadline is None else offer.deadline.isoformat(timespec="minutes"),
            "why": None if offer.nothing is None else why_not(offer.nothing, now, translate),
            "href": place_of(offer.kind, offer.batch),
        }
        for offer in room.desk.offers(user.id)
    ]
    return room.page(request, "home.html", offers=offers, titles=titles(translate))


def place_of(kind: str, batch: str) -> str:
    """Where a batch is worked on."""
    return f"/chat/{batch}" if kind == "chat" else f"/work/{batch}"


def titles(translate: Translate) -> dict[str, str]:
    """What each kind of work is called."""
    return {kind: translate(said) for kind, said in TITLES.items()}


@router.get("/work/{batch}")
def work(request: Request, user: SignedIn, room: TheRoom, batch: str) -> Response:
    """The next item of a batch, or why there is none."""
    match room.desk.next(user.id, batch):
        case Held() as held if held.kind == "chat":
            return RedirectResponse(place_of("chat", batch), 303)
        case Held() as held:
            return _task_page(request, room, held, correcting=False)
        case Nothing() as nothing:
            return nothing_page(request, room, nothing, batch)


def nothing_page(request: Request, room: Room, nothing: Nothing, batch: str) -> Response:
    """Why there is nothing to do."""
    return room.page(
        request,
        "nothing.html",
        why=why_not(nothing, time.time(), translator(room, request)),
        again=request.url.path if nothing.reason == "leased" else None,
        onboarding=f"/work/{nothing.batch}" if nothing.reason == "onboarding" and nothing.batch else None,
    )


@router.get("/work/{batch}/item/{item}")
def item_page(request: Request, user: SignedIn, room: TheRoom, batch: str, item: str) -> Response:
    """An item that the rater has had, to correct the answer."""
    return _task_page(request, room, _held(room, user, batch, item), correcting=True)


@router.post("/work/{batch}/item/{item}")
def answer(
    request: Request, user: SignedIn, room: TheRoom, batch: str, item: str, fields: Fields, flags: Flags
) -> Response:
    """Save an answer."""
    held = _held(room, user, batch, item)
    try:
        given = answer_of(held, fields, flags, masker_of(room))
    except StudioError as error:
        raise StudioError(room.told(request, error), error.status) from error
    saved = room.desk.submit(user.id, item, key_of(fields), given, seconds_of(fields))
    return _done(
        request,
        {"saved": saved.id, "item": item, "revision": saved.revision, "again": saved.again},
        "/recent" if held.revision else f"/work/{batch}",
    )


@router.post("/work/{batch}/item/{item}/skip")
def skip(request: Request, user: SignedIn, room: TheRoom, batch: str, item: str, fields: Fields) -> Response:
    """Give an item back, with a reason."""
    reason = fields.get("reason", "")
    if reason not in {value for value, _said in SKIP_REASONS}:
        raise StudioError("A skipped item needs one of the reasons of the page", 422)
    note = fields.get("note", "").strip()[:500]
    room.desk.skip(user.id, item, f"{reason}: {note}" if note else reason)
    return _done(request, {"skipped": item}, f"/work/{batch}")


@router.post("/work/{batch}/item/{item}/flag")
def flag(request: Request, user: SignedIn, room: TheRoom, batch: str, item: str, fields: Fields) -> Response:
    """Tell the leads of something about an item."""
    text = fields.get("text", "").strip()[:2000]
    if not text:
        raise StudioError(room.gettext(request, "Say what is wrong."), 422)
    room.desk.flag(user.id, item, text)
    return _done(request, {"flagged": item}, f"/work/{batch}")


@router.post("/work/{batch}/item/{item}/draft")
def draft(user: SignedIn, room: TheRoom, batch: str, item: str, fields: Fields) -> Response:
    """Keep what is written so far."""
    body = fields.get("body", "")
    if not 0 < len(body) <= LONGEST_TEXT:
        raise StudioError(f"A draft has 1 to {LONGEST_TEXT} characters; this one has {len(body)}", 422)
    room.desk.draft(user.id, item, body)
    return JSONResponse({"kept": item})


@router.post("/work/{batch}/item/{item}/renew")
def renew(user: SignedIn, room: TheRoom, batch: str, item: str) -> Response:
    """Keep the item for longer: the page is in use."""
    return JSONResponse({"until": room.desk.renew(user.id, item)[0]})


@router.post("/work/{batch}/item/{item}/undo")
def undo(request: Request, user: SignedIn, room: TheRoom, batch: str, item: str) -> Response:
    """Take the answer to an item back; the item is in the rater's hands again, filled in as it was."""
    room.desk.take_back(user.id, item)
    return _done(request, {"undone": item}, f"/work/{batch}/item/{item}")


@router.get("/recent")
def recent(request: Request, user: SignedIn, room: TheRoom) -> Response:
    """The rater's own answers."""
    translate = translator(room, request)
    answers = [done_of(one, translate) for one in room.desk.recent(user.id, RECENT)]
    return room.page(request, "recent.html", answers=answers)


def _held(room: Room, user: User, batch: str, item: str) -> Held:
    held = room.desk.held(user.id, item)
    if held.batch != batch:
        raise StudioError("This batch has no such item", 404)
    return held


def task_values(request: Request, room: Room, held: Held, *, correcting: bool) -> dict[str, Any]:
    """What the template of an item takes."""
    translate = translator(room, request)
    return {
        "task": task_of(held, masker_of(room)),
        "titles": titles(translate),
        "scale": [(value, translate(said)) for value, said in SCALE],
        "flags": labelled(FLAGS, translate),
        "correcting": correcting,
        "brought": None,
    }


def _task_page(request: Request, room: Room, held: Held, *, correcting: bool) -> Response:
    translate = translator(room, request)
    return room.page(
        request,
        "task.html",
        **task_values(request, room, held, correcting=correcting),
        guideline=guideline_of(room, held.guideline),
        skip_reasons=labelled(SKIP_REASONS, translate),
        keys=keys_of(held.kind, translate),
    )


def guideline_of(room: Room, id: str | None) -> dict[str, Any] | None:
    """A version of a guideline, to stand beside the task."""
    if id is None:
        return None
    found = room.batches.guideline(id)
    return {"title": found.title, "version": found.version, "html": markdown(found.text).html}


def key_of(fields: dict[str, str]) -> str:
    """The key of a submission: the same key is the same submission."""
    key = fields.get("key", "")
    if not 0 < len(key) <= 64:
        raise StudioError("The form has no key: reload the page", 422)
    return key


def seconds_of(fields: dict[str, str]) -> float | None:
    """The active seconds that the page counted, where it has scripts."""
    try:
        seconds = float(fields.get("seconds", ""))
    except ValueError:
        return None
    return seconds if 0 <= seconds < 86_400 else None


def _done(request: Request, told: dict[str, Any], place: str) -> Response:
    return JSONResponse(told) if wants_json(request) else RedirectResponse(place, 303)
