"""Rows of streams as files that other programs open, whole or not at all.

`export` tells the story, `formats` who takes part in it; a module each for the families of formats.
"""

from scidaq.archive.exports.exporting import Exported, Request, Source, export
from scidaq.archive.exports.formats import FORMATS, LIMITS, Format, Limit
from scidaq.archive.exports.table import Origin

__all__ = ["FORMATS", "LIMITS", "Exported", "Format", "Limit", "Origin", "Request", "Source", "export"]
