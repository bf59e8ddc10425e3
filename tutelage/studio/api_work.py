"""The API for those who label: the next item, an answer to it, and all that a rater's pages do."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import Field

from tutelage.feedback.assignment import MOST_AHEAD
from tutelage.feedback.work import Answer, Held, LongText, Nothing, Offer, Receipt, Recent, Written
from tutelage.records import Message, Record
from tutelage.studio.annotate import masker_of
from tutelage.studio.caller import ForLabels
from tutelage.studio.masking import Masker
from tutelage.studio.problem import PROBLEMS
from tutelage.studio.room import TheRoom
from tutelage.studio.view import check_text

router = APIRouter(prefix="/work", tags=["label"], responses=PROBLEMS)
Id = Annotated[str, Path(min_length=1, max_length=64)]


class Asking(Record):
    """Which item to ask for."""

    batch: str | None = Field(default=None, max_length=64)
    """Of one batch; without it, of any that is open to the rater."""
    besides: tuple[Annotated[str, Field(max_length=64)], ...] = Field(default=(), max_length=MOST_AHEAD)
    """Items the caller has already; none of them is given again."""


@dataclass(frozen=True)
class Given:
    """The next item, or why there is none: one of the two is null."""

    item: Held | None
    nothing: Nothing | None


class Submission(Record):
    """An answer to an item."""

    key: str = Field(min_length=8, max_length=64)
    """Made by the caller for this answer, at random; sent again, with the same key, it is stored once."""
    answer: Answer
    seconds: float | None = Field(default=None, ge=0, le=86_400)
    """Time taken, in seconds, idle time left out."""


class Reasoned(Record):
    """A skip with its reason, or a remark for the leads."""

    text: str = Field(min_length=1, max_length=2000)


class Draft(Record):
    """What the caller has so far."""

    body: LongText
    """JSON, as the caller likes; it is given back with the item."""


class Which(Record):
    """Whose latest answer: in one batch, or anywhere."""

    batch: str | None = Field(default=None, max_length=64)


@router.get("")
def offers(user: ForLabels, room: TheRoom) -> list[Offer]:
    """The batches open to you, and what there is to do in each."""
    return room.desk.offers(user.id)


@router.post("/next")
def next_item(asking: Asking, user: ForLabels, room: TheRoom) -> Given:
    """Your next item, yours for the batch's lease; or why there is none."""
    match room.desk.next(user.id, asking.batch, asking.besides):
        case Held() as held:
            return Given(masked(held, masker_of(room)), None)
        case Nothing() as nothing:
            return Given(None, nothing)


@router.get("/recent")
def recent(user: ForLabels, room: TheRoom, limit: Annotated[int, Query(ge=1, le=200)] = 20) -> list[Recent]:
    """Your own latest answers."""
    found = room.desk.recent(user.id, limit)
    masker = masker_of(room)
    return [
        replace(one, messages=masked_turns(one.messages, masker), texts=tuple(map(masker.whole, one.texts)))
        for one in found
    ]


@router.post("/undo")
def undo(which: Which, user: ForLabels, room: TheRoom) -> Given:
    """Take your latest answer back; its item is in your hands again."""
    held = room.desk.undo(user.id, which.batch)
    return Given(None if held is None else masked(held, masker_of(room)), None)


@router.get("/items/{item}")
def held(item: Id, user: ForLabels, room: TheRoom) -> Held:
    """An item that you were given, with your draft and your answer."""
    return masked(room.desk.held(user.id, item), masker_of(room))


@router.post("/items/{item}/answer")
def answer(item: Id, submission: Submission, user: ForLabels, room: TheRoom) -> Receipt:
    """Store an answer. What this returns is on the disk; another answer to the same item is a new revision."""
    if isinstance(submission.answer, Written):
        check_text(room.desk.held(user.id, item), submission.answer.text, masker_of(room))
    return room.desk.submit(user.id, item, submission.key, submission.answer, submission.seconds)


@router.post("/items/{item}/undo")
def take_back(item: Id, user: ForLabels, room: TheRoom) -> Held:
    """Take your answer to an item back; it is in your hands again. A second time changes nothing."""
    return masked(room.desk.take_back(user.id, item), masker_of(room))


@router.post("/items/{item}/renew")
def renew(item: Id, user: ForLabels, room: TheRoom) -> float | None:
    """Keep an item for another lease: until when, in seconds since 1970; null when somebody else has the place."""
    return room.desk.renew(user.id, item)[0]


@router.post("/items/{item}/skip", status_code=204)
def skip(item: Id, why: Reasoned, user: ForLabels, room: TheRoom) -> None:
    """Give an item back for good, with the reason."""
    room.desk.skip(user.id, item, why.text)


@router.post("/items/{item}/flag", status_code=204)
def flag(item: Id, remark: Reasoned, user: ForLabels, room: TheRoom) -> None:
    """Tell the leads of something about an item."""
    room.desk.flag(user.id, item, remark.text)


@router.put("/items/{item}/draft", status_code=204)
def draft(item: Id, kept: Draft, user: ForLabels, room: TheRoom) -> None:
    """Keep what you have so far."""
    room.desk.draft(user.id, item, kept.body)


def masked(held: Held, masker: Masker) -> Held:
    """The item as a rater may see it: no model's name for itself, in its texts and in what was said before."""
    return replace(held, messages=masked_turns(held.messages, masker), texts=tuple(map(masker.whole, held.texts)))


def masked_turns(messages: Sequence[Message], masker: Masker) -> tuple[Message, ...]:
    """A conversation in which no assistant says whose it is."""
    return tuple(
        turn.model_copy(update={"content": masker.whole(turn.content)}) if turn.role == "assistant" else turn
        for turn in messages
    )
