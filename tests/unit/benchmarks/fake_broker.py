"""A broker of 200 lines, for the tests of the benchmark alone: it routes, and checks what the generator sends.

Started as ours is: `serve --clients URL --workers URL`. `FAKE_FAULT` in the environment makes it misbehave: `refuse` answers each RUN
with NO_CAPACITY, `die` ends it at the 100th job, `silent` never says that it is ready. It cuts what it writes to clients in pieces
of odd sizes when `FAKE_PIECES` is set, and says so in the named pipe `FAKE_WORD` when the first job comes.
"""

import argparse
import asyncio
import itertools
import json
import os
import struct
import sys
import traceback
from urllib.parse import urlsplit

import msgspec

HEADER = struct.Struct(">IBBH16sII")
WELCOME, PING, PONG, REPLY, REGISTER, RUN, RESULT, ACK = 2, 3, 4, 6, 16, 17, 18, 20
TEN_KEYS = ["packet_type", "cookie", "capacity", "pipeline", "variables", "detach", "rc", "error", "stacktrace", "result"]
FAULT = os.environ.get("FAKE_FAULT", "")
PIECES = os.environ.get("FAKE_PIECES", "")
WORD = os.environ.get("FAKE_WORD", "")


def packet(kind, code=0, cookie=bytes(16), number=0, meta=None):
    body = b"" if meta is None else msgspec.msgpack.encode(meta)
    return HEADER.pack(28 + len(body), kind, code, 0, cookie, number, len(body)) + body


class Broker:
    def __init__(self):
        self.workers = []
        self.turn = itertools.count()
        self.owners = {}
        self.jobs = 0

    def run(self, client, cookie, frame):
        assert cookie not in self.owners, "a cookie was used twice"
        self.owners[cookie] = client
        self.jobs += 1
        if WORD and self.jobs == 1:
            with open(WORD, "w") as word:
                word.write("a job")
        if FAULT == "die" and self.jobs == 100:
            os._exit(7)
        worker = self.workers[next(self.turn) % len(self.workers)]
        worker.held.add(cookie)
        assert len(worker.held) <= sum(len(w.held) for w in self.workers)
        worker.send(frame)

    def result(self, worker, cookie, frame):
        worker.held.remove(cookie)
        self.owners[cookie].send(frame)
        self.owners[cookie] = None


class Peer(asyncio.Protocol):
    def __init__(self, broker, is_worker):
        self.broker = broker
        self.is_worker = is_worker
        self.buffer = b""
        self.preface = None
        self.ponged = False
        self.held = set()
        self.out = []

    def connection_made(self, transport):
        self.transport = transport

    def send(self, frame):
        if not self.out:
            asyncio.get_running_loop().call_soon(self.flush)
        self.out.append(frame)

    def flush(self):
        data, self.out = b"".join(self.out), []
        if PIECES and not self.is_worker:
            self.pieces(data, itertools.cycle([1, 33, 7, 160, 3]))
        else:
            self.transport.write(data)

    def pieces(self, data, sizes):
        size = next(sizes)
        self.transport.write(data[:size])
        if data[size:]:
            self.pieces(data[size:], sizes) if len(data) < 2000 else self.transport.write(data[size:])

    def data_received(self, data):
        self.buffer += data
        if self.preface is None:
            if len(self.buffer) < 4:
                return
            self.preface = self.buffer[:4] == b"RCB\x01"
            if self.preface:
                self.buffer = self.buffer[4:]
        while len(self.buffer) >= 4:
            size = 4 + int.from_bytes(self.buffer[:4], "big")
            if len(self.buffer) < size:
                return
            frame, self.buffer = self.buffer[:size], self.buffer[size:]
            if self.preface:
                self.binary(frame)
            else:
                self.json(frame)

    def binary(self, frame):
        _, kind, _, attempt, cookie, number, size = HEADER.unpack_from(frame)
        meta = msgspec.msgpack.decode(frame[32 : 32 + size]) if size else {}
        if kind == 1:
            assert not self.is_worker or (len(meta["inst"]) == 16 and meta["name"] and meta["grace"] == 0)
            self.send(packet(WELCOME, meta={"conn": bytes(16), "beat": 10_000}))
            self.send(packet(PING, number=77))
        elif kind == PONG:
            assert number == 77
            self.ponged = True
        elif kind == REGISTER:
            assert meta["serves"] == ["bench"]
            assert meta["cap"] >= 1
            self.broker.workers.append(self)
            self.send(packet(REPLY, number=number, meta={"to": REGISTER}))
        elif kind == RUN:
            assert self.ponged
            assert attempt == 1
            assert meta["p"] == "bench"
            if FAULT == "refuse":
                self.send(packet(REPLY, code=34, cookie=cookie, meta={"to": RUN, "msg": "full"}))
            else:
                self.broker.run(self, cookie, frame)
        elif kind == RESULT:
            assert attempt == 1
            self.broker.result(self, cookie, frame)
        else:
            assert kind == ACK

    def json(self, frame):
        fields = json.loads(frame[4:])
        assert list(fields) == TEN_KEYS
        if fields["packet_type"] == "REGISTER":
            self.broker.workers.append(self)
        elif fields["packet_type"] == "RUN":
            json.loads(fields["variables"])
            if FAULT == "refuse":
                answer = json.dumps(dict.fromkeys(TEN_KEYS) | {"packet_type": "RESULT", "rc": "NO_CAPACITY"}).encode()
                self.send(len(answer).to_bytes(4, "big") + answer)
            else:
                self.broker.run(self, fields["cookie"], frame)
        else:
            json.loads(fields["result"])
            assert fields["rc"] == "OK"
            self.broker.result(self, fields["cookie"], frame)


async def listen(broker, url, is_worker):
    loop = asyncio.get_running_loop()
    parts = urlsplit(url)
    if parts.scheme == "unix":
        await loop.create_unix_server(lambda: Peer(broker, is_worker), parts.path)
        return url
    server = await loop.create_server(lambda: Peer(broker, is_worker), parts.hostname, parts.port)
    return f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("--clients", required=True)
    parser.add_argument("--workers", required=True)
    parser.add_argument("--json-slot-rest-ms", type=int)
    options = parser.parse_args()
    broker = Broker()
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: os._exit(report(context)))
    clients = await listen(broker, options.clients, False)
    workers = await listen(broker, options.workers, True)
    if FAULT != "silent":
        os.write(1, f"ready clients={clients},tcp://[::1]:1 workers={workers}\n".encode())
    await asyncio.Event().wait()


def report(context):
    traceback.print_exception(context.get("exception"), file=sys.stderr)
    sys.stderr.flush()
    return 9


if __name__ == "__main__":
    asyncio.run(main())
