"""Conversations with a model, turn by turn: two replies are offered, the rater chooses, the chosen one goes on.

A turn is a row of `turns`: what was said so far, the two replies with where they come from, and what was chosen.
Every choice is a `Comparison` of its own, whose prompt is the conversation up to there. The item is answered when the
conversation is closed: by the rater, or after the batch's last turn.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Connection, Row, bindparam, insert, select, update

from tutelage.errors import StudioError
from tutelage.feedback import rows
from tutelage.feedback.answering import DROP_DRAFT, GIVEN, SET_LEASE, SET_SEATS, announce_finished
from tutelage.feedback.claiming import FINAL, ITEM, RATER, has_seat
from tutelage.feedback.database import read
from tutelage.feedback.outbox import announce
from tutelage.feedback.people import annotator_of
from tutelage.feedback.store import Store
from tutelage.feedback.work import spec_of
from tutelage.feedback.work_tables import turns
from tutelage.records import Comparison, Completion, Message, Prompt

PAIR: TypeAdapter[tuple[Completion, Completion]] = TypeAdapter(tuple[Completion, Completion])
SHOWN = (0, 1)  # both replies are drawn alike, so their order is random as it is
TURNS = select(turns).where(turns.c.item_id == ITEM, turns.c.rater_id == RATER).order_by(turns.c.number)
CHOOSE = (
    update(turns)
    .where(turns.c.item_id == ITEM, turns.c.rater_id == RATER, turns.c.number == bindparam("at"))
    .values(chosen=bindparam("new_chosen"), key=bindparam("new_key"), label_id=bindparam("new_label"))
)


@dataclass(frozen=True)
class Conversation:
    """A conversation at one moment, without where its replies come from."""

    item: str
    batch: str
    guideline: str | None
    until: float
    messages: tuple[Message, ...]
    """What was said; with replies to choose from, what they reply to."""
    texts: tuple[str, ...]
    """The two replies to choose from, in the order shown; empty when it is the rater's turn to speak."""
    number: int
    """Of the turn at hand: 1, 2, …"""
    most: int
    """Turns it may have."""
    closed: bool
    """By the rater, after the last turn, or skipped."""

    @property
    def speaks(self) -> bool:
        """Whether the rater has to say something before there can be replies."""
        return not self.texts and self.messages[-1].role != "user"

    def asking(self, said: str) -> Prompt:
        """What the model is to reply to. Raises StudioError where nothing is said, or it is not the rater's turn."""
        if self.closed or self.texts:
            raise StudioError("This conversation waits for a choice, or is closed: reload the page", 409)
        if not self.speaks:
            return Prompt(messages=self.messages)
        if not said.strip():
            raise StudioError("Write something first.", 422)
        return Prompt(messages=(*self.messages, Message(role="user", content=said)))


