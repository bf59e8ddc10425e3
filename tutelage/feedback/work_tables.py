"""The tables of work: what is asked of whom, who holds it, and what came back.

A moment that is compared is a number: seconds since 1970. A moment that is only told is ISO 8601 text, as in `tables`.
`leases` has one row for each rater and item they were ever given: it keeps the order shown for good, also where the
answer came late, was skipped or was taken back.
"""

from sqlalchemy import Boolean, Column, Double, ForeignKey, Index, Integer, SmallInteger, String, Table, Text
from sqlalchemy.schema import UniqueConstraint

from tutelage.feedback.tables import metadata, row_number

guidelines = Table(
    "guidelines",
    metadata,
    Column("id", String(32), primary_key=True),  # hash of title and text: the same text is the same version
    Column("title", String, nullable=False),
    Column("version", Integer, nullable=False),  # 1, 2, … within a title
    Column("text", Text, nullable=False),  # Markdown
    Column("created", String, nullable=False),
    Column("author", String),  # of a user
    UniqueConstraint("title", "version"),
)
batches = Table(
    "batches",
    metadata,
    row_number(),
    Column("id", String(32), nullable=False, unique=True),
    Column("name", String, nullable=False),
    Column("spec", Text, nullable=False),  # a BatchSpec as JSON
    Column("state", String(10), nullable=False),  # open, paused, closed
    Column("created", String, nullable=False),
    Column("author", String),  # of a user
    sqlite_autoincrement=True,
)
work_items = Table(
    "work_items",
    metadata,
    row_number(),
    Column("id", String(32), nullable=False, unique=True),
    Column("batch_id", ForeignKey("batches.id"), nullable=False),
    Column("prompt_id", ForeignKey("prompts.id"), nullable=False),
    Column("completions", Text, nullable=False),  # a JSON list of ids, in the order that answers are kept in
    Column("purpose", String(10), nullable=False),  # ask, gold, repeat
    Column("gold", Text),  # the known answer as JSON
    Column("repeat_of", String(32)),  # an item
    Column("rater_id", String),  # a repeat is for the one who answered before
    Column("arm", String(10), nullable=False),  # random or active: how the item came by its place in the queue
    Column("priority", Double),
    Column("position", Double, nullable=False),  # place in the queue
    Column("wanted", SmallInteger, nullable=False),  # answers wanted; disagreement raises it
    Column("answered", SmallInteger, nullable=False),  # answers that stand, late ones left out
    Column("open", Boolean, nullable=False),  # answered < wanted, and of purpose ask
    Index("ix_work_items_queue", "batch_id", "open", "position"),
    Index("ix_work_items_purpose", "batch_id", "purpose"),
    sqlite_autoincrement=True,
)
leases = Table(
    "leases",
    metadata,
    Column("item_id", ForeignKey("work_items.id"), primary_key=True),
    Column("rater_id", String, primary_key=True),
    Column("batch_id", ForeignKey("batches.id"), nullable=False),
    Column("state", String(10), nullable=False),  # held, lapsed, answered, skipped
    Column("shown", String, nullable=False),  # a JSON list: shown[j] is the completion that stands at place j
    Column("guideline", String(32)),  # the version that stood beside it
    Column("since", Double, nullable=False),
    Column("until", Double, nullable=False),
    Index("ix_leases_rater", "rater_id", "state", "batch_id"),
    Index("ix_leases_state", "batch_id", "state", "until"),
)
answers = Table(
    "answers",
    metadata,
    row_number(),
    Column("id", String(32), nullable=False, unique=True),
    Column("item_id", ForeignKey("work_items.id"), nullable=False),
    Column("batch_id", ForeignKey("batches.id"), nullable=False),
    Column("rater_id", String, nullable=False),
    Column("key", String(64), nullable=False),  # of the submission: the same key is the same answer
    Column("revision", SmallInteger, nullable=False),  # 1, 2, … of this rater and item
    Column("standing", Boolean, nullable=False),  # not replaced by a later revision, not taken back
    Column("role", String(12), nullable=False),  # wanted, extra (late), adjudication
    Column("kind", String(10), nullable=False),  # of the answer: ranked, rated, written
    Column("body", Text, nullable=False),  # the answer as JSON, in the items' own order
    Column("shown", String, nullable=False),  # a JSON list, as in leases
    Column("labels", Text, nullable=False),  # a JSON list: ids of the records it became
    Column("score", Double),  # on gold: how right, 0 to 1
    Column("seconds", Double),
    Column("guideline", String(32)),
    Column("created", String, nullable=False),
    UniqueConstraint("rater_id", "key"),
    Index("ix_answers_item", "item_id", "rater_id", "revision"),
    Index("ix_answers_rater", "rater_id", "n"),
    Index("ix_answers_batch", "batch_id", "n"),
    sqlite_autoincrement=True,
)
drafts = Table(
    "drafts",
    metadata,
    Column("item_id", ForeignKey("work_items.id"), primary_key=True),
    Column("rater_id", String, primary_key=True),
    Column("body", Text, nullable=False),  # JSON, as the page left it
    Column("saved", Double, nullable=False),
)
remarks = Table(
    "remarks",
    metadata,
    row_number(),
    Column("item_id", ForeignKey("work_items.id"), nullable=False),
    Column("user_id", String, nullable=False),
    Column("kind", String(10), nullable=False),  # skip, flag, comment
    Column("text", Text, nullable=False),
    Column("created", String, nullable=False),
    Column("settled", Boolean, nullable=False),  # a lead has seen to it
    Index("ix_remarks_item", "item_id"),
    sqlite_autoincrement=True,
)
turns = Table(
    "turns",
    metadata,
    Column("item_id", ForeignKey("work_items.id"), primary_key=True),
    Column("rater_id", String, primary_key=True),
    Column("number", SmallInteger, primary_key=True, autoincrement=False),  # 1, 2, … of a conversation
    Column("body", Text, nullable=False),  # prompt and two completions as JSON
    Column("shown", String, nullable=False),
    Column("chosen", SmallInteger),  # the completion that the conversation goes on with; null until chosen
    Column("key", String(64)),
    Column("label_id", String),
    Column("since", Double, nullable=False),
)
