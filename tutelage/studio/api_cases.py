"""The API for leads who look closely: where raters disagree, what they remarked, a decision; and erasing a person."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import Field

from tutelage.feedback.adjudication import Adjudication
from tutelage.feedback.erasure import Erased, erase
from tutelage.feedback.oversight import Case, Oversight, Remark, Said, Split
from tutelage.feedback.work import Kind, Ranked, Rated, Saved
from tutelage.records import Prompt, Record
from tutelage.studio.annotate import masker_of
from tutelage.studio.api_work import Reasoned
from tutelage.studio.caller import ForAdmin, ForLead
from tutelage.studio.problem import PROBLEMS
from tutelage.studio.room import TheRoom

router = APIRouter(tags=["disagreements"], responses=PROBLEMS)
Id = Annotated[str, Path(min_length=1, max_length=64)]


@dataclass(frozen=True)
class Divided:
    """An item with all that was said of it; its texts in the item's own order, without who wrote them."""

    item: str
    batch: str
    kind: Kind
    prompt: Prompt
    texts: tuple[str, ...]
    said: tuple[Said, ...]
    adjudicated: Said | None
    remarks: tuple[Remark, ...]


class Decision(Record):
    """A lead's answer, with ranks in the item's own order."""

    answer: Annotated[Ranked | Rated, Field(discriminator="type")]


class Settled(Record):
    """Whether a lead has seen to a remark."""

    settled: bool = True


@router.get("/disagreements")
def disagreements(
    user: ForLead,
    room: TheRoom,
    batch: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[Split]:
    """Items on which answers differ, the most divided first."""
    return Oversight(room.store).splits(batch)[:limit]


@router.get("/disagreements/{item}")
def case(item: Id, user: ForLead, room: TheRoom) -> Divided:
    """One item: what it asked, what everybody said, and what was said about it."""
    return _divided(Oversight(room.store).case(item), room)


@router.post("/disagreements/{item}/comment", status_code=204)
def comment(item: Id, said: Reasoned, user: ForLead, room: TheRoom) -> None:
    """Say something about it."""
    Adjudication(room.store).comment(user.id, item, said.text)


@router.post("/disagreements/{item}/decision")
def decide(item: Id, decision: Decision, user: ForLead, room: TheRoom) -> Saved:
    """Decide it: your answer becomes a label of yours, and replaces your earlier decision."""
    return Adjudication(room.store).decide(user.id, item, decision.answer)


@router.get("/remarks")
def remarks(
    user: ForLead,
    room: TheRoom,
    batch: Annotated[str | None, Query(max_length=64)] = None,
    settled: bool = False,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> list[Remark]:
    """Skips and flags, the newest first: those that wait for a lead, or those one has seen to."""
    return Oversight(room.store).remarks(batch, settled=settled, limit=limit)


@router.put("/remarks/{remark}", status_code=204)
def settle(remark: Annotated[int, Path(ge=0, lt=2**62)], wanted: Settled, user: ForLead, room: TheRoom) -> None:
    """Mark a skip or flag as seen to, or as open again."""
    Adjudication(room.store).settle(user.id, remark, settled=wanted.settled)


@router.delete("/people/{person}", tags=["people"])
def erase_person(person: Id, user: ForAdmin, room: TheRoom, keep_labels: bool = True) -> Erased:
    """Erase who somebody is. Their labels stay under a pseudonym, or go too; runs that learned from them are named."""
    runs = None if room.project is None else room.project.runs
    return erase(room.store, user, person, keep_labels=keep_labels, runs=runs)


def _divided(found: Case, room: TheRoom) -> Divided:
    hidden = masker_of(room).whole
    return Divided(
        item=found.item,
        batch=found.batch,
        kind=found.kind,
        prompt=found.prompt,
        texts=tuple(hidden(completion.text) for completion in found.completions),
        said=tuple(found.said),
        adjudicated=found.adjudicated,
        remarks=tuple(found.remarks),
    )
