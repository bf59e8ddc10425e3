"""The API for those who lead: batches, guidelines, prompts, how good the labels are, people, the audit trail."""

from dataclasses import asdict, dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Body, Path, Query
from pydantic import Field, ValidationError

from tutelage.errors import DataError, StudioError
from tutelage.feedback.audit import Entry, entries
from tutelage.feedback.batches import Guideline, Progress
from tutelage.feedback.people import Invitation, Language, Role, User
from tutelage.feedback.work import LONGEST_TEXT, Batch, BatchSpec, NewItem, State
from tutelage.quality.summary import of_store
from tutelage.records import Prompt, Record, Split
from tutelage.studio.caller import ForAdmin, ForLabels, ForLead, TheCaller
from tutelage.studio.problem import PROBLEMS, Fault
from tutelage.studio.room import TheRoom

router = APIRouter(responses=PROBLEMS)
Id = Annotated[str, Path(min_length=1, max_length=64)]
MOST_ITEMS = 100_000


class NewBatch(Record):
    """Questions to put up."""

    spec: BatchSpec
    items: tuple[NewItem, ...] = Field(min_length=1, max_length=MOST_ITEMS)


class NewState(Record):
    """What becomes of a batch."""

    state: State


class NewGuideline(Record):
    """A guideline, or a new version of the one of this title."""

    title: str = Field(min_length=1, max_length=200)
    text: str = Field(min_length=1, max_length=LONGEST_TEXT)
    """Markdown."""


class NewPrompts(Record):
    """Prompts for the store."""

    prompts: tuple[Prompt, ...] = Field(min_length=1, max_length=10_000)


@dataclass(frozen=True)
class Added:
    """What became of what was sent."""

    added: int
    known: int
    """Those that were in the store already."""


class NewInvitation(Record):
    """Somebody to be invited."""

    role: Role = "rater"
    may_export: bool = False
    note: str = Field(default="", max_length=200)
    """Whom it is for."""


@dataclass(frozen=True)
class MadeInvitation:
    """An invitation and its token, which is told this once: it belongs at the end of `/join/`."""

    invitation: Invitation
    token: str


class Changes(Record):
    """What to change about a person; what is left out stays."""

    name: str | None = Field(default=None, min_length=1, max_length=100)
    language: Language | None = None
    role: Role | None = None
    may_export: bool | None = None
    active: bool | None = None
    hourly_cost: float | None = Field(default=None, ge=0, le=1e6)


@router.get("/batches", tags=["batches"])
def batches(user: ForLead, room: TheRoom) -> list[Batch]:
    """Every batch, newest first."""
    return room.batches.all()


@router.post("/batches", status_code=201, tags=["batches"])
def open_batch(wanted: NewBatch, user: ForLead, room: TheRoom) -> Batch:
    """Put a batch up. Overlap and places in the queue are drawn here."""
    return room.batches.open(wanted.spec, wanted.items, user.id)


@router.get("/batches/{batch}", tags=["batches"])
def batch(batch: Id, user: ForLead, room: TheRoom) -> Batch:
    """One batch."""
    return room.batches.find(batch)


@router.patch("/batches/{batch}", tags=["batches"])
def change_batch(
    batch: Id, changes: Annotated[dict[str, Any], Body(min_length=1)], user: ForLead, room: TheRoom
) -> Batch:
    """Change fields of its spec; what items were drawn by cannot change any more."""
    if unknown := sorted(changes.keys() - BatchSpec.model_fields.keys()):
        fields = ", ".join(BatchSpec.model_fields)
        raise StudioError(f"A batch has no {', '.join(unknown)}: its fields are {fields}", 422)
    try:
        return room.batches.change(batch, user.id, **changes)
    except ValidationError as error:
        faults = [Fault(where=".".join(map(str, e["loc"])), what=e["msg"]) for e in error.errors(include_url=False)]
        raise StudioError("; ".join(f"{fault.where}: {fault.what}" for fault in faults), 422) from error


@router.put("/batches/{batch}/state", tags=["batches"])
def set_state(batch: Id, wanted: NewState, user: ForLead, room: TheRoom) -> Batch:
    """Open, pause or close it. What raters hold is still taken."""
    return room.batches.set_state(batch, wanted.state, user.id)


