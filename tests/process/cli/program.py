"""The program as a user runs it, and existing peers as bytes, for tests of processes."""

import contextlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

from benchmarks.watch import Watch

PROGRAM = [sys.executable, "-m", "reasonchip_broker"]
PATIENCE_S = 20.0


def environment(**changes):
    """This process's environment without settings of ours, and with `changes`."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("REASONCHIP_")}
    return {**plain, "PYTHONUNBUFFERED": "1", **changes}


def run(*arguments, cwd=None, text_in=None, **changes):
    """Run a command to its end."""
    return subprocess.run(
        [*PROGRAM, *map(str, arguments)],
        cwd=cwd,
        env=environment(**changes),
        input=text_in,
        stdin=subprocess.DEVNULL if text_in is None else None,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S * 2,
    )


class Program:
    """A command that runs until it is told otherwise. Killed at the end of its `with` block, whatever happens."""

    def __init__(self, log, *arguments, cwd=None, preexec_fn=None, stdin=subprocess.DEVNULL, **changes):
        self.log = Path(log)
        with self.log.open("wb") as errors:
            self.process = subprocess.Popen(
                [*PROGRAM, *map(str, arguments)],
                cwd=cwd,
                env=environment(**changes),
                stdin=stdin,
                stdout=subprocess.PIPE,
                bufsize=0,  # Else a line that was read with the one before it would not be seen to be there.
                stderr=errors,
                start_new_session=True,
                preexec_fn=preexec_fn,
            )
        assert self.process.stdout is not None
        self.output = self.process.stdout

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.output.close()
        if self.process.stdin is not None:
            self.process.stdin.close()

    def read_line(self):
        """The next line on stdout, however long it takes within reason; empty at the end."""
        ready, _, _ = select.select([self.output], [], [], PATIENCE_S)
        assert ready, self.errors
        return self.output.readline().decode()

    def read_bytes(self, size):
        """So many bytes of stdout at least, as long as they come."""
        data = b""
        while len(data) < size:
            ready, _, _ = select.select([self.output], [], [], PATIENCE_S)
            assert ready, (len(data), self.errors)
            part = os.read(self.output.fileno(), 65536)
            assert part, (len(data), self.errors)
            data += part
        return data

    def write(self, text):
        """On stdin, if it was started with `stdin=subprocess.PIPE`."""
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode())

    def send(self, number):
        self.process.send_signal(number)

    def wait(self):
        """The exit code."""
        return self.process.wait(PATIENCE_S)

    @property
    def errors(self):
        """What it wrote on stderr so far."""
        return self.log.read_text("utf-8")

    @property
    def events(self):
        """The same, as events of a JSON log; a line that is not complete yet is none."""
        whole, _, _ = self.errors.rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]

    def wait_for_event(self, event, **fields):
        """The first event of this name and with these fields, as soon as it is logged."""

        def found():
            return [each for each in self.events if each["event"] == event and fields.items() <= each.items()]

        self.wait_until(found)
        return found()[0]

    def wait_until(self, condition):
        """Until something is so that its log tells, as soon as it is written. Fails after a while, or if it ends otherwise."""
        with Watch(self.log) as watch:
            found = watch.until(condition, PATIENCE_S, self.process.pid)
        assert found, self.errors


class Broker(Program):
    """`serve`, on free ports unless it is told otherwise; `clients` and `workers` are where it listens."""

    def __init__(
        self, log, *arguments, addresses=("--clients", "tcp://127.0.0.1:0", "--workers", "tcp://127.0.0.1:0"), **others
    ):
        super().__init__(log, "serve", *addresses, "--log-format", "json", *arguments, **others)
        self.ready = self.read_line()
        words = dict(word.split("=", 1) for word in self.ready.split()[1:])
        assert self.ready.startswith("ready "), self.errors
        self.clients, self.workers = words["clients"].split(","), words["workers"].split(",")


class JsonPeer:
    """An existing client or worker: length-prefixed JSON on a socket."""

    def __init__(self, url):
        if url.startswith("unix://"):
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.settimeout(PATIENCE_S)
            self._socket.connect(url.removeprefix("unix://"))
        else:
            host, _, port = url.removeprefix("tcp://").rpartition(":")
            self._socket = socket.create_connection((host.strip("[]"), int(port)), PATIENCE_S)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._socket.close()

    def send(self, packet_type, **fields):
        body = json.dumps({"packet_type": packet_type, **fields}).encode()
        self.send_raw(struct.pack(">I", len(body)) + body)

    def send_raw(self, data):
        self._socket.sendall(data)

    def receive(self):
        """The next packet; None at the end of the connection."""
        head = self._read(4)
        return json.loads(self._read(struct.unpack(">I", head)[0])) if head else None

    def _read(self, size):
        data = b""
        while len(data) < size:
            part = self._socket.recv(size - len(data))
            if not part:
                return b""
            data += part
        return data


class Relay:
    """A Unix socket that passes everything on to another address, until its connections are `cut`: the network between the two."""

    def __init__(self, path, url):
        self.url = f"unix://{path}"
        self._to = url
        self._pairs: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def cut(self):
        """End every connection, without a word."""
        pairs, self._pairs = self._pairs, []
        for end in pairs:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self):
        host, _, port = self._to.removeprefix("tcp://").rpartition(":")
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection((host.strip("[]"), int(port)), PATIENCE_S)
                self._pairs += [near, far]
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=(one, other), daemon=True).start()

    @staticmethod
    def _pass_on(one, other):
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
        with contextlib.suppress(OSError):
            other.shutdown(socket.SHUT_RDWR)
        one.close()


def wait_for_end(pids):
    """Until these processes have ended, whose children they may be of anybody. Fails after a while."""
    for pid in pids:
        try:
            ended = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            ready, _, _ = select.select([ended], [], [], PATIENCE_S)
        finally:
            os.close(ended)
        assert ready, f"{pid} did not end"


def descendants_of(marker):
    """Processes whose environment holds this text: those that a command started, and theirs."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if marker.encode() in (folder / "environ").read_bytes() and (folder / "stat").read_text().split()[2] != "Z":
                    found.append(int(folder.name))
            except (OSError, IndexError):
                continue
    return [pid for pid in found if pid != os.getpid()]


def interrupt(program):
    """Ctrl-C."""
    program.send(signal.SIGINT)
