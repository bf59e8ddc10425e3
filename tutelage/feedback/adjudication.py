"""What leads do about single items: talk about them, see to remarks, and decide where raters disagree."""

import json

from sqlalchemy import func, literal, select, true, update

from tutelage.errors import StudioError
from tutelage.feedback import rows
from tutelage.feedback.answering import ADD_ANSWER, check_fit, labels_of, saved, withdraw
from tutelage.feedback.audit import record
from tutelage.feedback.outbox import announce
from tutelage.feedback.store import Store
from tutelage.feedback.work import LONGEST_TEXT, Ranked, Rated, Saved, spec_of
from tutelage.feedback.work_tables import answers, batches, remarks, work_items
from tutelage.records import new_id, now


class Adjudication:
    """Comments, remarks and decisions of a store. Safe to share between threads and processes."""

    def __init__(self, store: Store) -> None:
        self._writes = store.writes

    def comment(self, user: str, item: str, text: str) -> None:
        """Add to the discussion of an item. Raises StudioError: 404 for no such item, 422 for no text, or too much."""
        if not 1 <= len(text.strip()) <= LONGEST_TEXT:
            raise StudioError(f"A comment has 1 to {LONGEST_TEXT:,} characters", 422)
        row = {"item_id": item, "user_id": user, "kind": "comment", "text": text.strip(), "created": now().isoformat()}
        with self._writes.write() as connection:
            if not connection.scalar(select(func.count()).where(work_items.c.id == item)):
                raise StudioError(f"There is no item '{item}'", 404)
            connection.execute(remarks.insert(), [row | {"settled": False}])

    def settle(self, user: str, remark: int, *, settled: bool = True) -> str:
        """Mark a skip or flag as seen to, or as open again. Returns its item. StudioError 404 for no such remark."""
        with self._writes.write() as connection:
            item = connection.scalar(select(remarks.c.item_id).where(remarks.c.n == remark))
            if item is None:
                raise StudioError(f"There is no remark {remark}", 404)
            connection.execute(update(remarks).where(remarks.c.n == remark).values(settled=settled))
            record(connection, user, "settle-remark" if settled else "reopen-remark", item, remark=remark)
        return str(item)

    def decide(self, user: str, item: str, answer: Ranked | Rated) -> Saved:
        """A lead's own answer, with ranks in the item's own order: a label of theirs like any other.

        It takes no seat and changes no rater's answer. A decision replaces an earlier one of the same lead. Raises
        StudioError: 404 for no such item, 409 for a check, 422 for an answer that does not fit.
        """
        a, w = answers.c, work_items.c
        with self._writes.write() as connection:
            query = (
                select(w.batch_id, w.prompt_id, w.completions, w.purpose, batches.c.spec)
                .join(batches, batches.c.id == w.batch_id)
                .where(w.id == item)
            )
            row = connection.execute(query).one_or_none()
            if row is None:
                raise StudioError(f"There is no item '{item}'", 404)
            if row.purpose != "ask":
                raise StudioError("This item is a check of raters: it has nothing to decide", 409)
            spec, k = spec_of(row.spec), len(json.loads(row.completions))
            check_fit(spec, answer, k)
            mine = (a.item_id == item, a.rater_id == user, a.role == "adjudication")
            before = connection.execute(select(answers).where(*mine, a.standing == true())).one_or_none()
            if before is not None:
                withdraw(connection, before)
            shown, guideline = json.dumps(list(range(k))), spec.guideline
            given_by = {"rater_id": user, "shown": shown, "guideline": guideline}
            given = connection.execute(query.add_columns(*(literal(v).label(n) for n, v in given_by.items()))).one()
            labels = labels_of(connection, given, spec.kind, answer, None)
            rows.insert(connection, labels)
            made = {
                "id": new_id(),
                "item_id": item,
                "batch_id": row.batch_id,
                "rater_id": user,
                "key": new_id(),
                "revision": 1 + (connection.scalar(select(func.max(a.revision)).where(*mine)) or 0),
                "standing": True,
                "role": "adjudication",
                "kind": answer.type,
                "body": answer.model_dump_json(),
                "shown": shown,
                "labels": json.dumps([label.id for label in labels]),
                "score": None,
                "seconds": None,
                "guideline": guideline,
                "created": now().isoformat(),
            }
            stored = saved(connection.execute(ADD_ANSWER, made).one(), again=False)
            record(connection, user, "adjudicate", item, answer=stored.id)
            told = {"answer": stored.id, "batch": stored.batch, "item": item, "labels": stored.labels, "rater": user}
            announce(connection, "label.saved", **told, revision=stored.revision)
            return stored
