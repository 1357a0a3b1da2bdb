"""The dashboard as it was built from `ui/`: a page and the files it is made of, answered from memory.

Names of files hold a hash of their content, so a browser keeps them for ever; the page that names them is asked for
each time, and answered with 304 while it is the same. Each is there compressed too. What is asked for is looked up
among what there is: no path of a request ever reaches the file system.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fastapi import Request
from fastapi.responses import Response

from scidaq.web.answers import unchanged

HERE = Path(__file__).with_name("dashboard")
PREFIX = "/assets/"
"""Where the files are; they answer without a key, as the page to log in is one of theirs."""
_KINDS = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """A file of the dashboard."""

    content: bytes
    compressed: bytes | None
    """By gzip; None where that was not made."""
    kind: str
    etag: str


@cache
def assets(place: Path = HERE) -> dict[str, Asset]:
    """By the path it is asked for with; the page itself is `/`. Empty where no dashboard was built."""
    page = place / "index.html"
    files = [page, *sorted((place / "assets").glob("*"))] if page.is_file() else []
    found = {}
    for path in files:
        if (kind := _KINDS.get(path.suffix)) is None:
            continue
        content, beside = path.read_bytes(), path.with_name(path.name + ".gz")
        etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        compressed = beside.read_bytes() if beside.is_file() else None
        found["/" if path == page else PREFIX + path.name] = Asset(content, compressed, kind, etag)
    return found


def answer(request: Request, asset: Asset, *, for_ever: bool) -> Response:
    """The file, or that it is as the browser has it already."""
    headers = {
        "Cache-Control": "public, max-age=31536000, immutable" if for_ever else "no-cache",
        "Vary": "Accept-Encoding",
    }
    if (known := unchanged(request, asset.etag, headers)) is not None:
        return known
    headers["ETag"] = asset.etag
    accepted = request.headers.get("accept-encoding", "")
    if asset.compressed is not None and "gzip" in (one.partition(";")[0].strip() for one in accepted.split(",")):
        # Another form of the same: whoever compares bytes has to see that it is another.
        headers |= {"Content-Encoding": "gzip", "ETag": f"W/{asset.etag}"}
        return Response(asset.compressed, media_type=asset.kind, headers=headers)
    return Response(asset.content, media_type=asset.kind, headers=headers)
