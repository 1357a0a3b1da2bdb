"""What authors of drivers and stages test with: contract suites, fakes, a clock that stands still."""

from scidaq.testing.clock import FakeClock
from scidaq.testing.driver import DriverContract
from scidaq.testing.files import FilesContract
from scidaq.testing.instruments import FakeDriver, FakeInstrument, ListSink

__all__ = ["DriverContract", "FakeClock", "FakeDriver", "FakeInstrument", "FilesContract", "ListSink"]
