"""Streams, ranges and channels in; blocks and gaps out: from hot and sealed segments and the journal alike.

Works from the files, beside a running station or without one; the catalog only makes it quicker. Knows nothing of how
the rows were written. `open_store` (`scidaq.open`) is the door for scripts and notebooks.
"""

from scidaq.query.buckets import Grid, decimated
from scidaq.query.drawing import svg_of_blocks
from scidaq.query.folding import Buckets, Fold, Lane, Newest, arrays_of, lanes_of
from scidaq.query.pyramid import START, Builder, Chunk, Overview, Part, Position, Pyramid, overview
from scidaq.query.reader import Place, Reader, StreamSummary, select
from scidaq.query.rows import Rows
from scidaq.query.run import RunView
from scidaq.query.settings import settings_at, snapshot_at
from scidaq.query.sql import SqlLimits, SqlResult, run_sql
from scidaq.query.sql_forms import FORMS, write_sql
from scidaq.query.store import Store, open_store
from scidaq.query.stream import Stream
from scidaq.query.view import Drawn, chosen, drawn, shown

__all__ = [
    "FORMS",
    "START",
    "Buckets",
    "Builder",
    "Chunk",
    "Drawn",
    "Fold",
    "Grid",
    "Lane",
    "Newest",
    "Overview",
    "Part",
    "Place",
    "Position",
    "Pyramid",
    "Reader",
    "Rows",
    "RunView",
    "SqlLimits",
    "SqlResult",
    "Store",
    "Stream",
    "StreamSummary",
    "arrays_of",
    "chosen",
    "decimated",
    "drawn",
    "lanes_of",
    "open_store",
    "overview",
    "run_sql",
    "select",
    "settings_at",
    "shown",
    "snapshot_at",
    "svg_of_blocks",
    "write_sql",
]
