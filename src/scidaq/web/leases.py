"""Leases: while somebody has that of an instrument, nobody else changes what it does.

In memory: with the station all leases end. A lease is no right, which is what scopes are for; it keeps two clients that
both may from driving one instrument at once.
"""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from dataclasses import dataclass, replace

from scidaq.web.problem import Problem

LONGEST_S = 3600.0


@dataclass(frozen=True, slots=True)
class Lease:
    """Who has an instrument, and until when."""

    instrument: str
    holder: str
    token: str
    until_s: float
    """On the monotonic clock."""

    @property
    def left_s(self) -> float:
        """For how long still."""
        return max(0.0, self.until_s - time.monotonic())


class Leases:
    """Those of all instruments. From any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[str, Lease] = {}

    def of(self, instrument: str) -> Lease | None:
        """The lease of an instrument that is in force."""
        held = self._held.get(instrument)
        return held if held is not None and held.left_s > 0 else None

    def take(self, instrument: str, holder: str, ttl_s: float, token: str = "") -> Lease:
        """A new lease, or with the token of the one in force that one for longer. Raises `Problem` (423)."""
        with self._lock:
            held = self.of(instrument)
            until_s = time.monotonic() + ttl_s
            if held is None:
                if token:
                    raise _over(instrument)
                held = Lease(instrument, holder, secrets.token_urlsafe(24), until_s)
            elif not _is(token, held):
                raise _taken(held)
            else:
                held = replace(held, until_s=until_s)
            self._held[instrument] = held
            return held

    def check(self, instrument: str, token: str) -> None:
        """Whether a change may be made by who has this token, be it none. Raises `Problem` (423)."""
        held = self.of(instrument)
        if held is None:
            if token:
                raise _over(instrument)
        elif not _is(token, held):
            raise _taken(held)

    def end(self, instrument: str, token: str, *, force: bool = False) -> None:
        """Give it back, or with `force` take it away. Raises `Problem` (423)."""
        with self._lock:
            if not force:
                self.check(instrument, token)
            self._held.pop(instrument, None)


def _is(token: str, held: Lease) -> bool:
    return hmac.compare_digest(token.encode(), held.token.encode())


def _taken(held: Lease) -> Problem:
    return Problem(
        423,
        "leased",
        f"{held.instrument} is leased by {held.holder!r} for {held.left_s:.0f} s more: wait, or ask them to give it "
        "back; on the station's machine its owner can break the lease over the control socket",
        {"Retry-After": str(max(1, round(held.left_s)))},
    )


def _over(instrument: str) -> Problem:
    return Problem(423, "lease-over", f"this is no lease of {instrument}: it has ended, so take a new one")
