"""Every error that scidaq raises on purpose, as one tree on one screen.

A leaf carries the facts as attributes and says in its message what happened, where, and what to do next. The class
tells by whom it can be mended: the operator (`ConfigError`), the instrument (`InstrumentError`), the disk or the data
(`StoreError`), the caller (`RequestError`). `retry` says whether the same act may succeed later without a change.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class ScidaqError(Exception):
    """The root: anything scidaq reports on purpose."""

    retry = False
    """True when trying again later may help."""


# ---- the caller asked for something that cannot be ------------------------------------------------------------------


class RequestError(ScidaqError, ValueError):
    """What was asked cannot be answered; the message says what would be."""


class Unknown(RequestError, LookupError):
    """There is nothing of this name or id."""


class TooMany(RequestError):
    """As much is waiting to be done already as there is room for."""

    retry = True


class NotAllowed(ScidaqError, PermissionError):
    """The station does not know the key, or this may not be done with it."""


class Leased(RequestError):
    """Somebody else has a lease of the instrument."""

    retry = True


class DefinedElsewhere(RequestError):
    """It stands in a file, or a variable, that only its owner changes; the message says in which."""


class QueryRefused(RequestError):
    """SQL that is not one SELECT over what is recorded, or that contradicts itself."""


class QueryLimit(QueryRefused):
    """A query took more time, memory, rows or bytes than it may."""


class UnknownInstrument(Unknown):
    """No instrument of this id is configured."""

    def __init__(self, instrument: str, known: Sequence[str] = (), near: Sequence[str] = ()) -> None:
        self.instrument, self.known, self.near = instrument, tuple(known), tuple(near)
        hint = f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""
        super().__init__(f"no instrument {instrument!r}{hint}; there are {', '.join(known) or 'none'}")


class UnknownStream(Unknown):
    """No stream of this name is stored."""

    def __init__(self, stream: str, known: Sequence[str] = (), hint: str = "") -> None:
        self.stream, self.known = stream, tuple(known)
        super().__init__(f"no stream {stream!r}{hint}; `scidaq streams` lists those there are")


class UnknownRun(Unknown):
    """No run has this name or id."""

    def __init__(self, run: str, known: Sequence[str] = (), near: Sequence[str] = ()) -> None:
        self.run, self.known, self.near = run, tuple(known), tuple(near)
        hint = f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""
        super().__init__(f"no run {run!r}{hint}; `scidaq run list` shows those there are")


class InvalidBlock(RequestError):
    """A block, channel or epoch that contradicts itself (a fault of the code that made it)."""


class UnreadableFile(RequestError):
    """A file of somebody else's cannot be read as what it seems to be; `where` names the line, column or byte."""

    def __init__(self, path: Path | str, where: str, reason: str) -> None:
        self.path, self.where, self.reason = Path(path), where, reason
        super().__init__(f"{path}{', ' if where else ''}{where}: {reason}")


# ---- the operator can mend it ---------------------------------------------------------------------------------------


class ConfigError(ScidaqError, ValueError):
    """The configuration is wrong; `problems` names every mistake with its place."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class StationError(ScidaqError):
    """The data directory cannot be used as it is."""


class StationBusy(StationError):
    """Another process owns the data directory."""

    retry = True


class StationUnreachable(StationError, ConnectionError):
    """No station answers at an address, or it stopped answering; nothing was changed."""

    retry = True


class OutcomeUnknown(StationError):
    """The connection broke while a change was made, and nobody can say whether it was: look before asking again."""


class ForeignDirectory(StationError):
    """The directory holds something that scidaq did not make, or another format."""


# ---- the instrument -------------------------------------------------------------------------------------------------


class InstrumentError(ScidaqError):
    """An instrument did not do as it should; supervision reconnects."""

    retry = True


class InstrumentTimeout(InstrumentError, TimeoutError):
    """The instrument did not answer before the deadline."""


class InstrumentDisconnected(InstrumentError, ConnectionError):
    """The connection to the instrument could not be made, or broke."""


class WrongIdentity(InstrumentError):
    """Something else than the configured instrument answers at its address."""


class GarbledReply(InstrumentError, ValueError):
    """The instrument's answer cannot be understood; it is reported as missing, never guessed."""


class ParameterError(InstrumentError, ValueError):
    """A parameter was refused: unknown, outside its limits, or read back otherwise than set."""

    retry = False


class UnknownParameter(ParameterError, LookupError):
    """The instrument has no parameter of this name."""


# ---- the disk and the data ------------------------------------------------------------------------------------------


class StoreError(ScidaqError):
    """Samples could not be kept or found again."""


class WriteFailed(StoreError, OSError):
    """The operating system refused a write or a sync; the rows stay in the ring and are written elsewhere."""

    retry = True


class DiskStalled(StoreError, TimeoutError):
    """The disk did not take rows in time; those that were added stay in memory and are written when it does."""

    retry = True


class Corrupt(StoreError):
    """Bytes on disk are not what was written there."""

    def __init__(self, path: Path | str, offset: int, reason: str) -> None:
        self.path, self.offset, self.reason = Path(path), offset, reason
        super().__init__(f"{path} at byte {offset}: {reason}; `scidaq verify` shows what is intact")


class ConflictingRows(StoreError):
    """Rows that are already recorded arrived again with other content; the first stay, the others are quarantined."""


class CatalogError(StoreError):
    """The catalog cannot be opened or written; it can be rebuilt from the segments and facts."""

    retry = True


class CatalogDamaged(CatalogError):
    """The catalog's file is no sound database any more: the next start puts it aside and makes it again."""

    retry = False