@router.get("/batches/{batch}/progress", tags=["batches"])
def progress(batch: Id, user: ForLead, room: TheRoom) -> Progress:
    """How far it is, counted now."""
    return room.batches.progress(room.batches.find(batch).id)


@router.put("/batches/{batch}/priorities", tags=["batches"])
def prioritise(
    batch: Id, priorities: Annotated[dict[str, float], Body(max_length=MOST_ITEMS)], user: ForLead, room: TheRoom
) -> int:
    """Reorder what is left by how much each answer would teach (item's id → value). Returns how many items moved."""
    return room.batches.prioritise(batch, priorities)


@router.get("/guidelines", tags=["guidelines"])
def guidelines(user: ForLead, room: TheRoom) -> list[Guideline]:
    """Every version of every guideline."""
    return room.batches.guidelines()


@router.post("/guidelines", status_code=201, tags=["guidelines"])
def add_guideline(wanted: NewGuideline, user: ForLead, room: TheRoom) -> Guideline:
    """A new version; the same text again is the version that there is."""
    return room.batches.add_guideline(wanted.title, wanted.text, user.id)


@router.get("/guidelines/{guideline}", tags=["guidelines"])
def guideline(guideline: Id, user: ForLabels, room: TheRoom) -> Guideline:
    """One version: what an item's `guideline` names."""
    return room.batches.guideline(guideline)


@router.post("/prompts", tags=["prompts"])
def push_prompts(sent: NewPrompts, user: ForLead, room: TheRoom) -> Added:
    """Add prompts to the store. The same prompt twice is one."""
    added = room.store.add(*sent.prompts)
    return Added(added, len(sent.prompts) - added)


@router.get("/quality", tags=["quality"])
def quality(user: ForLead, room: TheRoom, split: Split | None = None) -> dict[str, Any]:
    """Agreement, ability, habits, pace and drift of everybody whose labels the store has, with intervals."""
    try:
        return asdict(of_store(room.store, split=split))
    except DataError as error:
        raise StudioError(str(error), 409) from error


@router.get("/people", tags=["people"])
def people(user: ForLead, room: TheRoom) -> list[User]:
    """Everybody who may sign in."""
    return room.people.all()


@router.patch("/people/{person}", tags=["people"])
def change_person(person: Id, changes: Changes, caller: TheCaller, room: TheRoom) -> User:
    """Change yourself (name, language), or with scope lead what raters cost and whether they are active; else admin."""
    return room.people.change(caller.user, person, **changes.model_dump(exclude_unset=True, exclude_none=True))


@router.delete("/people/{person}/sessions", tags=["people"])
def revoke_sessions(person: Id, user: ForAdmin, room: TheRoom) -> int:
    """Sign somebody out everywhere. Returns of how many browsers."""
    return room.entrance.revoke_sessions(user, room.people.find(person).id)


@router.get("/invitations", tags=["people"])
def invitations(user: ForLead, room: TheRoom) -> list[Invitation]:
    """Every invitation, newest first."""
    return room.people.invitations()


@router.post("/invitations", status_code=201, tags=["people"])
def invite(wanted: NewInvitation, user: ForLead, room: TheRoom) -> MadeInvitation:
    """Invite a rater; with scope admin anybody."""
    made = room.people.invite(
        user, wanted.role, may_export=wanted.may_export, note=wanted.note, days=room.settings.invitation_days
    )
    return MadeInvitation(*made)


@router.delete("/invitations/{invitation}", status_code=204, tags=["people"])
def revoke_invitation(invitation: Id, user: ForLead, room: TheRoom) -> None:
    """Make an invitation void."""
    room.people.revoke(user, invitation)


@router.get("/audit", tags=["audit"])
def audit(
    user: ForLead,
    room: TheRoom,
    before: Annotated[int | None, Query(ge=0, lt=2**62)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[Entry]:
    """Who did what, newest first; `before`: lines older than this one's number."""
    return entries(room.store, before=before, limit=limit)
