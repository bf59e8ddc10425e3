"""The two arms of active selection, as conditions on labels: what chance asked, and what the reward models asked."""

from sqlalchemy import ColumnElement, func, select, true

from tutelage.feedback import tables
from tutelage.feedback.work import Arm
from tutelage.feedback.work_tables import answers, work_items


def of_arm(arm: Arm) -> ColumnElement[bool]:
    """Comparisons that answer a question of this arm. Questions of batches that nobody put in order are chance's."""
    label = func.substr(answers.c.labels, 3, func.length(answers.c.labels) - 4)  # of ["id"]: a ranking is one record
    given = select(label).join(work_items, work_items.c.id == answers.c.item_id)
    standing = (answers.c.standing == true(), answers.c.kind == "ranked", work_items.c.purpose == "ask")
    return tables.comparisons.c.id.in_(given.where(work_items.c.arm == arm, *standing))
