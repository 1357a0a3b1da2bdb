"""A running station from afar: over HTTP and its live socket, for scripts and notebooks. `connect` is the door.

Rows come back as the blocks that they were, so that they can be converted as those of `scidaq.open`. Knows nothing of
how a station works inside.
"""

from scidaq.client.aio import (
    AsyncInstrument,
    AsyncLease,
    AsyncRun,
    AsyncRunContext,
    AsyncStation,
    AsyncStream,
    connect_async,
)
from scidaq.client.facts import EpochFacts, Failure, InstrumentFacts, Parameter, Status, StreamFacts
from scidaq.client.live import Event, Frame, Skipped
from scidaq.client.pushing import Pusher, push
from scidaq.client.station import (
    Instruments,
    Lease,
    Parameters,
    RemoteInstrument,
    RemoteRun,
    RemoteStation,
    RemoteStream,
    RunContext,
    Runs,
    connect,
)

__all__ = [
    "AsyncInstrument",
    "AsyncLease",
    "AsyncRun",
    "AsyncRunContext",
    "AsyncStation",
    "AsyncStream",
    "EpochFacts",
    "Event",
    "Failure",
    "Frame",
    "InstrumentFacts",
    "Instruments",
    "Lease",
    "Parameter",
    "Parameters",
    "Pusher",
    "RemoteInstrument",
    "RemoteRun",
    "RemoteStation",
    "RemoteStream",
    "RunContext",
    "Runs",
    "Skipped",
    "Status",
    "StreamFacts",
    "connect",
    "connect_async",
    "push",
]
