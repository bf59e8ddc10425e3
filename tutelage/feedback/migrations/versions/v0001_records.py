"""The first schema: prompts, completions, annotators, three kinds of labels, and retractions.

A migration is appended, never edited: databases of this version exist.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.sql.schema import SchemaItem

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _n() -> sa.Column[int]:
    return sa.Column("n", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True)


def _label(name: str, *columns: SchemaItem) -> None:
    op.create_table(
        name,
        _n(),
        sa.Column("id", sa.String, nullable=False, unique=True),
        sa.Column("prompt_id", sa.String(32), sa.ForeignKey("prompts.id"), nullable=False),
        sa.Column("annotator_id", sa.String, sa.ForeignKey("annotators.id"), nullable=False),
        sa.Column("split", sa.String(10), nullable=False),
        sa.Column("created", sa.String, nullable=False),
        *columns,
        sqlite_autoincrement=True,
    )
    op.create_index(f"ix_{name}_split", name, ["split", "n"])
    op.create_index(f"ix_{name}_annotator", name, ["annotator_id", "n"])


def upgrade() -> None:
    _texts()
    _label("demonstrations", sa.Column("text", sa.Text, nullable=False))
    _label(
        "comparisons",
        sa.Column("strength", sa.SmallInteger),
        sa.Column("target", sa.Double),
        sa.Column("flags", sa.Text, nullable=False),
        sa.Column("seconds", sa.Double),
        sa.Column("guideline", sa.String),
    )
    op.create_table(
        "items",
        sa.Column("comparison_id", sa.String, sa.ForeignKey("comparisons.id"), primary_key=True),
        sa.Column("position", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("completion_id", sa.String, sa.ForeignKey("completions.id"), nullable=False),
        sa.Column("rank", sa.SmallInteger, nullable=False),
        sa.Column("place", sa.SmallInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    _label(
        "ratings",
        sa.Column("completion_id", sa.String, sa.ForeignKey("completions.id"), nullable=False),
        sa.Column("score", sa.SmallInteger, nullable=False),
        sa.Column("flags", sa.Text, nullable=False),
        sa.Column("seconds", sa.Double),
        sa.Column("guideline", sa.String),
    )
    op.create_table(
        "retractions", sa.Column("id", sa.String, primary_key=True), sa.Column("created", sa.String, nullable=False)
    )


def _texts() -> None:
    op.create_table(
        "prompts",
        _n(),
        sa.Column("id", sa.String(32), nullable=False, unique=True),
        sa.Column("split", sa.String(10), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_prompts_split", "prompts", ["split", "n"])
    op.create_table(
        "annotators",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("kind", sa.String(10), nullable=False),
        sa.Column("name", sa.String, nullable=False),
    )
    op.create_table(
        "completions",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("prompt_id", sa.String(32), sa.ForeignKey("prompts.id"), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("finish", sa.String(10), nullable=False),
        sa.Column("source", sa.Text, nullable=False),
    )
