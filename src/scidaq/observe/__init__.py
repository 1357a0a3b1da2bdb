"""Watching the station: health, metrics, logs, and telling somebody.

Reads what the rooms say of themselves (`stats()`, `judge`), and knows nothing of what they do: it imports none of them.
"""

from scidaq.observe.events import data_events, instrument_events
from scidaq.observe.health import Check, Component, Health, Report
from scidaq.observe.host import Pace, Process, usage
from scidaq.observe.logs import Logs, LogStats
from scidaq.observe.metrics import CATALOGUE, MAX_LABELLED, Metric, Metrics, Sample
from scidaq.observe.notify import Notifier, NotifyOptions
from scidaq.observe.options import LoggingOptions, MonitoringOptions
from scidaq.observe.redaction import Redactor
from scidaq.observe.systemd import Service

__all__ = [
    "CATALOGUE",
    "MAX_LABELLED",
    "Check",
    "Component",
    "Health",
    "LogStats",
    "LoggingOptions",
    "Logs",
    "Metric",
    "Metrics",
    "MonitoringOptions",
    "Notifier",
    "NotifyOptions",
    "Pace",
    "Process",
    "Redactor",
    "Report",
    "Sample",
    "Service",
    "data_events",
    "instrument_events",
    "usage",
]
