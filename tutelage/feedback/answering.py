"""An answer into the database: its row, the labels that it is, the item's seats; in the caller's transaction."""

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Connection, Row, bindparam, select, true, update

from tutelage.errors import StudioError
from tutelage.feedback import rows, tables
from tutelage.feedback.claiming import ANY_LEFT, ITEM, RATER, has_seat
from tutelage.feedback.outbox import Event, announce
from tutelage.feedback.people import annotator_of
from tutelage.feedback.work import (
    TAKES,
    Answer,
    BatchSpec,
    K,
    Kind,
    Ranked,
    Rated,
    Saved,
    Standing,
    Written,
    in_order,
    spec_of,
)
from tutelage.feedback.work_tables import answers, batches, drafts, leases, work_items
from tutelage.records import Comparison, Completion, Demonstration, Rating, Source, new_id, now

ANSWER: TypeAdapter[Answer] = TypeAdapter(Answer)
WRITTEN_BY_HAND = Source(model="human")
SPREAD = 2  # ratings further apart than this disagree
BY_KEY = select(answers).where(answers.c.rater_id == RATER, answers.c.key == ITEM)
ITEM_COLUMNS = ("n", "prompt_id", "completions", "purpose", "gold", "wanted", "answered")
LATEST = (
    select(answers)
    .where(answers.c.item_id == ITEM, answers.c.rater_id == RATER, answers.c.role != "adjudication")
    .order_by(answers.c.revision.desc())
    .limit(1)
)
STANDING = select(answers.c.body).where(
    answers.c.item_id == ITEM, answers.c.standing == true(), answers.c.role != "adjudication"
)
GIVEN = (  # a lease with its item and the spec of its batch
    select(leases, *(work_items.c[name] for name in ITEM_COLUMNS), batches.c.spec)
    .join(work_items, work_items.c.id == leases.c.item_id)
    .join(batches, batches.c.id == leases.c.batch_id)
    .where(leases.c.item_id == ITEM, leases.c.rater_id == RATER)
)
SET_LEASE = (
    update(leases)
    .where(leases.c.item_id == ITEM, leases.c.rater_id == RATER)
    .values(state=bindparam("new_state"), until=bindparam("new_until"))
)
SET_SEATS = (
    update(work_items)
    .where(work_items.c.id == ITEM)
    .values(answered=bindparam("new_answered"), wanted=bindparam("new_wanted"), open=bindparam("new_open"))
)
DROP_DRAFT = drafts.delete().where(drafts.c.item_id == ITEM, drafts.c.rater_id == RATER)
ADD_ANSWER = answers.insert().returning(answers)


@dataclass(frozen=True)
class Submission:
    """What a rater sent: an answer with ranks by place on the screen, and the seconds that the page counted."""

    key: str
    answer: Ranked | Rated | Written
    seconds: float | None


def saved(row: Row[Any], *, again: bool) -> Saved:
    """What a stored answer's row says."""
    labels = tuple(json.loads(row.labels))
    return Saved(row.id, row.item_id, row.batch_id, row.revision, row.role, again, labels)


def store_answer(connection: Connection, submitted: Submission, given: Row[Any], at: float) -> Saved:
    """Store a submission whose key is new, to an item in the rater's hands: a row of GIVEN. `at` is the present.

    Raises StudioError 422 for an answer that does not fit the item.
    """
    spec, shown = spec_of(given.spec), tuple(json.loads(given.shown))
    check_fit(spec, submitted.answer, len(shown))
    answer = in_order(submitted.answer, shown)
    keys = {"item": given.item_id, "rater": given.rater_id}
    latest = connection.execute(LATEST, keys).one_or_none()
    before = latest if latest is not None and latest.standing else None
    if before is not None and before.body == answer.model_dump_json():
        return saved(before, again=True)
    if before is not None:
        withdraw(connection, before)
    role = _role(connection, given, at) if before is None else before.role
    seconds = bounded(submitted.seconds, at - given.since)
    labels = labels_of(connection, given, spec.kind, answer, seconds) if given.purpose == "ask" else []
    rows.insert(connection, labels, known={given.prompt_id, *json.loads(given.completions)})
    row = {
        "id": new_id(),
        "item_id": given.item_id,
        "batch_id": given.batch_id,
        "rater_id": given.rater_id,
        "key": submitted.key,
        "revision": 1 if latest is None else latest.revision + 1,
        "standing": True,
        "role": role,
        "kind": answer.type,
        "body": answer.model_dump_json(),
        "shown": given.shown,
        "labels": json.dumps([label.id for label in labels]),
        "score": None if given.gold is None else score(ANSWER.validate_json(given.gold), answer),
        "seconds": seconds,
        "guideline": given.guideline,
        "created": now().isoformat(),
    }
    stored = connection.execute(ADD_ANSWER, row).one()
    if given.state != "answered":
        connection.execute(SET_LEASE, keys | {"new_state": "answered", "new_until": given.until})
    connection.execute(DROP_DRAFT, keys)
    if given.purpose == "ask":
        count_answer(connection, given, spec, more=int(before is None and role == "wanted"))
    return saved(stored, again=False)


