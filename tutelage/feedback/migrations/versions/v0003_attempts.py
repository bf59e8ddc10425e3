"""The third schema: a delivery to a webhook keeps what became of each of its attempts.

A migration is appended, never edited: databases of this version exist.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("deliveries", sa.Column("history", sa.Text))
