"""What the operator may choose about keeping data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le


@dataclass(frozen=True)
class Options:
    """The section `storage` of the configuration."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    sync_interval_ms: Annotated[int, Ge(10), Le(10_000)] = 200
    """How often what has come in is made durable: the most that a power cut can take."""
    segment_bytes: Annotated[int, Ge(1 << 20)] = 256 << 20
    """Size from which a segment is sealed and the next begun."""
    segment_age_s: Annotated[float, Ge(60)] = 3600.0
    """Age from which a segment of at least 1 MiB is sealed (any is after 24 h)."""
    direct_io: Literal["auto", "never"] = "auto"
    """Whether fast streams bypass the page cache where the file system takes that."""
    journal_move_s: Annotated[float, Ge(1)] = 60.0
    """How long rows of slow streams stay in the journal at most before they move to their segments."""
    write_buffers: Annotated[int, Ge(4)] = 16
    """How many buffers encoded data may wait in for the disk."""
    write_buffer_bytes: Annotated[int, Ge(1 << 20)] = 4 << 20
    """Size of each."""
    low_space_bytes: Annotated[int, Ge(0)] = 256 << 20
    """Free space below which rows are not written: they wait, then become gaps, until there is room (at most 1/8 of the
    file system)."""
    ballast_bytes: Annotated[int, Ge(0)] = 32 << 20
    """Size of a file that is removed when there is no other room to close cleanly (at most 1/16 of the file system)."""
    allow_network_filesystem: bool = False
    """Whether the data directory may lie on a network file system, whose syncs promise less."""
