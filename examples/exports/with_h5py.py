"""Opens a file of `scidaq export ... --format hdf5` with h5py alone: python with_h5py.py readings.h5"""

from __future__ import annotations

import sys

import h5py
import numpy as np


def main(path: str) -> None:
    with h5py.File(path) as file:
        entry = file["entry"]
        data = entry[entry.attrs["default"]]
        time = data["time"][:].view("datetime64[ns]")
        signal = data[data.attrs["signal"]]
        values = signal[:].astype(float)
        if "valid" in signal.attrs:  # where a value is missing
            values[data[signal.attrs["valid"]][:] == 0] = np.nan
        print(f"{data.attrs['stream']}: {len(time)} rows from {time[0]} on")
        print(f"{signal.attrs['channel']}: mean {np.nanmean(values):.6g} {signal.attrs['units']}")


if __name__ == "__main__":
    main(sys.argv[1])