def _role(connection: Connection, given: Row[Any], at: float) -> Standing:
    """Whether a first answer takes a seat: its lease runs, or there is one free. Checks have a seat for everybody."""
    if given.purpose != "ask" or (given.state == "held" and given.until > at):
        return "wanted"
    return "wanted" if has_seat(connection, given.item_id, given.rater_id, at) else "extra"


def withdraw(connection: Connection, answer: Row[Any]) -> None:
    """Let an answer stand no longer, and take its labels back."""
    connection.execute(update(answers).where(answers.c.n == answer.n).values(standing=False))
    taken = [{"id": id, "created": now().isoformat()} for id in json.loads(answer.labels)]
    rows.add_new(connection, tables.retractions, taken)


def reopen(connection: Connection, answer: Row[Any], given: Row[Any], at: float) -> float:
    """Take an answer back and put its item into the rater's hands again. Returns until when.

    An extra answer had no seat, so its lease does not run: answered again, it takes a free seat or is extra again.
    """
    withdraw(connection, answer)
    seated = answer.role == "wanted"
    until: float = at + spec_of(given.spec).lease_seconds if seated else at
    keys = {"item": given.item_id, "rater": given.rater_id}
    connection.execute(SET_LEASE, keys | {"new_state": "held" if seated else "lapsed", "new_until": until})
    if seated and given.purpose == "ask":
        _set_seats(connection, given, given.answered - 1, given.wanted)
    return until


def count_answer(connection: Connection, given: Row[Any], spec: BatchSpec, *, more: int) -> None:
    """The item's seats after an answer: where answers disagree without a majority, one more is wanted."""
    answered, wanted = given.answered + more, given.wanted
    if wanted <= answered and wanted < spec.most_answers:
        bodies = connection.execute(STANDING, {"item": given.item_id}).scalars().all()
        wanted += disagree([ANSWER.validate_json(body) for body in bodies])
    if (given.answered, given.wanted) != (answered, wanted):
        _set_seats(connection, given, answered, wanted)


def _set_seats(connection: Connection, given: Row[Any], answered: int, wanted: int) -> None:
    seats = {"new_answered": answered, "new_wanted": wanted, "new_open": answered < wanted}
    connection.execute(SET_SEATS, {"item": given.item_id} | seats)


def disagree(given: Iterable[Ranked | Rated | Written]) -> bool:
    """Whether answers to one item need another one: no strict majority for a best, or ratings more than two apart."""
    verdicts: list[int] = []
    scores: list[int] = []
    for answer in given:
        match answer:
            case Ranked(ranks=ranks):
                best = [i for i, rank in enumerate(ranks) if rank == min(ranks)]
                verdicts.append(best[0] if len(best) == 1 else -1)
            case Rated(score=score):
                scores.append(score)
            case Written():
                pass
    if scores:
        return max(scores) - min(scores) > SPREAD
    return bool(verdicts) and 2 * Counter(verdicts).most_common(1)[0][1] <= len(verdicts)


def score(gold: Ranked | Rated | Written, answer: Ranked | Rated | Written) -> float | None:
    """How right an answer is, 0 to 1: the share of gold's pairs told the same way; a rating within one of gold's."""
    match gold, answer:
        case Ranked(ranks=known), Ranked(ranks=said):
            pairs = [(i, j) for i in range(len(known)) for j in range(i) if known[i] != known[j]]
            if not pairs:
                return float(len(set(said)) == 1)
            same = sum((known[i] < known[j]) == (said[i] < said[j]) and said[i] != said[j] for i, j in pairs)
            return same / len(pairs)
        case Rated(score=right), Rated(score=given):
            return float(abs(right - given) <= 1)
        case _:
            return None


