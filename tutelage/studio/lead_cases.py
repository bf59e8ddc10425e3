"""Where raters disagree, side by side: for discussion, and for a lead to decide."""

from collections.abc import Mapping

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from tutelage.errors import StudioError
from tutelage.feedback.adjudication import Adjudication
from tutelage.feedback.oversight import Case, Oversight, Split
from tutelage.feedback.work import Kind, Ranked, Rated
from tutelage.studio import figures
from tutelage.studio.annotate import Fields, translator
from tutelage.studio.auth import Lead
from tutelage.studio.lead_view import case_view, moment, named, snippet
from tutelage.studio.room import TheRoom
from tutelage.studio.words import TITLES

router = APIRouter(include_in_schema=False)
SHOWN = 100
SCORED: tuple[Kind, ...] = ("rating",)


@router.get("/lead/disagreements")
def disagreements(request: Request, user: Lead, room: TheRoom, batch: str = "") -> Response:
    """Items on which answers differ, the most divided first."""
    translate, oversight = translator(room, request), Oversight(room.store)
    splits = oversight.splits(batch or None)
    shown = splits[:SHOWN]
    prompts = oversight.prompts(one.prompt for one in shown)
    return room.page(
        request,
        "lead-cases.html",
        batches=room.batches.all(),
        batch=batch,
        total=len(splits),
        open=sum(not one.adjudicated for one in splits),
        cases=[(one, snippet(prompts[one.prompt].messages[-1].content), _degree(one)) for one in shown],
        titles={kind: translate(title) for kind, title in TITLES.items()},
    )


@router.get("/lead/disagreements/{item}")
def case(request: Request, user: Lead, room: TheRoom, item: str) -> Response:
    """One item: what it asked, what everybody said, what was said about it, and a decision."""
    translate, oversight = translator(room, request), Oversight(room.store)
    found = oversight.case(item)
    people = {one.id: one for one in room.people.all()}
    waiting = [one.item for one in oversight.splits(found.batch) if not one.adjudicated]
    following = [other for other in waiting if other != item]
    place = waiting.index(item) if item in waiting else -1
    return room.page(
        request,
        "lead-case.html",
        view=case_view(found, people, translate),
        batch=room.batches.find(found.batch),
        remarks=[(one, named(one.user, people), moment(one.created)) for one in found.remarks],
        following=None if not following else following[place % len(following)],
        left=len(waiting),
        decider="" if found.adjudicated is None else named(found.adjudicated.rater, people),
        title=translate(TITLES[found.kind]),
    )


@router.post("/lead/disagreements/{item}/comment")
def comment(user: Lead, room: TheRoom, item: str, fields: Fields) -> Response:
    """Say something about it."""
    Adjudication(room.store).comment(user.id, item, fields.get("text", "")[:10_000])
    return RedirectResponse(f"/lead/disagreements/{item}", 303)


@router.post("/lead/disagreements/{item}")
def decide(request: Request, user: Lead, room: TheRoom, item: str, fields: Fields) -> Response:
    """Decide it: the lead's answer becomes a label of theirs."""
    found = Oversight(room.store).case(item)
    answer = _answer(found, fields)
    if answer is None:
        raise StudioError(room.gettext(request, "Choose an answer first."), 422)
    Adjudication(room.store).decide(user.id, item, answer)
    return RedirectResponse(f"/lead/disagreements/{item}", 303)


def _answer(found: Case, fields: Mapping[str, str]) -> Ranked | Rated | None:
    """Ranks made consecutive, or a score; None where something is missing."""
    if found.kind in SCORED:
        score = _digit(fields.get("score", ""), 7)
        return None if score is None else Rated(score=score)
    k = len(found.completions)
    ranks = [_digit(fields.get(f"rank-{i}", ""), k) for i in range(k)]
    given = [rank for rank in ranks if rank is not None]
    if len(given) < k or k < 2:
        return None
    order = sorted(set(given))
    return Ranked(ranks=tuple(order.index(rank) + 1 for rank in given))


def _digit(value: str, most: int) -> int | None:
    return int(value) if len(value) == 1 and value in "123456789"[:most] else None


def _degree(split: Split) -> str:
    """How divided, as a bar."""
    return figures.bar([("held", round(100 * split.degree))], 100, f"{split.degree:.0%}")
