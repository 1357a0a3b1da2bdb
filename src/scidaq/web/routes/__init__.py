"""The routes, one module for each subject; `all_routes` joins them."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import APIRouter


def all_routes() -> Iterator[APIRouter]:
    """In the order of the documentation."""
    from scidaq.web.routes import (
        administration,
        entry,
        exports,
        instruments,
        live,
        pages,
        runs,
        session,
        sql,
        station,
        streams,
    )

    for module in (station, instruments, streams, sql, live, runs, exports, administration, session, pages, entry):
        for routes in module.ROUTES:
            yield routes.router
