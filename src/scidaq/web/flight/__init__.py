"""The door for bulk data: Arrow Flight in a process of its own, begun and watched by the station.

Its own process, because gRPC takes messages of any length before anybody can look at them: who sends too much ends
that process, not the recording. Ranges are read there from the files. See `docs/decisions/web-flight-process.md`.
"""

from scidaq.web.flight.process import FlightDoor, FlightStats

__all__ = ["FlightDoor", "FlightStats"]
