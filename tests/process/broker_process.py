"""Starts, kills and starts again the broker of `client_broker.py`."""

import os
import signal
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("client_broker.py")


class BrokerProcess:
    """A real broker. `clients` and `workers` are its URLs; a second one may be started at the same ones after a kill."""

    def __init__(
        self, clients: str = "tcp://127.0.0.1:0", workers: str = "tcp://127.0.0.1:0", heartbeat_s: float = 10.0
    ) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), clients, workers, str(heartbeat_s)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=CHECKOUT,
            env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
        )
        assert self.process.stdout is not None
        self.clients, self.workers = self.process.stdout.readline().split()

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal; after SIGKILL, wait until it is gone."""
        self.process.send_signal(how)
        if how is signal.SIGKILL:
            self.process.wait(10)
            if self.process.stdout is not None:
                self.process.stdout.close()

    def __enter__(self) -> "BrokerProcess":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()
