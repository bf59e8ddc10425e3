"""The API for webhooks: for leads."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from tutelage.feedback.outbox import Delivery, Event, Webhook
from tutelage.records import Record
from tutelage.studio.caller import ForLead
from tutelage.studio.problem import PROBLEMS
from tutelage.studio.room import TheRoom
from tutelage.studio.webhooks import reachable

router = APIRouter(tags=["webhooks"], responses=PROBLEMS)
Id = Annotated[str, Path(min_length=1, max_length=64)]


class NewWebhook(Record):
    """An address to tell of events."""

    url: str = Field(max_length=2000)
    """Public, and https."""
    events: tuple[Event, ...] = Field(default=(), max_length=20)
    """Which; empty for all."""


@dataclass(frozen=True)
class MadeWebhook:
    """A new webhook with its secret, which is told this once."""

    webhook: Webhook
    secret: str


@router.get("/webhooks")
def webhooks(user: ForLead, room: TheRoom) -> list[Webhook]:
    """Every webhook, those that were turned off too."""
    return room.outbox.webhooks()


@router.post("/webhooks", status_code=201)
async def add_webhook(wanted: NewWebhook, user: ForLead, room: TheRoom) -> MadeWebhook:
    """Tell an address of events from now on."""
    await reachable(wanted.url, room.settings.webhook_allow)
    webhook, secret = await run_in_threadpool(room.outbox.add, user.id, wanted.url, wanted.events)
    return MadeWebhook(webhook, secret)


@router.delete("/webhooks/{webhook}", status_code=204)
def remove_webhook(webhook: Id, user: ForLead, room: TheRoom) -> None:
    """Turn a webhook off for good; its log stays."""
    room.outbox.remove(user.id, webhook)


@router.post("/webhooks/{webhook}/test", status_code=202)
def test_webhook(webhook: Id, user: ForLead, room: TheRoom) -> None:
    """Send it a `webhook.test`; the log says what became of it."""
    room.outbox.test(webhook)


@router.get("/deliveries")
def deliveries(
    user: ForLead,
    room: TheRoom,
    webhook: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[Delivery]:
    """What was and will be delivered, newest first; kept for a month."""
    return room.outbox.log(webhook, limit)


@router.post("/deliveries/{delivery}/replay", status_code=202)
def replay(delivery: Id, user: ForLead, room: TheRoom) -> None:
    """Try a delivery again now."""
    room.outbox.replay(user.id, delivery)
