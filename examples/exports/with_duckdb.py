"""Asks files of `scidaq export` by SQL, without reading them whole: python with_duckdb.py readings.parquet voltage"""

from __future__ import annotations

import sys

import duckdb


def main(path: str, channel: str) -> None:
    rows = duckdb.execute(
        f"""
        SELECT date_trunc('second', time) AS second, count(*) AS rows, avg("{channel}") AS mean
        FROM '{path}' GROUP BY ALL ORDER BY second
        """
    ).fetchall()
    for second, count, mean in rows:
        print(f"{second:%H:%M:%S}  {count:6} rows  {mean:.6g}")


if __name__ == "__main__":
    main(*sys.argv[1:])
