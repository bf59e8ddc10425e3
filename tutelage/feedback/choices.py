"""Choices in conversations, read as the answers they are: for a rater's own list, and for what leads see of the work.

A choice cannot be changed: everything said after it rests on it.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, func, select

from tutelage.feedback import rows
from tutelage.feedback.tables import comparisons, retractions
from tutelage.feedback.work import Ranked, Recent
from tutelage.feedback.work_tables import batches, turns, work_items

CHOICES = (
    select(turns.c.item_id, turns.c.rater_id, work_items.c.batch_id, batches.c.name, batches.c.spec, comparisons)
    .join(comparisons, comparisons.c.id == turns.c.label_id)
    .join(work_items, work_items.c.id == turns.c.item_id)
    .join(batches, batches.c.id == work_items.c.batch_id)
    .where(comparisons.c.id.not_in(select(retractions.c.id)))
    .order_by(comparisons.c.n)
)


def choices(connection: Connection, *which: ColumnElement[bool]) -> Sequence[Row[Any]]:
    """Choices that stand, the oldest first, each with its label's row, its batch and who chose."""
    return connection.execute(CHOICES.where(*which)).all()


def recent_conversations(connection: Connection, rater: str, limit: int) -> list[Recent]:
    """A rater's own conversations with a choice in them, the latest first, each by its last choice."""
    last = select(turns.c.item_id).join(comparisons, comparisons.c.id == turns.c.label_id)
    last = last.where(turns.c.rater_id == rater).group_by(turns.c.item_id)
    newest = last.order_by(func.max(comparisons.c.n).desc()).limit(limit)
    found = choices(connection, turns.c.rater_id == rater, turns.c.item_id.in_(newest))
    by_item: dict[str, list[Row[Any]]] = defaultdict(list)
    for row in found:
        by_item[row.item_id].append(row)
    ends = [those[-1] for those in by_item.values()]
    labels = rows.build_comparisons(connection, ends)
    made = [
        Recent(
            item=row.item_id,
            batch=row.batch_id,
            batch_name=row.name,
            kind="chat",
            messages=label.prompt.messages,
            texts=tuple(label.completions[i].text for i in label.shown),
            answer=Ranked(ranks=tuple(label.ranks[i] for i in label.shown)),
            revision=1,
            turns=len(by_item[row.item_id]),
            seconds=sum(one.seconds or 0.0 for one in by_item[row.item_id]),
            created=row.created,
        )
        for row, label in zip(ends, labels, strict=True)
    ]
    return sorted(made, key=lambda one: one.created, reverse=True)
