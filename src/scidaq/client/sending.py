"""The two that drive a `Talk`: with a thread that waits, and with asyncio."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from scidaq.client.asking import Answer, Broken, Pause, Request, Talk
from scidaq.errors import RequestError, StationUnreachable

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")
TIMEOUT_S = 40.0
"""A little more than the station takes for a request at most."""
_CONNECT_S = 5.0
_CONNECTIONS = 16

Verify = bool | str
"""Whether the certificate of the station has to be one that this machine trusts, or a file with those to trust."""


def address_of(url: str) -> str:
    """A station's address as it is used. Raises `RequestError` for what is none, and where a key stands in it."""
    text = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError as error:
        raise RequestError(f"{url!r} is no address of a station ({error}): give http://host:8080") from None
    if parts.username or parts.password or parts.query or parts.fragment:
        raise RequestError("no key belongs in an address, where logs would keep it: give key=... or set SCIDAQ_KEY")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RequestError(f"{url!r} is no address of a station: give http://host:8080 or https://host:8080")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def trust(verify: Verify) -> Any:
    """What httpx and websockets take for TLS. Raises `RequestError` for a file that holds no certificates."""
    import ssl

    if isinstance(verify, bool):
        context = ssl.create_default_context()
        if not verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context
    try:
        return ssl.create_default_context(cafile=verify)
    except (OSError, ssl.SSLError) as error:
        raise RequestError(f"verify={verify!r}: no certificates can be read from there ({error})") from None


def headers_of(key: str | None) -> dict[str, str]:
    """What every request says. Raises `RequestError` for a key that can be none."""
    from scidaq import __version__

    if key is not None and not (key.isascii() and key.isprintable() and key):
        raise RequestError("key: a key is made of visible ASCII characters, as `scidaq keys create` shows them")
    said = {"User-Agent": f"scidaq-client/{__version__}"}
    return said if key is None else said | {"Authorization": f"Bearer {key}"}


def _options(address: str, key: str | None, verify: Verify, timeout_s: float) -> dict[str, Any]:
    import httpx

    secure = address.startswith("https:")
    return {
        "base_url": address,
        "headers": headers_of(key),
        "timeout": httpx.Timeout(timeout_s, connect=min(_CONNECT_S, timeout_s)),
        "limits": httpx.Limits(max_connections=_CONNECTIONS),
        "verify": trust(verify) if secure else False,
        "follow_redirects": False,  # a key would go wherever an answer says
    }


def _arguments(request: Request) -> dict[str, Any]:
    given: dict[str, Any] = {"params": dict(request.query)} if request.query else {}
    given |= {"headers": dict(request.headers), "content": request.body}
    if request.timeout_s is not None:
        given["timeout"] = request.timeout_s
    return given


def _answer(got: httpx.Response) -> Answer:
    return Answer(got.status_code, got.headers, got.content)


def _broken(error: httpx.HTTPError, address: str) -> Exception:
    import httpx

    words = str(error) or type(error).__name__
    if "CERTIFICATE_VERIFY_FAILED" in words:
        return StationUnreachable(
            f"the certificate of {address} is not trusted here ({words}): give verify= the file with the certificate "
            "that it was signed with"
        )
    if isinstance(error, httpx.TimeoutException):
        words = "no answer in time"
    return Broken(words, sent=not isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)))


class Blocking:
    """Drives talks one by one in the thread that asks; may be used from several."""

    def __init__(self, address: str, key: str | None, verify: Verify, timeout_s: float) -> None:
        import httpx

        self.address = address
        self._http = httpx.Client(**_options(address, key, verify, timeout_s))
        self._closed = threading.Event()

    def run(self, talk: Talk[T]) -> T:
        """To its end: what it returns."""
        try:
            step = next(talk)
            while True:
                if isinstance(step, Pause):
                    self._closed.wait(step.seconds)
                    step = talk.send(None)
                    continue
                try:
                    answer = self._send(step)
                except Broken as broken:
                    step = talk.throw(broken)
                else:
                    step = talk.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result

    def _send(self, request: Request) -> Answer:
        import httpx

        try:
            return _answer(self._http.request(request.method, request.path, **_arguments(request)))
        except httpx.HTTPError as error:
            raise _broken(error, self.address) from None

    def close(self) -> None:
        """Let go of its connections."""
        self._closed.set()
        self._http.close()


class Waiting:
    """Drives talks in an event loop."""

    def __init__(self, address: str, key: str | None, verify: Verify, timeout_s: float) -> None:
        import httpx

        self.address = address
        self._http = httpx.AsyncClient(**_options(address, key, verify, timeout_s))

    async def run(self, talk: Talk[T]) -> T:
        """To its end: what it returns."""
        try:
            step = next(talk)
            while True:
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                    step = talk.send(None)
                    continue
                try:
                    answer = await self._send(step)
                except Broken as broken:
                    step = talk.throw(broken)
                else:
                    step = talk.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result

    async def _send(self, request: Request) -> Answer:
        import httpx

        try:
            return _answer(await self._http.request(request.method, request.path, **_arguments(request)))
        except httpx.HTTPError as error:
            raise _broken(error, self.address) from None

    async def close(self) -> None:
        """Let go of its connections."""
        await self._http.aclose()
