"""What is recorded, after the fact: exports in the formats of other programs.

Works on blocks and gaps in the order of reading; knows nothing of where they come from.
"""

from scidaq.archive.exports import FORMATS, LIMITS, Exported, Format, Limit, Origin, Request, Source, export

__all__ = ["FORMATS", "LIMITS", "Exported", "Format", "Limit", "Origin", "Request", "Source", "export"]
