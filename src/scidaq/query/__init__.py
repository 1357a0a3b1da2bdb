"""Streams, ranges and channels in; blocks and gaps out: from hot and sealed segments and the journal alike.

Works from the files, beside a running station or without one; the catalog only makes it quicker. Knows nothing of how
the rows were written. `open_store` (`scidaq.open`) is the door for scripts and notebooks.
"""

from scidaq.query.buckets import Grid, decimated
from scidaq.query.folding import Buckets, Fold, Lane, Newest, arrays_of, lanes_of
from scidaq.query.reader import Place, Reader, StreamSummary
from scidaq.query.rows import Rows
from scidaq.query.run import RunView
from scidaq.query.settings import settings_at, snapshot_at
from scidaq.query.store import Store, open_store
from scidaq.query.stream import Stream

__all__ = [
    "Buckets",
    "Fold",
    "Grid",
    "Lane",
    "Newest",
    "Place",
    "Reader",
    "Rows",
    "RunView",
    "Store",
    "Stream",
    "StreamSummary",
    "arrays_of",
    "decimated",
    "lanes_of",
    "open_store",
    "settings_at",
    "snapshot_at",
]
