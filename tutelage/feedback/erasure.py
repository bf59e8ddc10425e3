"""Erase a person: who they were goes for good; their labels stay under the pseudonym, or go too.

Labels name a person only by their id, so once the user's row says nothing more, nothing leads from a label to somebody.
Labels that go are taken back and their texts overwritten: their rows stay, so that the row numbers by which a run in
progress reads stay true. What models have learned from them is not undone: `runs_fed` lists those runs.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, func, select, update

from tutelage import history
from tutelage.errors import StudioError
from tutelage.feedback import rows
from tutelage.feedback.answering import WRITTEN_BY_HAND
from tutelage.feedback.audit import record
from tutelage.feedback.database import write
from tutelage.feedback.people import User
from tutelage.feedback.people_tables import api_tokens, audit, invitations, sessions, users
from tutelage.feedback.rows import ERASED
from tutelage.feedback.store import LABELS, Store
from tutelage.feedback.tables import completions, demonstrations, items, prompts, retractions
from tutelage.feedback.work_tables import answers, drafts, leases, remarks, turns, work_items
from tutelage.records import Prompt, now


@dataclass(frozen=True)
class Fed:
    """A run that learned from a person's labels."""

    run: str
    labels: int


@dataclass(frozen=True)
class Erased:
    """What became of a person."""

    person: str
    labels: int
    """Labels of theirs that were not taken back before."""
    removed: bool
    """Whether the labels went too."""
    runs: tuple[Fed, ...]
    """Runs that learned from them, and still have."""


def runs_fed(runs: Path, person: str) -> tuple[Fed, ...]:
    """The runs whose run.json names this annotator, newest first, with how many of their labels each learned from."""
    counted = [(run.id, _labels_in(run.data, person)) for run in history.list_runs(runs)]
    return tuple(Fed(run, labels) for run, labels in counted if labels)


def _labels_in(data: Any, person: str) -> int:
    if isinstance(data, dict):
        if data.get("id") == person and "labels" in data:
            return int(data["labels"])
        return sum(_labels_in(value, person) for value in data.values())
    return sum(_labels_in(value, person) for value in data) if isinstance(data, list) else 0


def erase(store: Store, by: User, person: str, *, keep_labels: bool, runs: Path | None = None) -> Erased:
    """Erase a user, in one transaction. `runs` is the project's folder of runs.

    Raises StudioError: 403 for whoever is no administrator, 404 for an unknown user, 409 for oneself.
    """
    if not by.at_least("admin"):
        raise StudioError("Only an administrator may erase somebody", 403)
    if by.id == person:
        raise StudioError("Nobody can erase themselves: another administrator has to", 409)
    with write(store.engine) as connection:
        if not connection.scalar(select(func.count()).where(users.c.id == person)):
            raise StudioError(f"There is no user '{person}'", 404)
        labels = _standing_labels(connection, person)
        _forget_identity(connection, person)
        if not keep_labels:
            _wipe_labels(connection, person)
            _wipe_work(connection, person)
        record(connection, by.id, "erase", person, labels=len(labels), removed=not keep_labels)
    return Erased(person, len(labels), not keep_labels, () if runs is None else runs_fed(runs, person))


def _standing_labels(connection: Connection, person: str) -> list[str]:
    gone = select(retractions.c.id)
    queries = [select(t.c.id).where(t.c.annotator_id == person, t.c.id.not_in(gone)) for t in LABELS.values()]
    return [id for query in queries for id in connection.execute(query).scalars()]


def _forget_identity(connection: Connection, person: str) -> None:
    nobody = {"login": None, "name": person, "password": "", "active": False, "may_export": False, "hourly_cost": None}
    connection.execute(update(users).where(users.c.id == person).values(**nobody))
    connection.execute(sessions.delete().where(sessions.c.user_id == person))
    connection.execute(api_tokens.delete().where(api_tokens.c.user_id == person))
    connection.execute(drafts.delete().where(drafts.c.rater_id == person))
    connection.execute(update(invitations).where(invitations.c.used_by == person).values(note=""))
    theirs = (audit.c.user_id == person) | (audit.c.subject == person)
    connection.execute(update(audit).where(theirs).values(detail="{}"))


def _wipe_labels(connection: Connection, person: str) -> None:
    taken = [{"id": id, "created": now().isoformat()} for id in _standing_labels(connection, person)]
    rows.add_new(connection, retractions, taken)
    connection.execute(update(demonstrations).where(demonstrations.c.annotator_id == person).values(text=""))
    compared = LABELS["comparisons"]
    edited = select(items.c.completion_id).join(compared, compared.c.id == items.c.comparison_id)
    by_hand = WRITTEN_BY_HAND.model_dump_json(exclude_defaults=True)
    theirs = (completions.c.id.in_(edited.where(compared.c.annotator_id == person)), completions.c.source == by_hand)
    connection.execute(update(completions).where(*theirs).values(text=""))
    blank = {"body": Prompt.text("").model_dump_json(), "split": ERASED}
    for id in _said_alone(connection, person):
        connection.execute(update(prompts).where(prompts.c.id == id).values(**blank))


def _said_alone(connection: Connection, person: str) -> list[str]:
    """Prompts of what somebody said in conversations that no item asks and nobody else's standing label is about."""
    c = LABELS["comparisons"].c
    said = select(c.prompt_id).join(turns, turns.c.label_id == c.id).where(turns.c.rater_id == person)
    found = set(connection.execute(said).scalars())
    gone = select(retractions.c.id)
    shared = [select(work_items.c.prompt_id).where(work_items.c.prompt_id.in_(said))]
    for t in LABELS.values():
        others = (t.c.annotator_id != person, t.c.id.not_in(gone))
        shared.append(select(t.c.prompt_id).where(t.c.prompt_id.in_(said), *others))
    return sorted(found.difference(*(connection.execute(query).scalars() for query in shared)))


def _wipe_work(connection: Connection, person: str) -> None:
    """Answers, remarks, conversations and leases go; items that lost an answer or a conversation want one again."""
    a, w = answers.c, work_items.c
    counted = select(a.item_id).where(a.rater_id == person, a.standing, a.role == "wanted")
    fewer = update(work_items).where(w.id.in_(counted), w.purpose == "ask")
    connection.execute(fewer.values(answered=w.answered - 1, open=w.answered - 1 < w.wanted))
    others = (leases.c.item_id == w.id, leases.c.state == "answered", leases.c.rater_id != person)
    closed = select(func.count()).where(*others).scalar_subquery()
    talks = select(turns.c.item_id).where(turns.c.rater_id == person)
    left = update(work_items).where(w.id.in_(talks), w.answered > closed)
    connection.execute(left.values(answered=closed, open=closed < w.wanted))
    for table in (answers, leases, turns):
        connection.execute(table.delete().where(table.c.rater_id == person))
    connection.execute(remarks.delete().where(remarks.c.user_id == person))
