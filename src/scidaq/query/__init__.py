"""Streams, ranges and channels in; blocks and gaps out: from hot and sealed segments and the journal alike.

Works from the files, beside a running station or without one; the catalog only makes it quicker. Knows nothing of how
the rows were written.
"""

from scidaq.query.reader import Reader, StreamSummary
from scidaq.query.settings import settings_at, snapshot_at

__all__ = ["Reader", "StreamSummary", "settings_at", "snapshot_at"]
