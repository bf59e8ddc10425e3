"""The leads' pages: the overview, and the list of all others.

A lead sees what raters must not: who said what, and which model wrote it. Every route asks for the role.
"""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from tutelage import history
from tutelage.feedback.oversight import Oversight
from tutelage.studio import figures, lead_batches, lead_cases, lead_people, lead_quality, lead_samples, lead_trail
from tutelage.studio.annotate import translator
from tutelage.studio.auth import Lead
from tutelage.studio.lead_view import MOST_DAYS, batch_row, calendar, moment
from tutelage.studio.lead_words import STATES
from tutelage.studio.room import TheRoom
from tutelage.studio.words import TITLES

router = APIRouter(include_in_schema=False)
for part in (lead_batches, lead_cases, lead_people, lead_quality, lead_samples, lead_trail):
    router.include_router(part.router)
RUNS = 8


@router.get("/lead")
def overview(request: Request, user: Lead, room: TheRoom) -> Response:
    """How the project stands."""
    translate, oversight = translator(room, request), Oversight(room.store)
    daily = calendar(oversight.daily(MOST_DAYS))
    open_batches = [b for b in room.batches.all() if b.state != "closed"]
    runs = [] if room.project is None else history.list_runs(room.project.runs)[:RUNS]
    said = translate("Answers a day over {days} days").format(days=len(daily))
    return room.page(
        request,
        "lead-overview.html",
        project=None if room.project is None else room.project.path.resolve().name,
        counts={kind: room.store.count(kind) for kind in ("prompts", "demonstrations", "comparisons", "ratings")},
        batches=[batch_row(b, room.batches.progress(b.id), translate) for b in open_batches],
        daily=figures.columns(daily, said),
        days=list(daily),
        answers=sum(daily.values()),
        divided=sum(not one.adjudicated for one in oversight.splits()),
        remarks=len(oversight.remarks()),
        people=sum(one.active for one in room.people.all()),
        runs=[(run, moment(run.started)) for run in runs],
        titles={kind: translate(title) for kind, title in TITLES.items()},
        states={state: translate(name) for state, name in STATES.items()},
    )
