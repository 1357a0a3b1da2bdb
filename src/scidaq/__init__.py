"""scidaq: the data-acquisition server that a laboratory leaves running."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scidaq.client import connect, connect_async, push
    from scidaq.query import open_store as open  # noqa: A004
    from scidaq.station import Recording, record
    from scidaq.station import open_runs as runs

__version__ = "0.1.0"
__all__ = ["Recording", "__version__", "connect", "connect_async", "open", "push", "record", "runs"]


def __getattr__(name: str) -> Any:
    """What takes half a second to import, which those who only want a block need not wait for."""
    if name == "open":
        from scidaq.query import open_store

        return open_store
    if name in ("connect", "connect_async", "push"):
        from scidaq import client

        return getattr(client, name)
    if name not in ("Recording", "record", "runs"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from scidaq import station

    return station.open_runs if name == "runs" else getattr(station, name)
