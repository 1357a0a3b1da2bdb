"""A measurement from afar: set a parameter of a running station step by step, and read what came of each.

    scidaq demo &
    python examples/steer.py [ADDRESS]

The key, where the station wants one, is taken from the environment: SCIDAQ_KEY.
"""

from __future__ import annotations

import sys

import scidaq
from scidaq.client import Frame


def main(address: str) -> None:
    with scidaq.connect(address) as station:
        with (
            station.run("steps of the trigger", sample="none") as run,
            station.instruments["scope"].lease(60) as scope,  # nobody else changes it meanwhile
        ):
            for level in (0.1, 0.2, 0.3):
                parameter = scope.parameters.set("trigger_level", level, unit="V")
                run.note(f"{parameter.name} is {parameter.value} {parameter.unit}")
                print(parameter)
            for frame in station["dmm/readings"].live(since="-10s"):
                if isinstance(frame, Frame) and len(frame):
                    print("the voltage of late, at most:", frame.greatest["voltage"].max(), frame.units["voltage"])
                    break
        print(run.read("dmm/readings"))
        print(station.sql(f"SELECT text FROM notes WHERE run = '{run.id}' ORDER BY time").to_pylist())


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080")
