"""How a station is, at a glance, without a script: for browsers without one, and where no dashboard was built.

What is drawn comes from the station's own statistics and its health report, as everything else that is shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

from scidaq.station import StationStats

REFRESH_S = 5

STYLE = """:root{color-scheme:light dark;--line:#8883;--dim:#8a8f98;--good:#2e9e5b;--warn:#c98a00;--bad:#d13b3b;
--card:#ffffff;--page:#f4f5f7}
@media(prefers-color-scheme:dark){:root{--card:#1d2026;--page:#14161a;--good:#46c07a;--warn:#e0a93a;--bad:#f06a6a}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,sans-serif;margin:0;background:var(--page)}
header,main,footer{max-width:72rem;margin:0 auto;padding:0 1rem}
header{display:flex;flex-wrap:wrap;align-items:baseline;gap:.3rem 1rem;padding-top:1.5rem}
h1{font-size:1.4rem;margin:0}
h2{font-size:1rem;margin:0 0 .6rem}
nav{margin-left:auto;display:flex;gap:1rem}
a{color:inherit}
section{background:var(--card);border:1px solid var(--line);border-radius:.6rem;padding:1rem;margin:1rem 0;
overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.9rem}
td,th{text-align:left;vertical-align:top;padding:.3rem .7rem .3rem 0;border-bottom:1px solid var(--line)}
tr:last-child td{border-bottom:0}
th{font-weight:600;color:var(--dim)}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.dim{color:var(--dim)}
.mark::before{content:"";display:inline-block;width:.6rem;height:.6rem;border-radius:50%;margin-right:.45rem;
background:var(--dim)}
.good::before{background:var(--good)}.warn::before{background:var(--warn)}.bad::before{background:var(--bad)}
.mark,.mark-time{white-space:nowrap}
form{display:flex;flex-direction:column;gap:.8rem;max-width:26rem}
input,button{font:inherit;padding:.55rem .7rem;border:1px solid var(--line);border-radius:.4rem}
button{cursor:pointer;font-weight:600}
#said{min-height:1.5em;color:var(--bad)}
"""
LOGIN_SCRIPT = """"use strict";
const said = document.getElementById("said");
async function logIn(what) {
  said.textContent = "";
  try {
    const answer = await fetch("/api/v1/session", {
      method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(what),
    });
    if (answer.ok) { location.replace("/plain"); return; }
    said.textContent = (await answer.json()).detail;
  } catch (error) {
    said.textContent = "The station does not answer; is it running?";
  }
}
document.getElementById("login").addEventListener("submit", (event) => {
  event.preventDefault();
  logIn({key: document.getElementById("key").value.trim()});
});
const link = location.hash.slice(1);
if (link) { history.replaceState(null, "", "/login"); logIn({link}); }
"""
_MARKS = {
    "healthy": "good",
    "acquiring": "good",
    "ready": "good",
    "degraded": "warn",
    "connecting": "warn",
    "unhealthy": "bad",
    "failed": "bad",
}


def page(stats: StationStats, health: Mapping[str, Any], name: str, via: str) -> str:
    """How the station is, for somebody who may see everything."""
    components = health.get("components", {})
    instruments = (
        (_mark(str(i.state)), f"<b>{escape(i.instrument)}</b>", escape(i.identity), escape(i.reason or ""))
        for i in stats.instruments
    )
    streams = (
        (
            f"<b>{escape(s.stream)}</b>",
            *(f"{n:,}" for n in (s.epoch, s.rows, s.durable_rows, s.gap_rows)),
            _bytes(s.bytes) if s.bytes else "in the journal" if s.durable_rows else "–",
            _moment(s.last_ns),
        )
        for s in sorted(stats.recorder.streams, key=lambda s: s.stream)
    )
    health_rows = (
        (
            _mark(c["status"]),
            f"<b>{escape(n)}</b>",
            escape(c.get("reason") or ""),
            f"<span class=mark-time>{escape(str(c.get('since', ''))[:19].replace('T', ' '))}</span>",
        )
        for n, c in components.items()
    )
    overall = str(health.get("status", ""))
    who = "No key is asked for." if via == "open" else f"Seen by {escape(name)}."
    logout = ' <a href="/login">log in as somebody else</a>' if via == "session" else ""
    head = (
        f'<header><h1>{escape(stats.name)}</h1><span class="mark {_MARKS.get(overall, "")}">{escape(overall)}</span>'
        f'<nav><a href="/docs">HTTP interface</a><a href="/metrics">metrics</a></nav></header><main>'
    )
    foot = (
        f"</main><footer><p class=dim>{_moment(stats.now_ns)} UTC, {_bytes(stats.free_bytes)} free, recording since "
        f"{_moment(stats.started_ns)}. {who}{logout}</p></footer>"
    )
    body = [
        head,
        _section("Health", ("state", "component", "why", "since (UTC)"), health_rows),
        _section("Instruments", ("state", "instrument", "identity", "why"), instruments),
        _section(
            "Streams",
            ("stream", "*epoch", "*rows", "*durable", "*in gaps", "*size", "*newest row (UTC)"),
            streams,
        ),
        foot,
    ]
    return _whole(escape(stats.name), "".join(body), f'<meta http-equiv="refresh" content="{REFRESH_S}">')


def login_page() -> str:
    """Where a browser logs in."""
    body = (
        "<header><h1>scidaq</h1></header><main><section><h2>Log in</h2>"
        '<form id=login><label for=key>API key</label><input id=key type=password autocomplete="current-password" '
        'required placeholder="scidaq_…"><button>Log in</button><div id=said role=alert></div></form>'
        "<p class=dim>On the station's own machine, <code>scidaq keys link</code> prints a link that logs in once, and "
        "<code>scidaq keys create</code> makes a key.</p></section></main>"
        '<script src="/login.js"></script>'
    )
    return _whole("log in", body)


def _whole(title: str, body: str, head: str = "") -> str:
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width,initial-scale=1">'
        f'{head}<title>{title} · scidaq</title><link rel=stylesheet href="/style.css"></head><body>{body}</body></html>'
    )


def _section(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the columns of which a head begins with `*` are numbers."""
    numbers = [" class=n" if head.startswith("*") else "" for head in heads]
    head = "".join(f"<th{n}>{h.lstrip('*')}</th>" for h, n in zip(heads, numbers, strict=True))
    lines = ["".join(f"<td{n}>{c}</td>" for c, n in zip(row, numbers, strict=True)) for row in rows]
    none = f"<tr><td colspan={len(heads)} class=dim>none yet</td></tr>"
    body = "".join(f"<tr>{line}</tr>" for line in lines) or none
    return f"<section><h2>{title}</h2><table><tr>{head}</tr>{body}</table></section>"


def _mark(state: str) -> str:
    return f'<span class="mark {_MARKS.get(state, "")}">{escape(state)}</span>'


def _moment(ns: int | None) -> str:
    return f"{datetime.fromtimestamp(ns // 1_000_000_000, UTC):%Y-%m-%d %H:%M:%S}" if ns else "–"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
