"""A multimeter that is not there: answers SCPI on a TCP port of this machine, until Ctrl-C.

python examples/multimeter.py [PORT]
"""

from __future__ import annotations

import signal
import sys
import threading

from scidaq.instruments import Multimeter


def main() -> None:
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 5025
    with Multimeter(port=port) as meter:
        print(f"a simulated multimeter answers at {meter.address}; Ctrl-C ends it", flush=True)
        ended.wait()


if __name__ == "__main__":
    main()
