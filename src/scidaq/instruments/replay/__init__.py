"""Files of somebody else's, or of our own, as a sequence of blocks; and the driver that plays them as an instrument."""

from scidaq.instruments.replay.driver import ReplayDriver, ReplayOptions
from scidaq.instruments.replay.foreign import Reading, Table
from scidaq.instruments.replay.opening import FORMATS, guess, tables

__all__ = ["FORMATS", "Reading", "ReplayDriver", "ReplayOptions", "Table", "guess", "tables"]
