"""Watching the station: health, metrics, logs, and telling somebody.

Reads what the rooms say of themselves (`stats()`, `judge`), and knows nothing of what they do: it imports none of them.
"""

from scidaq.observe.health import Check, Component, Health, Report
from scidaq.observe.options import LoggingOptions, MonitoringOptions
from scidaq.observe.redaction import Redactor

__all__ = ["Check", "Component", "Health", "LoggingOptions", "MonitoringOptions", "Redactor", "Report"]
