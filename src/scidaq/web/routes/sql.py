"""SQL: one SELECT over everything that is recorded, answered beside the station."""

from __future__ import annotations

import asyncio
from typing import Any

from anyio.to_thread import run_sync
from fastapi import Request
from fastapi.responses import Response

from scidaq.query import FORMS
from scidaq.web.answers import Routes, door
from scidaq.web.models import SqlQuery, SqlRows
from scidaq.web.problem import Problem

routes = Routes("/api/v1", "sql")
ROUTES = (routes,)

_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The result of the query.",
        "content": {
            FORMS["csv"]: {"schema": {"type": "string"}},
            FORMS["arrow"]: {"schema": {"type": "string", "format": "binary"}},
            FORMS["parquet"]: {"schema": {"type": "string", "format": "binary"}},
        },
        "headers": {"Row-Count": {"schema": {"type": "integer"}, "description": "Rows of the result."}},
    }
}


@routes.add("POST", "/sql", "read", SqlRows, (429,), responses=_ANSWERS)
async def query_sql(request: Request, wanted: SqlQuery) -> Response:
    """Answer one SELECT over the streams, runs and notes. A process beside the station does it, which can open neither
    files nor connections, within 20 s, 512 MiB, 1,000,000 rows and 32 MiB; it is ended when the client goes. POST
    for the length of queries: nothing is changed."""
    job = door(request).sql(wanted.query, wanted.format)
    # Threads of their own: whoever waits for a query must not keep those that everybody else is answered by.
    threads = request.app.state.sql_threads
    answer = asyncio.ensure_future(run_sync(job.result, limiter=threads))
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise Problem(400, "incomplete", "the connection ended before the answer was there")
        found = await answer
    finally:
        gone.cancel()
        if not answer.done():
            job.cancel()
            answer.add_done_callback(_looked_at)
    headers = {"Row-Count": str(found.rows), "Server-Timing": f"query;dur={found.seconds * 1000:.1f}"}
    return Response(found.content, headers=headers, media_type=FORMS[wanted.format])


async def _gone(request: Request) -> None:
    """Until whoever asks has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _looked_at(answer: asyncio.Future[Any]) -> None:
    """So that nobody complains of an error that nobody waits for."""
    if not answer.cancelled():
        answer.exception()
