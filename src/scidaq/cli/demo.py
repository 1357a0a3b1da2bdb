"""What `scidaq demo` records: the machine itself, two simulated digitizers, a simulated multimeter and oscilloscope."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

DATA_DIR = "scidaq-demo"

CONFIGURATION = """\
[station]
name = "demo"
data_dir = "scidaq-demo"

[security]
keys = false  # it is for this machine alone, and records nothing that is worth a key

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
address = "METER"
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

[instruments.scope]  # another one; its codes are volts by the scale, as 8 divisions / 256 codes * V/div
driver = "scpi"
address = "SCOPE"
identity = "Oscilloscope"
init = ["*CLS", "CHAN1:SCAL 0.5", "CHAN2:SCAL 0.5;OFFS 1.65", "ACQ:POIN 500", "WAV:FORM BYTE", "RUN"]
check_errors = 100

[[instruments.scope.streams]]
name = "traces"
rate_hz = 2

[[instruments.scope.streams.channels]]
name = "ch1"
query = "WAV:DATA? CHAN1"
block = "int8"
shape = [500]
scale = 0.015625
physical_unit = "V"

[[instruments.scope.streams.channels]]
name = "ch2"
query = "WAV:DATA? CHAN2"
block = "int8"
shape = [500]
scale = 0.015625
offset = 1.65
physical_unit = "V"

[[instruments.scope.streams]]
name = "measured"
rate_hz = 2
channels = [
  { name = "frequency", query = "MEAS:FREQ? CHAN1", unit = "Hz" },
  { name = "peak_to_peak", query = "MEAS:VPP? CHAN1", unit = "V" },
]

[[instruments.scope.parameters]]
name = "timebase"
get = "TIM:SCAL?"
set = "TIM:SCAL {value}"
unit = "s"
limits = [1e-9, 50]

[[instruments.scope.parameters]]
name = "trigger_level"
get = "TRIG:LEV?"
set = "TRIG:LEV {value}"
unit = "V"
limits = [-40, 40]

[[instruments.scope.parameters]]
name = "trigger_slope"
get = "TRIG:SLOP?"
set = "TRIG:SLOP {value}"
dtype = "text"
choices = ["POS", "NEG"]

[[instruments.scope.parameters]]
name = "vertical_scale"
get = "CHAN1:SCAL?"
unit = "V"
"""


@contextmanager
def simulated() -> Iterator[str]:
    """The demo's configuration in TOML, while the instruments that it speaks of answer."""
    from scidaq.instruments import Multimeter, Oscilloscope

    with Multimeter() as meter, Oscilloscope() as scope:
        yield CONFIGURATION.replace("METER", meter.address).replace("SCOPE", scope.address)
