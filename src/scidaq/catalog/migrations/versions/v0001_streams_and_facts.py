"""Streams, epochs, segments, gaps and facts.

Times are UTC nanoseconds; rows are half-open ranges `[first, end)` of an epoch; names ending in `_json` hold JSON.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "fact",
        sa.Column("seq", sa.BigInteger, autoincrement=False),
        sa.Column("t_ns", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("data_json", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_fact"),
    )
    op.create_index("ix_fact_kind", "fact", ["kind"])
    op.create_table(
        "stream",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("first_seen_ns", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_stream"),
    )
    op.create_table(
        "epoch",
        sa.Column("stream", sa.Text, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("schema_json", sa.Text, nullable=False),
        sa.Column("anchor_json", sa.Text, nullable=False),
        sa.Column("counter", sa.Text),
        sa.Column("origin", sa.BigInteger, nullable=False),
        sa.Column("backfill", sa.Boolean, nullable=False),
        sa.Column("began_ns", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("stream", "number", name="pk_epoch"),
        sa.ForeignKeyConstraint(["stream"], ["stream.id"], name="fk_epoch_stream_stream"),
    )
    op.create_table(
        "segment",
        sa.Column("uuid", sa.String(36), nullable=False),
        sa.Column("stream", sa.Text, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("first", sa.BigInteger, nullable=False),
        sa.Column("end", sa.BigInteger, nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("gap_rows", sa.BigInteger, nullable=False),
        sa.Column("first_ns", sa.BigInteger),
        sa.Column("last_ns", sa.BigInteger),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("ranges_json", sa.Text, nullable=False),
        sa.Column("ledger_json", sa.Text, nullable=False),
        sa.Column("created_ns", sa.BigInteger, nullable=False),
        sa.Column("sealed_ns", sa.BigInteger),
        sa.PrimaryKeyConstraint("uuid", name="pk_segment"),
        sa.ForeignKeyConstraint(
            ["stream", "epoch"], ["epoch.stream", "epoch.number"], name="fk_segment_stream_epoch_epoch"
        ),
    )
    op.create_index("ix_segment_stream_epoch_first", "segment", ["stream", "epoch", "first"])
    op.create_index("ix_segment_stream_first_ns_last_ns", "segment", ["stream", "first_ns", "last_ns"])
    op.create_table(
        "gap",
        sa.Column("stream", sa.Text, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("first", sa.BigInteger, nullable=False),
        sa.Column("end", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.String(32), nullable=False),
        sa.Column("unknown", sa.Boolean, nullable=False),
        sa.Column("start_ns", sa.BigInteger),
        sa.Column("end_ns", sa.BigInteger),
        sa.Column("open", sa.Boolean, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("stream", "epoch", "first", "end", "reason", "unknown", name="pk_gap"),
        sa.ForeignKeyConstraint(
            ["stream", "epoch"], ["epoch.stream", "epoch.number"], name="fk_gap_stream_epoch_epoch"
        ),
    )
