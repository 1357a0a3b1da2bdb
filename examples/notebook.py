"""A notebook, as Jupyter and VS Code open it: each `# %%` begins a cell. Or: python examples/notebook.py"""

# %% Record, in five lines
import math

import scidaq
from scidaq.catalog import NewRun

with scidaq.record("notebook-data", {"temperature": "Cel", "step": "int32"}, stream="bath/cooling") as rec:
    for step in range(500):
        rec.add(temperature=20 + 60 * math.exp(-step / 100), step=step, t=1_750_000_000.0 + step / 10)

# %% Name a part of it
with scidaq.runs("notebook-data") as runs:
    runs.add(NewRun("steep", 1_750_000_000 * 10**9, 1_750_000_020 * 10**9, sample="tea"))

# %% What is there
store = scidaq.open("notebook-data")
print(store)

# %% Read it
frame = store.run("steep").read("bath/cooling").to_pandas()
print(frame.describe())
print(len(frame), "rows,", frame.attrs["units"])

# %% Plot it
try:
    import matplotlib as mpl
except ImportError:
    print("pip install matplotlib, to see the plot")
else:
    mpl.use("Agg")  # a notebook needs no such line
    axes = frame.plot(y="temperature", ylabel=frame.attrs["units"]["temperature"])
    axes.figure.savefig("cooling.png")
