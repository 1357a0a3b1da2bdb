"""How often one may come: rates, pauses after wrong keys, and what counts as one address; for all doors."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict

_PEERS = 4096
"""How many addresses and keys are remembered for their rates; the ones not seen for the longest are forgotten."""
_FREE_FAILURES = 5
_LONGEST_BAN_S = 300.0


def neighbourhood(peer: str) -> str:
    """What counts as one address: an IPv6 network of 64 bits, of which anybody who has one has all addresses."""
    try:
        found = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return peer
    if found.version == 4:
        return peer
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, 64), strict=False))


class Buckets:
    """How often each of many may come: a bucket of tokens each; those not seen for the longest are forgotten."""

    def __init__(self, per_second: float, burst: float) -> None:
        self._rate, self._burst = per_second, max(1.0, burst)
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_s(self, who: str, now_s: float) -> float:
        """0 when one more is within the rate, and then it counts; else the seconds until it would be."""
        if not self._rate:
            return 0.0
        tokens, then_s = self._left.pop(who, (self._burst, now_s))
        tokens = min(self._burst, tokens + (now_s - then_s) * self._rate)
        allowed = tokens >= 1.0
        self._left[who] = (tokens - allowed, now_s)
        if len(self._left) > _PEERS:
            self._left.popitem(last=False)
        return 0.0 if allowed else (1.0 - tokens) / self._rate


class Bans:
    """Addresses that came with wrong keys: after a few of them each has to wait, twice as long every time."""

    def __init__(self) -> None:
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()
        """How many in a row, and until when it has to wait."""

    def wait_s(self, peer: str, now_s: float) -> float:
        """How long this address has to wait still."""
        return max(0.0, self._failures.get(peer, (0, 0.0))[1] - now_s)

    def failed(self, peer: str, now_s: float) -> None:
        """It came with a key that is none."""
        count = self._failures.pop(peer, (0, 0.0))[0] + 1
        beyond = count - _FREE_FAILURES
        pause = 0.0 if beyond < 0 else min(_LONGEST_BAN_S, 2.0 ** min(beyond, 16))
        self._failures[peer] = (count, now_s + pause)
        if len(self._failures) > _PEERS:
            self._failures.popitem(last=False)

    def succeeded(self, peer: str) -> None:
        """It came with a valid one."""
        self._failures.pop(peer, None)
