"""Live chat: the project's current model gives two replies, the rater chooses, the chosen one goes on.

Replies stream as lines of JSON: `{"more": [left, right]}` with what each gained, then `{"html": …}` with the page's
form as it is with both replies whole. Without scripts the page waits for them and is shown again.
"""

import json
from collections.abc import AsyncIterator
from functools import cache
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool

from tutelage.errors import StudioError, TutelageError
from tutelage.feedback.conversation import Conversation, Conversations
from tutelage.feedback.people import User
from tutelage.feedback.work import LONGEST_TEXT, Held, Nothing
from tutelage.folder import ProjectFolder
from tutelage.records import Prompt, new_id
from tutelage.studio.annotate import (
    Fields,
    guideline_of,
    key_of,
    masker_of,
    nothing_page,
    place_of,
    seconds_of,
    titles,
    translator,
)
from tutelage.studio.auth import SignedIn
from tutelage.studio.failures import wants_json
from tutelage.studio.room import Room, TheRoom
from tutelage.studio.speaker import Growing, ProjectVoice, Speaker
from tutelage.studio.text import markdown
from tutelage.studio.view import Piece, preference_of, turns_of, whole
from tutelage.studio.words import SKIP_REASONS, keys_of, labelled

router = APIRouter(include_in_schema=False)


@cache
def _speaker(project: ProjectFolder) -> Speaker:
    return Speaker(ProjectVoice(project))


def speaker_of(room: TheRoom) -> Speaker:
    """The project's model. Raises StudioError 503 where the studio runs over a database alone."""
    if room.project is None:
        raise StudioError("This studio has no project, so no model can speak here: start it in a project folder", 503)
    return _speaker(room.project)


TheSpeaker = Annotated[Speaker, Depends(speaker_of)]


@router.get("/chat/{batch}")
def chat(request: Request, user: SignedIn, room: TheRoom, batch: str) -> Response:
    """The conversation at hand, or the next one."""
    match room.desk.next(user.id, batch):
        case Held() as held if held.kind != "chat":
            return RedirectResponse(place_of(held.kind, batch), 303)
        case Held() as held:
            translate, here = translator(room, request), Conversations(room.store).of(user.id, held.id)
            return room.page(
                request,
                "chat.html",
                **_values(request, room, here, held.draft),
                guideline=guideline_of(room, held.guideline),
                skip_reasons=labelled(SKIP_REASONS, translate),
                keys=keys_of("chat", translate),
            )
        case Nothing() as nothing:
            return nothing_page(request, room, nothing, batch)


@router.post("/chat/{batch}/item/{item}/say")
async def say(
    request: Request, user: SignedIn, room: TheRoom, speaker: TheSpeaker, batch: str, item: str, fields: Fields
) -> Response:
    """Say something, or have the model reply to what was asked: two replies, as they grow."""
    said = fields.get("text", "").replace("\r\n", "\n")[:LONGEST_TEXT]
    here = await run_in_threadpool(Conversations(room.store).of, user.id, item)
    try:
        prompt = here.asking(said)
    except StudioError as error:
        raise StudioError(room.told(request, error), error.status) from error
    growing = speaker.replies(prompt)
    first = await anext(growing)  # what is wrong with the model is an answer of its own, not the end of a stream
    if wants_json(request):
        lines = _lines(request, room, user, item, prompt, first, growing)
        return StreamingResponse(lines, media_type="application/x-ndjson", headers={"x-accel-buffering": "no"})
    grown = [first, *[step async for step in growing]]
    await run_in_threadpool(_offer, room, user, item, prompt, grown[-1])
    return RedirectResponse(f"/chat/{batch}", 303)


@router.post("/chat/{batch}/item/{item}/choose")
def choose(request: Request, user: SignedIn, room: TheRoom, batch: str, item: str, fields: Fields) -> Response:
    """Choose between two replies; the better one goes on."""
    number = whole(fields.get("number", ""))
    if number is None:
        raise StudioError("The form does not say which turn it is about: reload the page", 422)
    try:
        ranks = preference_of(fields)
    except StudioError as error:
        raise StudioError(room.told(request, error), error.status) from error
    here = Conversations(room.store).choose(
        user.id, item, number, key=key_of(fields), ranks=ranks, seconds=seconds_of(fields)
    )
    return _next(request, room, here)


@router.post("/chat/{batch}/item/{item}/end")
def end(request: Request, user: SignedIn, room: TheRoom, batch: str, item: str) -> Response:
    """Close the conversation."""
    try:
        return _next(request, room, Conversations(room.store).close(user.id, item))
    except StudioError as error:
        raise StudioError(room.told(request, error), error.status) from error


def _next(request: Request, room: Room, here: Conversation) -> Response:
    place = f"/chat/{here.batch}"
    if not wants_json(request):
        return RedirectResponse(place, 303)
    return JSONResponse({"next": place} if here.closed else {"html": _form(request, room, here)})


async def _lines(
    request: Request,
    room: Room,
    user: User,
    item: str,
    prompt: Prompt,
    first: Growing,
    growing: AsyncIterator[Growing],
) -> AsyncIterator[str]:
    """The stream: names are hidden before anything is sent, and the last characters wait until that is certain."""
    masker, sent = masker_of(room), ["", ""]
    last = first
    try:
        while last.done is None:
            shown = [masker.growing(text) for text in last.texts]
            more = [now[len(before) :] for now, before in zip(shown, sent, strict=True)]
            if any(more):
                sent = shown
                yield json.dumps({"more": more}) + "\n"
            last = await anext(growing)
        here = await run_in_threadpool(_offer, room, user, item, prompt, last)
        yield json.dumps({"html": await run_in_threadpool(_form, request, room, here)}) + "\n"
    except TutelageError as error:
        yield json.dumps({"error": room.told(request, error)}) + "\n"


def _offer(room: Room, user: User, item: str, prompt: Prompt, last: Growing) -> Conversation:
    assert last.done is not None
    return Conversations(room.store).offer(user.id, item, prompt, last.done)


def _form(request: Request, room: Room, here: Conversation) -> str:
    return bytes(room.page(request, "conversation.html", **_values(request, room, here, None)).body).decode()


def _values(request: Request, room: Room, here: Conversation, draft: str | None) -> dict[str, Any]:
    masker = masker_of(room)
    return {
        "talk": here,
        "key": new_id(),
        "draft": draft,
        "asked": turns_of(here.messages, masker),
        "pieces": [Piece(i, "AB"[i], markdown(masker.whole(text))) for i, text in enumerate(here.texts)],
        "titles": titles(translator(room, request)),
    }
