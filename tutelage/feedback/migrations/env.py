"""Alembic's entry: run the migrations over the connection that `tutelage.feedback.database` hands in."""

from alembic import context

from tutelage.feedback import people_tables, work_tables  # noqa: F401 - they add themselves to the metadata
from tutelage.feedback.tables import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, version_table=VERSION_TABLE
)
context.run_migrations()
