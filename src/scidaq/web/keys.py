"""API keys: hashed, named, scoped, expiring, revocable; shown once, when they are made.

A key is 32 random bytes behind the id that finds it, so its SHA-256 is as hard to invert as it is to guess: slow hashes
are for words that people choose. The file lies beside the data, mode 0600, and is in no backup.

Source: OWASP ASVS 5.0, V11.4 (hashing) and V6.5 (look-up secrets).
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from scidaq.clock import Clock
from scidaq.errors import RequestError, StationError, Unknown, WriteFailed
from scidaq.store import overwrite

FILE = "keys.json"
SCOPES = {
    "read": "see everything that is recorded and how the station is",
    "operate": "change what instruments and runs do, and everything that `read` may",
    "admin": "configuration and keys, and everything else",
    "metrics": "read `/metrics` and `/health`, nothing else",
}
_IMPLIED = {"admin": ("operate", "read", "metrics"), "operate": ("read", "metrics"), "read": ("metrics",)}
_KEY = re.compile(r"scidaq_([a-z0-9]{8})_([A-Za-z0-9_-]{43})")
_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,64}")
_DAY_NS = 86_400 * 1_000_000_000
MOST_DAYS = 3650
DEFAULT_DAYS = 365


def spread(scopes: Sequence[str]) -> frozenset[str]:
    """The scopes with those that they contain."""
    return frozenset(scopes).union(*(_IMPLIED.get(s, ()) for s in scopes))


@dataclass(frozen=True, slots=True)
class Key:
    """What is kept of a key."""

    id: str
    name: str
    scopes: tuple[str, ...]
    hash: str
    """SHA-256 of the secret, in hexadecimal digits."""
    created_ns: int
    expires_ns: int | None = None
    """UTC nanoseconds from which on it is refused; None for never."""
    revoked_ns: int | None = None

    def state(self, now_ns: int) -> str:
        """`valid`, `expired` or `revoked`."""
        if self.revoked_ns is not None:
            return "revoked"
        return "expired" if self.expires_ns is not None and self.expires_ns <= now_ns else "valid"

    def told(self, now_ns: int) -> dict[str, Any]:
        """What may be shown of it."""
        shown = {k: v for k, v in asdict(self).items() if k != "hash"}
        return shown | {"scopes": list(self.scopes), "state": self.state(now_ns)}


class KeyStore:
    """The keys of one data directory. Every method may be called from any thread, of any process of its owner.

    A change by another process is seen at the next look.
    """

    def __init__(self, data_dir: Path, clock: Clock) -> None:
        self._path, self._clock = data_dir / FILE, clock
        self._lock = threading.Lock()
        self._seen: object = None
        self._keys: dict[str, Key] = {}

    # ---- looking ----

    @property
    def now_ns(self) -> int:
        """The time by which keys expire."""
        return self._clock.now_ns()

    def all(self) -> list[Key]:
        """All of them, those that are no longer valid included, oldest first."""
        with self._lock:
            self._look()
            return sorted(self._keys.values(), key=lambda k: k.created_ns)

    def find(self, given: str) -> Key | None:
        """The valid key that was given; None for anything else. Takes the same time whatever is wrong with it."""
        found = _KEY.fullmatch(given)
        id_, secret = found.groups() if found else ("", "")
        with self._lock:
            self._look()
            key = self._keys.get(id_)
        stored = key.hash if key is not None else "0" * 64
        right = hmac.compare_digest(_hash(secret), stored)
        return key if right and key is not None and key.state(self._clock.now_ns()) == "valid" else None

    def _look(self) -> None:
        try:
            stat = self._path.stat()
            seen: object = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if seen == self._seen:
                return
            content = orjson.loads(self._path.read_bytes())
            self._keys = {k["id"]: Key(**k | {"scopes": tuple(k["scopes"])}) for k in content["keys"]}
        except FileNotFoundError:
            self._keys, seen = {}, None
        except (ValueError, KeyError, TypeError, OSError) as error:
            self._keys, self._seen = {}, None
            raise StationError(
                f"{self._path} cannot be understood ({error}): no key is valid; put back a copy, or move it away "
                "and make new ones with `scidaq keys create`"
            ) from error
        self._seen = seen

    # ---- changing ----

    def create(self, name: str, scopes: Sequence[str], days: float | None = DEFAULT_DAYS) -> tuple[Key, str]:
        """A new key, and what its owner has to present, which is told only here. Durable on return.

        `days` is how long it is valid; None for as long as nobody revokes it. Raises `RequestError`, and `WriteFailed`
        when the disk refuses.
        """
        if not _NAME.fullmatch(name):
            raise RequestError(f"name {name!r}: 1 to 64 characters, none of them a control character")
        if not scopes or (unknown := [s for s in scopes if s not in SCOPES]):
            what = f"there is no scope {unknown[0]!r}" if scopes else "a key has at least one scope"
            raise RequestError(f"{what}; there are {', '.join(SCOPES)}")
        if days is not None and not 0 < days <= MOST_DAYS:
            raise RequestError(f"a key is valid for more than 0 and at most {MOST_DAYS} days, not {days:g}")
        secret = secrets.token_urlsafe(32)
        now = self._clock.now_ns()
        expires = None if days is None else now + int(days * _DAY_NS)

        def change(keys: dict[str, Key]) -> Key:
            if any(k.name == name and k.state(now) == "valid" for k in keys.values()):
                raise RequestError(f"there is a valid key named {name!r}; revoke or rotate that, or take another name")
            key = Key(_new_id(keys), name, tuple(dict.fromkeys(scopes)), _hash(secret), now, expires)
            keys[key.id] = key
            return key

        key = self._change(change)
        return key, f"scidaq_{key.id}_{secret}"

    def revoke(self, which: str) -> Key:
        """Make a key invalid, by id or name, from now on. Raises `RequestError` when there is no valid one."""

        def change(keys: dict[str, Key]) -> Key:
            key = self._valid(keys, which)
            keys[key.id] = replace(key, revoked_ns=self._clock.now_ns())
            return keys[key.id]

        return self._change(change)

    def rotate(self, which: str, grace_hours: float = 24.0) -> tuple[Key, str]:
        """A new key of the same name, scopes and length; the old one stays valid for `grace_hours` at most."""
        if not 0 <= grace_hours <= 24 * 30:
            raise RequestError(f"the old key may stay valid for 0 to 720 hours, not {grace_hours:g}")
        secret = secrets.token_urlsafe(32)

        def change(keys: dict[str, Key]) -> Key:
            old, now = self._valid(keys, which), self._clock.now_ns()
            ends = now + int(grace_hours * 3600 * 1_000_000_000)
            length = None if old.expires_ns is None else old.expires_ns - old.created_ns
            keys[old.id] = replace(old, expires_ns=min(ends, old.expires_ns or ends), name=f"{old.name[:56]} (old)")
            new = Key(_new_id(keys), old.name, old.scopes, _hash(secret), now, None if length is None else now + length)
            keys[new.id] = new
            return new

        key = self._change(change)
        return key, f"scidaq_{key.id}_{secret}"

    def adopt(self, name: str, given: str, hours: float) -> Key:
        """Take a key into use that somebody else made (`security.bootstrap_key_file`), kept hashed, for some hours."""
        found = _KEY.fullmatch(given)
        if not found:
            raise RequestError(
                "a key has the form scidaq_<8 of a-z 0-9>_<43 of A-Z a-z 0-9 _ ->, as keys create makes it"
            )
        id_, secret = found.groups()
        now = self._clock.now_ns()

        def change(keys: dict[str, Key]) -> Key:
            if id_ in keys:  # it was read before, and is neither revived nor made to last longer
                return keys[id_]
            keys[id_] = Key(id_, name, ("admin",), _hash(secret), now, now + int(hours * 3600 * 1_000_000_000))
            return keys[id_]

        return self._change(change)

    def _valid(self, keys: dict[str, Key], which: str) -> Key:
        now = self._clock.now_ns()
        found = [k for k in keys.values() if which in (k.id, k.name) and k.state(now) == "valid"]
        if not found:
            raise Unknown(f"there is no valid key {which!r}; `scidaq keys list` shows those there are")
        return found[0]

    def _change(self, change: Callable[[dict[str, Key]], Key]) -> Key:
        """Change the file as a whole, with other processes kept out."""
        with self._lock:
            try:
                guard = _exclusive(self._path)
            except OSError as error:
                raise WriteFailed(f"{self._path}: {error.strerror or error}; nothing was changed") from error
            try:
                self._look()
                keys = dict(self._keys)
                key = change(keys)
                content = {"version": 1, "keys": [asdict(k) for k in keys.values()]}
                overwrite(self._path, orjson.dumps(content, option=orjson.OPT_INDENT_2))
                self._keys, self._seen = keys, None
            except OSError as error:
                raise WriteFailed(f"{self._path}: {error.strerror or error}; nothing was changed") from error
            finally:
                os.close(guard)
        return key


def _exclusive(path: Path) -> int:
    """A lock on the file's neighbour, held until the descriptor is closed."""
    fd = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    if os.name == "posix":
        import fcntl

        fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _new_id(taken: dict[str, Key]) -> str:
    while (id_ := secrets.token_hex(4)) in taken:
        pass
    return id_
