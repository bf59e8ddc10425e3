"""The tables of the store. `migrations/` builds them; a test holds the two equal.

A text is kept in one place: a comparison names its completions through `items`, and its prompt and annotator by id.
Times are ISO 8601 text, so that what comes out is what went in, on both databases. `n` counts rows in the order they
were added.
"""

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
)
from sqlalchemy.sql.schema import SchemaItem

metadata = MetaData()
VERSION_TABLE = "tutelage_version"


def row_number() -> Column[int]:
    """A row number that only grows; SQLite numbers rows by itself only where the type is INTEGER."""
    return Column("n", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)


def _label(name: str, *columns: SchemaItem) -> Table:
    """A table of labels: who said what about which prompt; its split is the prompt's, here for SQL to filter by."""
    return Table(
        name,
        metadata,
        row_number(),
        Column("id", String, nullable=False, unique=True),
        Column("prompt_id", ForeignKey("prompts.id"), nullable=False),
        Column("annotator_id", ForeignKey("annotators.id"), nullable=False),
        Column("split", String(10), nullable=False),
        Column("created", String, nullable=False),
        *columns,
        Index(f"ix_{name}_split", "split", "n"),
        Index(f"ix_{name}_annotator", "annotator_id", "n"),
        sqlite_autoincrement=True,
    )


prompts = Table(
    "prompts",
    metadata,
    row_number(),
    Column("id", String(32), nullable=False, unique=True),
    Column("split", String(10), nullable=False),
    Column("body", Text, nullable=False),  # the prompt as JSON
    Index("ix_prompts_split", "split", "n"),
    sqlite_autoincrement=True,
)
annotators = Table(
    "annotators",
    metadata,
    Column("id", String, primary_key=True),
    Column("kind", String(10), nullable=False),
    Column("name", String, nullable=False),
)
completions = Table(
    "completions",
    metadata,
    Column("id", String, primary_key=True),
    Column("prompt_id", ForeignKey("prompts.id"), nullable=False),
    Column("text", Text, nullable=False),
    Column("finish", String(10), nullable=False),
    Column("source", Text, nullable=False),  # how it was made, as JSON
)
demonstrations = _label("demonstrations", Column("text", Text, nullable=False))
comparisons = _label(
    "comparisons",
    Column("strength", SmallInteger),
    Column("target", Double),
    Column("flags", Text, nullable=False),  # a JSON list
    Column("seconds", Double),
    Column("guideline", String),
)
items = Table(
    "items",
    metadata,
    Column("comparison_id", ForeignKey("comparisons.id"), primary_key=True),
    Column("position", SmallInteger, primary_key=True, autoincrement=False),
    Column("completion_id", ForeignKey("completions.id"), nullable=False),
    Column("rank", SmallInteger, nullable=False),
    Column("place", SmallInteger, nullable=False),  # where it stood on the screen
    sqlite_with_rowid=False,
)
ratings = _label(
    "ratings",
    Column("completion_id", ForeignKey("completions.id"), nullable=False),
    Column("score", SmallInteger, nullable=False),
    Column("flags", Text, nullable=False),  # a JSON list
    Column("seconds", Double),
    Column("guideline", String),
)
retractions = Table(
    "retractions",
    metadata,
    Column("id", String, primary_key=True),  # of the label taken back
    Column("created", String, nullable=False),
)
