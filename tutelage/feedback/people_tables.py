"""The tables of people: users, sessions, invitations, API tokens, the audit trail; and the webhooks that they set up.

Of what lets somebody in, only a hash is kept. A moment that is compared is a number, seconds since 1970; one that is
only told is ISO 8601 text.
"""

from sqlalchemy import Boolean, Column, Double, ForeignKey, Index, Integer, String, Table, Text

from tutelage.feedback.tables import metadata, row_number

users = Table(
    "users",
    metadata,
    Column("id", String, primary_key=True),  # person-<hex>: the annotator's id, and all that labels know of them
    Column("login", String, unique=True),  # null once erased
    Column("name", String, nullable=False),
    Column("role", String(10), nullable=False),  # admin, lead, rater
    Column("may_export", Boolean, nullable=False),
    Column("language", String(10), nullable=False),
    Column("password", String, nullable=False),  # an argon2id hash; empty: nobody may sign in
    Column("active", Boolean, nullable=False),
    Column("hourly_cost", Double),  # what an hour of theirs costs, in the project's currency
    Column("created", String, nullable=False),
)
sessions = Table(
    "sessions",
    metadata,
    Column("hash", String(64), primary_key=True),
    Column("user_id", ForeignKey("users.id"), nullable=False),
    Column("created", Double, nullable=False),
    Column("seen", Double, nullable=False),
    Column("expires", Double, nullable=False),
    Column("agent", String, nullable=False),  # the browser's own word for itself
    Index("ix_sessions_user", "user_id"),
)
invitations = Table(
    "invitations",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("hash", String(64), nullable=False, unique=True),
    Column("role", String(10), nullable=False),
    Column("may_export", Boolean, nullable=False),
    Column("note", String, nullable=False),  # whom it is for
    Column("author", String),  # of a user; null for the first administrator's
    Column("created", String, nullable=False),
    Column("expires", Double, nullable=False),
    Column("used_by", String),  # of a user
    Column("revoked", Boolean, nullable=False),
)
throttles = Table(
    "throttles",
    metadata,
    Column("key", String(64), primary_key=True),  # hash of what is counted: a login, an address, a token
    Column("tries", Integer, nullable=False),
    Column("until", Double, nullable=False),  # refused before this moment
    Column("seen", Double, nullable=False),
)
api_tokens = Table(
    "api_tokens",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("hash", String(64), nullable=False, unique=True),
    Column("user_id", ForeignKey("users.id"), nullable=False),
    Column("name", String, nullable=False),
    Column("scopes", Text, nullable=False),  # a JSON list
    Column("created", String, nullable=False),
    Column("expires", Double),
    Column("used", Double),
    Column("revoked", Boolean, nullable=False),
)
audit = Table(
    "audit",
    metadata,
    row_number(),
    Column("created", String, nullable=False),
    Column("user_id", String),  # who did it; null for the console
    Column("action", String(40), nullable=False),  # such as sign-in, invite, export, erase
    Column("subject", String, nullable=False),  # what it was done to: an id
    Column("detail", Text, nullable=False),  # JSON
    Index("ix_audit_user", "user_id"),
    sqlite_autoincrement=True,
)
studio_keys = Table(
    "studio_keys",
    metadata,
    Column("name", String(40), primary_key=True),  # csrf: what CSRF tokens are made with
    Column("value", String, nullable=False),
)
webhooks = Table(
    "webhooks",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("url", String, nullable=False),
    Column("secret", String, nullable=False),  # what payloads are signed with
    Column("events", Text, nullable=False),  # a JSON list
    Column("author", String),  # of a user
    Column("created", String, nullable=False),
    Column("active", Boolean, nullable=False),
)
deliveries = Table(
    "deliveries",
    metadata,
    row_number(),
    Column("id", String(32), nullable=False, unique=True),
    Column("webhook_id", ForeignKey("webhooks.id"), nullable=False),
    Column("event", String(40), nullable=False),
    Column("body", Text, nullable=False),  # JSON
    Column("created", Double, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("due", Double),  # when to try next; null: delivered or given up
    Column("status", Integer),  # of the last answer
    Column("error", String, nullable=False),
    Column("history", Text),  # a JSON list: the latest attempts with what became of them; null before the first
    Index("ix_deliveries_due", "due"),
    sqlite_autoincrement=True,
)
