"""The API for live chat: say something, get two replies of the project's model, choose one; until it is closed."""

from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from tutelage.feedback.conversation import Conversation, Conversations
from tutelage.feedback.work import LongText
from tutelage.records import Record
from tutelage.studio.annotate import masker_of
from tutelage.studio.api_work import masked_turns
from tutelage.studio.caller import ForLabels
from tutelage.studio.problem import PROBLEMS
from tutelage.studio.room import Room, TheRoom
from tutelage.studio.talk import TheSpeaker

router = APIRouter(prefix="/chat/items/{item}", tags=["chat"], responses=PROBLEMS)
Id = Annotated[str, Path(min_length=1, max_length=64)]


class Saying(Record):
    """What you say; empty where the model is to reply to what was asked already."""

    text: LongText = ""


class Choice(Record):
    """Which of two replies is better."""

    key: str = Field(min_length=8, max_length=64)
    """Made by the caller for this choice, at random; sent again, it is stored once."""
    number: int = Field(ge=1, le=1000)
    """Of the turn."""
    ranks: tuple[Annotated[int, Field(ge=1, le=2)], Annotated[int, Field(ge=1, le=2)]]
    """Of the replies in the order shown: 1 is better, equal ranks are a tie, of which the first goes on."""
    seconds: float | None = Field(default=None, ge=0, le=86_400)


@router.get("")
def conversation(item: Id, user: ForLabels, room: TheRoom) -> Conversation:
    """The conversation about an item that you were given."""
    return _masked(room, Conversations(room.store).of(user.id, item))


@router.post("/say")
async def say(item: Id, saying: Saying, user: ForLabels, room: TheRoom, speaker: TheSpeaker) -> Conversation:
    """Say something; answers when both replies are whole."""
    here = await run_in_threadpool(Conversations(room.store).of, user.id, item)
    prompt = here.asking(saying.text)
    last = [step async for step in speaker.replies(prompt)][-1]
    assert last.done is not None
    return _masked(room, await run_in_threadpool(Conversations(room.store).offer, user.id, item, prompt, last.done))


@router.post("/choose")
def choose(item: Id, choice: Choice, user: ForLabels, room: TheRoom) -> Conversation:
    """Choose between two replies: a label. The better one goes on."""
    talks = Conversations(room.store)
    here = talks.choose(user.id, item, choice.number, key=choice.key, ranks=choice.ranks, seconds=choice.seconds)
    return _masked(room, here)


@router.post("/end")
def end(item: Id, user: ForLabels, room: TheRoom) -> Conversation:
    """Close the conversation."""
    return _masked(room, Conversations(room.store).close(user.id, item))


def _masked(room: Room, here: Conversation) -> Conversation:
    """As a rater may see it: no model's name for itself, in the replies and in what was said before."""
    masker = masker_of(room)
    return replace(here, messages=masked_turns(here.messages, masker), texts=tuple(map(masker.whole, here.texts)))
