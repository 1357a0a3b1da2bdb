"""An oscilloscope that is not there: answers SCPI on a TCP port of this machine, until Ctrl-C.

python examples/oscilloscope.py [PORT]
"""

from __future__ import annotations

import signal
import sys
import threading

from scidaq.instruments import Oscilloscope


def main() -> None:
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 5026
    with Oscilloscope(port=port) as scope:
        print(f"a simulated oscilloscope answers at {scope.address}; Ctrl-C ends it", flush=True)
        ended.wait()


if __name__ == "__main__":
    main()