class Conversations:
    """The conversations of a store. Safe to share between threads and processes."""

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.time) -> None:
        """`clock` tells seconds since 1970."""
        self._engine, self._writes, self._clock = store.engine, store.writes, clock

    def of(self, rater: str, item: str) -> Conversation:
        """The rater's conversation about an item that was given to them."""
        with read(self._engine) as connection:
            return _conversation(connection, _given(connection, rater, item))

    def offer(self, rater: str, item: str, prompt: Prompt, replies: tuple[Completion, Completion]) -> Conversation:
        """Keep two replies to a prompt, for the rater to choose from.

        Raises StudioError 409 where the conversation has gone on meanwhile, as in another tab.
        """
        with self._writes.write() as connection:
            given = _given(connection, rater, item)
            here = _conversation(connection, given)
            if here.closed or here.texts or here.messages != prompt.messages[: len(here.messages)]:
                raise StudioError("This conversation went on in another tab: reload the page", 409)
            body = {"prompt": prompt.model_dump(), "replies": [r.model_dump(mode="json") for r in replies]}
            row = {"item_id": item, "rater_id": rater, "number": here.number, "since": self._clock()}
            connection.execute(insert(turns), [row | {"body": json.dumps(body), "shown": json.dumps(SHOWN)}])
            connection.execute(DROP_DRAFT, {"item": item, "rater": rater})
            return _conversation(connection, given)

    def choose(
        self, rater: str, item: str, number: int, *, key: str, ranks: Sequence[int], seconds: float | None
    ) -> Conversation:
        """Store the choice of a turn as a label; the better reply goes on, the left one of a tie.

        The same turn again with the same key stores nothing. Raises StudioError 409 for a turn that was chosen already
        or does not exist, and where the conversation is closed.
        """
        with self._writes.write() as connection:
            given = _given(connection, rater, item)
            row = next((t for t in _turns(connection, given) if t.number == number), None)
            if row is not None and row.chosen is not None and row.key == key:
                return _conversation(connection, given)
            if row is None or row.chosen is not None or given.state in FINAL:
                raise StudioError("This turn is over: reload the page", 409)
            prompt, replies = _body(row)
            label = Comparison(
                prompt=prompt,
                completions=replies,
                ranks=tuple(ranks[SHOWN.index(i)] for i in range(2)),
                shown=SHOWN,
                annotator=annotator_of(rater),
                seconds=None if seconds is None else max(0.0, min(seconds, self._clock() - row.since)),
                guideline=given.guideline,
            )
            rows.insert(connection, [label])
            better = SHOWN[0] if ranks[0] <= ranks[1] else SHOWN[1]
            keys = {"item": item, "rater": rater, "at": number}
            connection.execute(CHOOSE, keys | {"new_chosen": better, "new_key": key, "new_label": label.id})
            told = {"batch": given.batch_id, "item": item, "labels": [label.id], "rater": rater, "revision": 1}
            announce(connection, "label.saved", answer=label.id, **told)
            connection.execute(DROP_DRAFT, {"item": item, "rater": rater})
            here = _conversation(connection, given)
            return self._close(connection, given) if here.number > here.most else here

    def close(self, rater: str, item: str) -> Conversation:
        """End the conversation. Raises StudioError 409 where nothing was chosen yet: such an item is skipped."""
        with self._writes.write() as connection:
            given = _given(connection, rater, item)
            here = _conversation(connection, given)
            if here.closed:
                return here
            if not any(turn.chosen is not None for turn in _turns(connection, given)):
                raise StudioError("Choose a reply first, or skip this one.", 409)
            return self._close(connection, given)

    def _close(self, connection: Connection, given: Row[Any]) -> Conversation:
        keys = {"item": given.item_id, "rater": given.rater_id}
        at = self._clock()
        running = given.state == "held" and given.until > at
        if running or has_seat(connection, given.item_id, given.rater_id, at):
            answered = given.answered + 1
            seats = {"new_answered": answered, "new_wanted": given.wanted, "new_open": answered < given.wanted}
            connection.execute(SET_SEATS, {"item": given.item_id} | seats)
            announce_finished(connection, given)
        connection.execute(SET_LEASE, keys | {"new_state": "answered", "new_until": given.until})
        connection.execute(DROP_DRAFT, keys)
        return _conversation(connection, _given(connection, given.rater_id, given.item_id))


def _given(connection: Connection, rater: str, item: str) -> Row[Any]:
    row = connection.execute(GIVEN, {"item": item, "rater": rater}).one_or_none()
    if row is None or spec_of(row.spec).kind != "chat":
        raise StudioError(f"The conversation '{item}' was not given to you: ask for the next one", 404)
    return row


def _turns(connection: Connection, given: Row[Any]) -> Sequence[Row[Any]]:
    return connection.execute(TURNS, {"item": given.item_id, "rater": given.rater_id}).all()


def _body(row: Row[Any]) -> tuple[Prompt, tuple[Completion, Completion]]:
    body = json.loads(row.body)
    return Prompt.model_validate(body["prompt"]), PAIR.validate_python(body["replies"])


def _conversation(connection: Connection, given: Row[Any]) -> Conversation:
    done = _turns(connection, given)
    number = 1
    texts: tuple[str, ...] = ()
    messages = rows.load_prompts(connection, {given.prompt_id})[given.prompt_id].messages
    if done:
        last, (prompt, replies) = done[-1], _body(done[-1])
        number, messages = last.number, prompt.messages
        if last.chosen is None:
            texts = tuple(replies[i].text for i in json.loads(last.shown))
        else:
            number += 1
            messages = (*messages, Message(role="assistant", content=replies[last.chosen].text))
    return Conversation(
        item=given.item_id,
        batch=given.batch_id,
        guideline=given.guideline,
        until=given.until,
        messages=messages,
        texts=texts,
        number=number,
        most=spec_of(given.spec).turns,
        closed=given.state in FINAL,
    )
