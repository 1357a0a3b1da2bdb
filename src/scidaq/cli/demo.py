"""What `scidaq demo` records: the machine itself, two simulated digitizers and a simulated multimeter."""

from __future__ import annotations

DATA_DIR = "scidaq-demo"

CONFIGURATION = """\
[station]
name = "demo"
data_dir = "scidaq-demo"

[instruments.host]
driver = "host"

[instruments.fast]
driver = "waveform"
channels = 4
rate_hz = 10_000

[instruments.slow]
driver = "waveform"
channels = 2
rate_hz = 10
layout = "columns"
seed = 1

[instruments.dmm]  # a simulator that answers on a real socket
driver = "scpi"
address = "ADDRESS"
identity = "Multimeter"
init = ["*CLS"]
safe = ["OUTP 0"]

[[instruments.dmm.streams]]
name = "readings"
rate_hz = 5
channels = [
  { name = "voltage", query = "MEAS:VOLT:DC?", unit = "V" },
  { name = "current", query = "MEAS:CURR:DC?", unit = "A" },
  { name = "temperature", query = "MEAS:TEMP?", unit = "Cel" },
]

[[instruments.dmm.parameters]]
name = "range"
get = "VOLT:RANG?"
set = "VOLT:RANG {value}"
unit = "V"
limits = [0.1, 1000]
"""


def configuration(address: str) -> str:
    """The demo's configuration in TOML, with the multimeter at `address`."""
    return CONFIGURATION.replace("ADDRESS", address)
