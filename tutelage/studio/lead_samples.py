"""Sampling runs for leads: which prompts, model and sampling; how far a run is; from there to a batch."""

from collections.abc import Mapping

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response
from pydantic import ValidationError

from tutelage.errors import StudioError
from tutelage.studio.annotate import Fields, translator
from tutelage.studio.auth import Lead
from tutelage.studio.lead_batches import told
from tutelage.studio.lead_view import moment
from tutelage.studio.lead_words import RUNS
from tutelage.studio.room import Room, TheRoom
from tutelage.studio.sampling import Wanted

router = APIRouter(include_in_schema=False)


@router.get("/lead/samples")
def samples(request: Request, user: Lead, room: TheRoom) -> Response:
    """What was sampled, what is being sampled, and the form for more."""
    return _page(request, room, {}, room.sampling.problem)


@router.post("/lead/samples")
def sample(request: Request, user: Lead, room: TheRoom, fields: Fields) -> Response:
    """Begin a sampling run."""
    given = {name: value.strip() for name, value in fields.items() if value.strip() and name in Wanted.model_fields}
    try:
        room.sampling.start(user.id, Wanted.model_validate(given))
    except ValidationError as error:
        return _page(request, room, fields, told(error), 422)
    except StudioError as error:
        return _page(request, room, fields, room.told(request, error), error.status)
    return RedirectResponse("/lead/samples", 303)


def _page(request: Request, room: Room, values: Mapping[str, str], problem: str, status: int = 200) -> Response:
    translate = translator(room, request)
    defaults = {name: field.default for name, field in Wanted.model_fields.items()}
    jobs = room.sampling.jobs()
    return room.page(
        request,
        "lead-samples.html",
        status,
        values=defaults | dict(values),
        problem=problem,
        policies=room.sampling.policies(),
        prompts=room.store.count("prompts"),
        jobs=[(job, translate(RUNS[job.run.status]), moment(job.run.started)) for job in jobs],
        going=any(job.run.status == "running" for job in jobs),
    )
