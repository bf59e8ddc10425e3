"""What a page of work has at hand: items read ahead, kept, given back, so that it goes on without a network.

The page fetches as many as ten minutes at its rater's pace need, a few in one request, and keeps itself with all of
them in the browser (static/offline.js); `worker.js` shows what it kept where the studio cannot be reached.
"""

import time
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, JSONResponse, Response

from tutelage.feedback.assignment import FEW_AHEAD, MOST_AHEAD
from tutelage.feedback.work import Held, Nothing
from tutelage.studio.annotate import Fields, guideline_of, task_values, translator
from tutelage.studio.auth import SignedIn
from tutelage.studio.room import TheRoom
from tutelage.studio.words import why_not

router = APIRouter(include_in_schema=False)
WORKER = Path(__file__).parent / "static" / "worker.js"
TOGETHER = 5  # items of one request


@router.get("/work/worker.js")
def worker() -> Response:
    """The script that shows kept pages without a network: it may speak for what is below its own address."""
    return FileResponse(WORKER, media_type="text/javascript")


@router.get("/work/{batch}/ahead")
def ahead(
    request: Request,
    user: SignedIn,
    room: TheRoom,
    batch: str,
    besides: str = "",
    hand: int = 1,
    want: int = 1,
    guideline: str = "",
) -> Response:
    """More items for a page with `hand` of them, as JSON: their HTML, and where there is nothing more, why.

    Fewer than it wants, and no reason: it has its share of what is left. An item brings its guideline along where the
    page came with another one than `guideline`, so that it can be shown without a network.
    """
    mine, made = _named(besides), list[str]()
    most = FEW_AHEAD if hand + want <= FEW_AHEAD else room.desk.allowance(batch)
    for _ in range(min(want, TOGETHER, most - hand)):
        match room.desk.next(user.id, batch, besides=mine):
            case Held() as held:
                values = task_values(request, room, held, correcting=False)
                if held.guideline != (guideline or None):
                    values["brought"] = guideline_of(room, held.guideline)
                page = room.page(request, "item.html", **values)
                made.append(bytes(page.body).decode())
                mine = (*mine, held.id)
            case Nothing() as nothing:
                why = why_not(nothing, time.time(), translator(room, request))
                return JSONResponse({"items": made, "nothing": why})
    return JSONResponse({"items": made, "nothing": None})


@router.post("/work/{batch}/renew")
def renew(user: SignedIn, room: TheRoom, batch: str, fields: Fields) -> Response:
    """Keep every item of a page for longer: it is in use."""
    items = _named(fields.get("items", ""))
    return JSONResponse({"until": dict(zip(items, room.desk.renew(user.id, *items), strict=True))})


@router.post("/work/{batch}/give-back")
def give_back(user: SignedIn, room: TheRoom, batch: str, fields: Fields) -> Response:
    """Let go of what a page had read ahead: it is closed."""
    room.desk.give_back(user.id, *_named(fields.get("items", "")))
    return JSONResponse({})


def _named(items: str) -> tuple[str, ...]:
    return tuple(one for one in items.split(",") if one)[:MOST_AHEAD]
