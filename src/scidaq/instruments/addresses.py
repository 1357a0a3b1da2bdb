"""Which addresses a list of rules allows: for instruments that somebody adds over the network.

A rule is one of

| rule | allows |
|---|---|
| `192.168.1.0/24:5025` | that port of every address of the network; `[fd00::/64]:5025` likewise |
| `192.168.1.7:5000-5100` | these ports of one address |
| `*.lab.example:5025` | hosts by name; `*` is any part of one label, so that a dot has to be a dot |
| `10.0.0.7` | every port |
| `/dev/ttyUSB*`, `USB0::0x2A8D::*` | whatever is no host and port, by its name; `*` does not reach over a `/` |

Nothing is looked up: a name is allowed by a rule for names, never because of the address that it has at the moment.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

_HOST_PORT = re.compile(r"(?:tcp://)?(?P<host>\[[^\[\]]+\]|[^\[\]:/]+):(?P<port>[0-9]{1,5})")
_RULE = re.compile(
    r"(?:tcp://)?(?P<host>\[[^\[\]]+\]|[^\[\]:]+?)(?::(?P<low>[0-9]{1,5})(?:-(?P<high>[0-9]{1,5}))?|:\*)?"
)
_LABELS = re.compile(r"[A-Za-z0-9_*?-]+(?:\.[A-Za-z0-9_*?-]+)*\.?")
_ADDRESS_LIKE = re.compile(r"[0-9.x*?]*|0x[0-9a-f]*", re.IGNORECASE)
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Ip = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class AddressRule:
    """One rule, understood."""

    network: Network | None
    """For addresses."""
    name: re.Pattern[str] | None
    """For hosts by name, or for what is no host."""
    is_host: bool
    low: int = 0
    high: int = 65_535
    """Ports, both allowed."""

    def allows(self, address: str) -> bool:
        """Whether it allows this address."""
        found = _HOST_PORT.fullmatch(address)
        if not self.is_host or found is None:
            return not self.is_host and self.name is not None and found is None and self._names(address)
        host, port = found["host"].strip("[]"), int(found["port"])
        if not (0 < port <= 65_535 and self.low <= port <= self.high):
            return False
        if (ip := _ip(host)) is not None:
            return self.network is not None and ip.version == self.network.version and ip in self.network
        # What looks like an address and is none, such as 127.1 or 0x7f000001, would be one to the system.
        return self.name is not None and not _ADDRESS_LIKE.fullmatch(host) and self._names(host.lower().rstrip("."))

    def _names(self, text: str) -> bool:
        return self.name is not None and ".." not in text.split("/") and self.name.fullmatch(text) is not None


def address_rule(text: str) -> AddressRule:
    """A rule from what the operator wrote. Raises `ValueError` with what a rule looks like."""
    if not text or text != text.strip():
        raise ValueError(f"{text!r} is no rule for addresses: {_EXAMPLES}")
    if (
        text.startswith("/")
        or ("://" in text and not text.startswith("tcp://"))
        or "::" in re.sub(r"\[.*?\]", "", text)
    ):
        return AddressRule(None, _glob(text, "/"), is_host=False)
    found = _RULE.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no rule for addresses: {_EXAMPLES}")
    low = int(found["low"] or 0)
    high = int(found["high"] or found["low"] or 65_535)
    if not low <= high <= 65_535:
        raise ValueError(f"{text!r} is no rule for addresses: ports are 1 to 65535, the lower one first")
    host = found["host"].strip("[]")
    try:
        network = ipaddress.ip_network(host, strict=True)
    except ValueError as error:
        if "/" in host or found["host"].startswith("[") or not _LABELS.fullmatch(host):
            raise ValueError(f"{text!r} is no rule for addresses: {error}") from error
        if _ADDRESS_LIKE.fullmatch(host) and host.strip("*?"):
            raise ValueError(f"{text!r} is no rule for addresses: say which of them as 192.168.1.0/24") from error
        return AddressRule(None, _glob(host.lower().rstrip("."), "."), True, low, high)
    return AddressRule(network, None, True, low, high)


def allowed(address: str, rules: Sequence[str]) -> bool:
    """Whether one of the rules allows an address, `host:port` or the `resource` of a driver; without rules, none is.

    Raises `ValueError` for a rule that is none.
    """
    understood = [address_rule(rule) for rule in rules]
    return any(rule.allows(address) for rule in understood)


def _ip(host: str) -> Ip | None:
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return None
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return mapped or ip  # ::ffff:10.0.0.7 reaches 10.0.0.7


def _glob(text: str, wall: str) -> re.Pattern[str]:
    """A pattern in which `*` and `?` stand for anything but the wall between parts."""
    anything = f"[^{re.escape(wall)}]"
    parts = {"*": f"{anything}*", "?": anything}
    return re.compile("".join(parts.get(char) or re.escape(char) for char in text))


_EXAMPLES = "write 192.168.1.0/24:5025, 10.0.0.7:5000-5100, *.lab.example:5025 or /dev/ttyUSB*"
