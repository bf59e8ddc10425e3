"""The second schema: the studio's tables of work and of people. Nothing that was there is changed.

A migration is appended, never edited: databases of this version exist.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def _n() -> sa.Column[int]:
    return sa.Column("n", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True)


def upgrade() -> None:
    _asked()
    _given()
    _said()
    _people()
    _keys()
    _webhooks()


def _asked() -> None:
    op.create_table(
        "guidelines",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("title", sa.String, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("created", sa.String, nullable=False),
        sa.Column("author", sa.String),
        sa.UniqueConstraint("title", "version"),
    )
    op.create_table(
        "batches",
        _n(),
        sa.Column("id", sa.String(32), nullable=False, unique=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("created", sa.String, nullable=False),
        sa.Column("author", sa.String),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "work_items",
        _n(),
        sa.Column("id", sa.String(32), nullable=False, unique=True),
        sa.Column("batch_id", sa.String(32), sa.ForeignKey("batches.id"), nullable=False),
        sa.Column("prompt_id", sa.String(32), sa.ForeignKey("prompts.id"), nullable=False),
        sa.Column("completions", sa.Text, nullable=False),
        sa.Column("purpose", sa.String(10), nullable=False),
        sa.Column("gold", sa.Text),
        sa.Column("repeat_of", sa.String(32)),
        sa.Column("rater_id", sa.String),
        sa.Column("arm", sa.String(10), nullable=False),
        sa.Column("priority", sa.Double),
        sa.Column("position", sa.Double, nullable=False),
        sa.Column("wanted", sa.SmallInteger, nullable=False),
        sa.Column("answered", sa.SmallInteger, nullable=False),
        sa.Column("open", sa.Boolean, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_work_items_queue", "work_items", ["batch_id", "open", "position"])
    op.create_index("ix_work_items_purpose", "work_items", ["batch_id", "purpose"])


def _given() -> None:
    op.create_table(
        "leases",
        sa.Column("item_id", sa.String(32), sa.ForeignKey("work_items.id"), primary_key=True),
        sa.Column("rater_id", sa.String, primary_key=True),
        sa.Column("batch_id", sa.String(32), sa.ForeignKey("batches.id"), nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("shown", sa.String, nullable=False),
        sa.Column("guideline", sa.String(32)),
        sa.Column("since", sa.Double, nullable=False),
        sa.Column("until", sa.Double, nullable=False),
    )
    op.create_index("ix_leases_rater", "leases", ["rater_id", "state", "batch_id"])
    op.create_index("ix_leases_state", "leases", ["batch_id", "state", "until"])
    op.create_table(
        "turns",
        sa.Column("item_id", sa.String(32), sa.ForeignKey("work_items.id"), primary_key=True),
        sa.Column("rater_id", sa.String, primary_key=True),
        sa.Column("number", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("shown", sa.String, nullable=False),
        sa.Column("chosen", sa.SmallInteger),
        sa.Column("key", sa.String(64)),
        sa.Column("label_id", sa.String),
        sa.Column("since", sa.Double, nullable=False),
    )


def _said() -> None:
    op.create_table(
        "answers",
        _n(),
        sa.Column("id", sa.String(32), nullable=False, unique=True),
        sa.Column("item_id", sa.String(32), sa.ForeignKey("work_items.id"), nullable=False),
        sa.Column("batch_id", sa.String(32), sa.ForeignKey("batches.id"), nullable=False),
        sa.Column("rater_id", sa.String, nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("revision", sa.SmallInteger, nullable=False),
        sa.Column("standing", sa.Boolean, nullable=False),
        sa.Column("role", sa.String(12), nullable=False),
        sa.Column("kind", sa.String(10), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("shown", sa.String, nullable=False),
        sa.Column("labels", sa.Text, nullable=False),
        sa.Column("score", sa.Double),
        sa.Column("seconds", sa.Double),
        sa.Column("guideline", sa.String(32)),
        sa.Column("created", sa.String, nullable=False),
        sa.UniqueConstraint("rater_id", "key"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_answers_item", "answers", ["item_id", "rater_id", "revision"])
    op.create_index("ix_answers_rater", "answers", ["rater_id", "n"])
    op.create_index("ix_answers_batch", "answers", ["batch_id", "n"])
    op.create_table(
        "drafts",
        sa.Column("item_id", sa.String(32), sa.ForeignKey("work_items.id"), primary_key=True),
        sa.Column("rater_id", sa.String, primary_key=True),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("saved", sa.Double, nullable=False),
    )
    op.create_table(
        "remarks",
        _n(),
        sa.Column("item_id", sa.String(32), sa.ForeignKey("work_items.id"), nullable=False),
        sa.Column("user_id", sa.String, nullable=False),
        sa.Column("kind", sa.String(10), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("created", sa.String, nullable=False),
        sa.Column("settled", sa.Boolean, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_remarks_item", "remarks", ["item_id"])


def _people() -> None:
    op.create_table(
        "users",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("login", sa.String, unique=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("role", sa.String(10), nullable=False),
        sa.Column("may_export", sa.Boolean, nullable=False),
        sa.Column("language", sa.String(10), nullable=False),
        sa.Column("password", sa.String, nullable=False),
        sa.Column("active", sa.Boolean, nullable=False),
        sa.Column("hourly_cost", sa.Double),
        sa.Column("created", sa.String, nullable=False),
    )
    op.create_table(
        "sessions",
        sa.Column("hash", sa.String(64), primary_key=True),
        sa.Column("user_id", sa.String, sa.ForeignKey("users.id"), nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("seen", sa.Double, nullable=False),
        sa.Column("expires", sa.Double, nullable=False),
        sa.Column("agent", sa.String, nullable=False),
    )
    op.create_index("ix_sessions_user", "sessions", ["user_id"])
    op.create_table(
        "invitations",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("hash", sa.String(64), nullable=False, unique=True),
        sa.Column("role", sa.String(10), nullable=False),
        sa.Column("may_export", sa.Boolean, nullable=False),
        sa.Column("note", sa.String, nullable=False),
        sa.Column("author", sa.String),
        sa.Column("created", sa.String, nullable=False),
        sa.Column("expires", sa.Double, nullable=False),
        sa.Column("used_by", sa.String),
        sa.Column("revoked", sa.Boolean, nullable=False),
    )
    op.create_table(
        "audit",
        _n(),
        sa.Column("created", sa.String, nullable=False),
        sa.Column("user_id", sa.String),
        sa.Column("action", sa.String(40), nullable=False),
        sa.Column("subject", sa.String, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_audit_user", "audit", ["user_id"])


def _keys() -> None:
    op.create_table(
        "throttles",
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("until", sa.Double, nullable=False),
        sa.Column("seen", sa.Double, nullable=False),
    )
    op.create_table(
        "api_tokens",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("hash", sa.String(64), nullable=False, unique=True),
        sa.Column("user_id", sa.String, sa.ForeignKey("users.id"), nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("scopes", sa.Text, nullable=False),
        sa.Column("created", sa.String, nullable=False),
        sa.Column("expires", sa.Double),
        sa.Column("used", sa.Double),
        sa.Column("revoked", sa.Boolean, nullable=False),
    )
    op.create_table(
        "studio_keys",
        sa.Column("name", sa.String(40), primary_key=True),
        sa.Column("value", sa.String, nullable=False),
    )


def _webhooks() -> None:
    op.create_table(
        "webhooks",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("url", sa.String, nullable=False),
        sa.Column("secret", sa.String, nullable=False),
        sa.Column("events", sa.Text, nullable=False),
        sa.Column("author", sa.String),
        sa.Column("created", sa.String, nullable=False),
        sa.Column("active", sa.Boolean, nullable=False),
    )
    op.create_table(
        "deliveries",
        _n(),
        sa.Column("id", sa.String(32), nullable=False, unique=True),
        sa.Column("webhook_id", sa.String(32), sa.ForeignKey("webhooks.id"), nullable=False),
        sa.Column("event", sa.String(40), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("due", sa.Double),
        sa.Column("status", sa.Integer),
        sa.Column("error", sa.String, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_deliveries_due", "deliveries", ["due"])
