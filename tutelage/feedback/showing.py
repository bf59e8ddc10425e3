"""What raters see of their work: an item in hand, their recent answers, what each batch offers them."""

import json
from typing import Any

from sqlalchemy import Connection, Row, func, select

from tutelage.feedback import rows
from tutelage.feedback.answering import ANSWER, GIVEN, LATEST
from tutelage.feedback.claiming import ITEM, LEFT, RATER, Claim
from tutelage.feedback.work import Held, Nothing, Offer, Reason, Recent, by_place, spec_of
from tutelage.feedback.work_tables import drafts, leases
from tutelage.records import Message

DRAFT = select(drafts.c.body).where(drafts.c.item_id == ITEM, drafts.c.rater_id == RATER)
HOPE: tuple[Reason, ...] = ("nothing", "finished", "deadline", "done", "failed", "onboarding", "paused", "leased")


def handed(connection: Connection, given: Row[Any], *, fresh: bool = False) -> Held:
    """An item in a rater's hands, for the page, from a row of GIVEN: nothing of where the texts come from.

    One that is `fresh` was never in these hands before, so there is no draft and no answer to look for.
    """
    shown = tuple(json.loads(given.shown))
    keys = {"item": given.item_id, "rater": given.rater_id}
    latest = None if fresh else connection.execute(LATEST, keys).one_or_none()
    messages, texts = _texts(connection, given, shown)
    return Held(
        id=given.item_id,
        batch=given.batch_id,
        kind=spec_of(given.spec).kind,
        messages=messages,
        texts=texts,
        until=given.until,
        guideline=given.guideline,
        draft=None if fresh else connection.scalar(DRAFT, keys),
        answer=None if latest is None else by_place(ANSWER.validate_json(latest.body), shown),
        revision=0 if latest is None else latest.revision,
        standing=latest is not None and latest.standing,
    )


def recent_answer(connection: Connection, row: Row[Any]) -> Recent:
    """An answer's row with what it was the answer to."""
    given = connection.execute(GIVEN, {"item": row.item_id, "rater": row.rater_id}).one()
    spec, shown = spec_of(given.spec), tuple(json.loads(row.shown))
    messages, texts = _texts(connection, given, shown)
    return Recent(
        item=row.item_id,
        batch=row.batch_id,
        batch_name=spec.name,
        kind=spec.kind,
        messages=messages,
        texts=texts,
        answer=by_place(ANSWER.validate_json(row.body), shown),
        revision=row.revision,
        turns=0,
        seconds=row.seconds,
        created=row.created,
    )


def offer(claim: Claim) -> Offer:
    """A batch as one rater's home page shows it."""
    mine = (leases.c.batch_id == claim.batch, leases.c.rater_id == claim.rater, leases.c.state == "answered")
    return Offer(
        batch=claim.batch,
        name=claim.spec.name,
        kind=claim.spec.kind,
        answered=claim.connection.scalar(select(func.count()).where(*mine)) or 0,
        left=claim.connection.scalar(LEFT, {"batch": claim.batch}) or 0,
        deadline=claim.spec.deadline,
        nothing=claim.look(),
    )


def more_hopeful(one: Nothing, other: Nothing) -> Nothing:
    """Of two reasons for nothing the one that may pass sooner."""
    if one.until is not None and other.until is not None:
        return min(one, other, key=lambda nothing: nothing.until or 0.0)
    return max(one, other, key=lambda nothing: HOPE.index(nothing.reason))


def _texts(
    connection: Connection, given: Row[Any], shown: tuple[int, ...]
) -> tuple[tuple[Message, ...], tuple[str, ...]]:
    prompt = rows.load_prompts(connection, {given.prompt_id})[given.prompt_id]
    ids = json.loads(given.completions)
    known = rows.load_completions(connection, set(ids)) if ids else {}
    return prompt.messages, tuple(known[ids[i]].text for i in shown)