def check_fit(spec: BatchSpec, answer: Ranked | Rated | Written, completions: int) -> None:
    """Raises StudioError 422 for an answer of another type, or with another number of ranks, than the item takes."""
    if answer.type != TAKES[spec.kind] or spec.kind == "chat":
        raise StudioError(f"A {spec.kind} takes an answer of type '{TAKES[spec.kind]}', not '{answer.type}'", 422)
    if isinstance(answer, Ranked) and len(answer.ranks) != completions:
        raise StudioError(f"There are {completions} completions but {len(answer.ranks)} ranks: rank each once", 422)


def check_item(spec: BatchSpec, completions: int, gold: Answer | None) -> None:
    """Raises StudioError 422 for a question that this kind of work cannot ask."""
    fewest, most = K[spec.kind]
    if not fewest <= completions <= most:
        wants = str(most) if fewest == most else f"{fewest} to {most}"
        raise StudioError(f"A {spec.kind} is about {wants} completions, but an item has {completions}", 422)
    if gold is not None:
        if isinstance(gold, Written):
            raise StudioError("A text has no gold answer: only rankings and ratings can be checked", 422)
        check_fit(spec, gold, completions)
    elif spec.pass_mark is not None:
        raise StudioError("Every item of an onboarding test needs a gold answer", 422)


def labels_of(
    connection: Connection, given: Row[Any], kind: Kind, answer: Ranked | Rated | Written, seconds: float | None
) -> list[Demonstration | Comparison | Rating]:
    """The records that an answer becomes, with ranks in the item's own order: what is trained on."""
    prompt = rows.load_prompts(connection, {given.prompt_id})[given.prompt_id]
    ids = json.loads(given.completions)
    known = rows.load_completions(connection, set(ids)) if ids else {}
    completions, who = tuple(known[id] for id in ids), annotator_of(given.rater_id)
    care = {"seconds": seconds, "guideline": given.guideline, "flags": answer.flags}
    match answer:
        case Ranked(ranks=ranks):
            strength, shown = answer.strength if len(ranks) == 2 else None, tuple(json.loads(given.shown))
            about = {"prompt": prompt, "completions": completions, "annotator": who}
            return [Comparison(**about, **care, ranks=ranks, shown=shown, strength=strength)]
        case Rated():
            return [Rating(prompt=prompt, completion=completions[0], annotator=who, score=answer.score, **care)]
        case Written(text=text):
            written = Demonstration(prompt=prompt, text=text, annotator=who)
            if kind != "edit" or text == completions[0].text:
                return [written]
            pair = (Completion(text=text, source=WRITTEN_BY_HAND), completions[0])
            return [
                written,
                Comparison(prompt=prompt, completions=pair, ranks=(1, 2), shown=(0, 1), annotator=who, **care),
            ]


def bounded(seconds: float | None, passed: float) -> float | None:
    """The page's count of active seconds, no less than nothing and no more than has passed."""
    if seconds is None or not math.isfinite(seconds):
        return None
    return max(0.0, min(seconds, passed))


def announce_saved(connection: Connection, made: Saved, given: Row[Any]) -> None:
    """Tell webhooks of an answer that was stored, and of the batch where it was the last one.

    `given` is the row of GIVEN that it was an answer to, from before.
    """
    if made.again:
        return
    event: Event = "label.saved" if made.revision == 1 else "label.revised"
    if announce(connection, event, **told(given.rater_id, made)):
        announce_finished(connection, given)


def announce_finished(connection: Connection, given: Row[Any]) -> None:
    """Tell webhooks of a batch of which the last open item is answered now; `given` is its row from before."""
    was_open = given.purpose == "ask" and given.answered < given.wanted
    if was_open and connection.scalar(ANY_LEFT, {"batch": given.batch_id}) is None:
        announce(connection, "batch.finished", batch=given.batch_id)


def told(rater: str, made: Saved) -> dict[str, Any]:
    """What webhooks hear of an answer."""
    return {
        "answer": made.id,
        "batch": made.batch,
        "item": made.item,
        "labels": made.labels,
        "rater": rater,
        "revision": made.revision,
    }
