"""What is counted: `python -m benchmarks.counted WORKLOAD ROUNDS` runs the core alone, always alike, and says how many jobs that were.

Bytes go in through the real decoders, and what the switchboard sends is taken out of its peers as the broker does it. No sockets, no
clock, no chance: two runs differ by nothing, so that their instructions can be counted (`counts.py`). Frames are put together from
three pieces, the cookie between two that are always the same, so that what is counted is nearly all the core's.
"""

import gc
import sys
import uuid
from collections.abc import Callable
from struct import Struct

from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.codes import ENCODING_BYTES, Dialect, PacketType, Role
from reasonchip_broker.protocol.frames import BinaryDecoder, FrameDecoder
from reasonchip_broker.protocol.json_v0 import JsonDecoder, to_json
from reasonchip_broker.routing.peers import Peer
from reasonchip_broker.switchboard import Switchboard

LIMITS = Limits(heartbeat_s=1e6, lease_s=2e6)
FRAME_MAX = LIMITS.frame_bytes_max
PAYLOAD = bytes(100)
KEYS = 50
QUEUED = 2_000
CHUNKS = 16
MARK = b"a cookie to come"
ALONE = 24
"""So many rounds of RUNs, or of RESULTs, may be counted by themselves, those before included that warm up."""

PEERS, AT_ONCE = 4, 64
JSON_COOKIE = 35
"""Where the cookie of a JSON RUN begins."""

_COOKIE = Struct(">QII").pack

Run = Callable[[int], int]
"""Does so many rounds, and returns how many jobs (or chunks) that were."""


class End:
    """A peer's connection: what it says goes through a decoder, what it is sent is collected."""

    def __init__(self, load: "Load", role: Role, dialect: Dialect) -> None:
        self._load = load
        number = len(load.ends) + 1
        self.peer: Peer = load.board.connected(self, number.to_bytes(16, "big"), role, dialect, load.now)
        self._decoder: FrameDecoder = JsonDecoder(FRAME_MAX, role) if dialect is Dialect.JSON else BinaryDecoder(FRAME_MAX)
        load.ends.append(self)
        if dialect is Dialect.BINARY:
            self.say(packets.hello(schemas.HelloMeta()))

    def say(self, data: bytes) -> None:
        """These bytes come, in one read."""
        load = self._load
        load.board.received(self.peer, self._decoder.feed(data), load.now)

    def take(self) -> list[bytes]:
        """What it was sent."""
        sends = self.peer.sends
        self.peer.sends = []
        return sends


class Load:
    """A switchboard and its peers."""

    def __init__(
        self, clients: int, workers: int, capacity: int, dialect: Dialect = Dialect.BINARY, limits: Limits = LIMITS
    ) -> None:
        self.board = Switchboard(b"counted by bench", limits, json_slot_rest_ms=0)
        self.now = 1000.0
        self.ends: list[End] = []
        self.clients = [End(self, Role.CLIENT, dialect) for _ in range(clients)]
        self.workers = [End(self, Role.WORKER, dialect) for _ in range(workers)]
        for worker in self.workers:
            if dialect is Dialect.BINARY:
                worker.say(packets.register(schemas.RegisterMeta(cap=capacity, serves=["p"])))
            else:
                body = b'{"packet_type":"REGISTER","cookie":null,"capacity":%d}' % capacity
                worker.say(len(body).to_bytes(4, "big") + body)
        self._cookies = 0
        self.clear()

    def clear(self) -> None:
        """Forget what was sent so far."""
        for end in self.ends:
            end.take()
        self.board.effects.clear_sends()
        self.board.effects.clear_rare()

    def cookie(self) -> bytes:
        """A new one. They are spread over the tables, as random ones are."""
        self._cookies += 1
        return _COOKIE(7, self._cookies, self._cookies * 2654435761 % (1 << 32))

    def passed(self) -> None:
        """A turn of the loop is over."""
        self.now += 0.001
        effects = self.board.effects
        # Whoever has been sent something since takes it in the next turn.
        effects.recipients.clear()
        if effects.rare:
            effects.clear_rare()


class Template:
    """A frame, with a place for the cookie."""

    def __init__(self, frame: bytes, *, is_json: bool = False) -> None:
        frame = to_json(frame) if is_json else frame
        cookie = _text_of(MARK) if is_json else MARK
        self._before, _, self._after = frame.partition(cookie)

    def of(self, cookie: bytes) -> bytes:
        """The frame of this job, whose cookie is as a frame of its kind has it."""
        return self._before + cookie + self._after


def _text_of(cookie: bytes) -> bytes:
    return str(uuid.UUID(bytes=cookie)).encode()


def plain(peers: int, at_once: int, dialect: Dialect = Dialect.BINARY) -> Run:
    """Jobs without any options, so many at once of each client, which acknowledges what it gets."""
    load = Load(peers, peers, at_once, dialect)
    options = schemas.encode_meta(schemas.RunOptions(p="p", enc="json" if dialect is Dialect.JSON else ENCODING_BYTES))
    is_json = dialect is Dialect.JSON
    variables = b'"' + b"x" * (len(PAYLOAD) - 2) + b'"' if is_json else PAYLOAD
    encoding = "json" if is_json else ENCODING_BYTES
    runs = Template(packets.run(MARK, options, variables), is_json=is_json)
    results = Template(packets.result(MARK, 1, variables, encoding), is_json=is_json)
    begin, end = (JSON_COOKIE, JSON_COOKIE + 36) if is_json else (8, 24)
    received = [0] * peers

    def run(rounds: int) -> int:
        for _ in range(rounds):
            for client in load.clients:
                cookies = [load.cookie() for _ in range(at_once)]
                client.say(b"".join([runs.of(_text_of(cookie) if is_json else cookie) for cookie in cookies]))
            for worker in load.workers:
                worker.say(b"".join([results.of(frame[begin:end]) for frame in worker.take()]))
            for number, client in enumerate(load.clients):
                received[number] += len(client.take())
                if not is_json:
                    client.say(packets.ack(received[number]))
            load.passed()
        return rounds * peers * at_once

    return run


def submit(load: Load, template: Template) -> None:
    """As many jobs of each client as it has at once."""
    for client in load.clients:
        client.say(b"".join([template.of(load.cookie()) for _ in range(AT_ONCE)]))


def run_template(left_ms: int = 0) -> Template:
    """A RUN without any options, but perhaps a deadline."""
    return Template(packets.run(MARK, schemas.encode_meta(schemas.RunOptions(p="p", enc=ENCODING_BYTES)), PAYLOAD, left_ms))


def runs_alone() -> Run:
    """RUNs to workers that report nothing: they have slots enough."""
    load = Load(PEERS, PEERS, ALONE * AT_ONCE)
    template = run_template()

    def run(rounds: int) -> int:
        for _ in range(rounds):
            submit(load, template)
            for worker in load.workers:
                worker.take()
            load.passed()
        return rounds * PEERS * AT_ONCE

    return run


def results_alone() -> Run:
    """RESULTs of jobs that were dispatched before, and that no client acknowledges meanwhile."""
    load = Load(PEERS, PEERS, ALONE * AT_ONCE)
    template = run_template()
    result_of = Template(packets.result(MARK, 1, PAYLOAD, ENCODING_BYTES))
    for _ in range(ALONE):
        submit(load, template)
    held = [worker.take() for worker in load.workers]
    load.clear()
    told = 0

    def run(rounds: int) -> int:
        nonlocal told
        for _ in range(rounds):
            for worker, frames in zip(load.workers, held, strict=True):
                worker.say(b"".join([result_of.of(frame[8:24]) for frame in frames[told : told + AT_ONCE]]))
            for client in load.clients:
                client.take()
            told += AT_ONCE
            load.passed()
        return rounds * PEERS * AT_ONCE

    return run


def queued(keys: int, at_once: int) -> Run:
    """Jobs of so many keys behind thousands that wait, each of which gets the slot that another one leaves; so many in each read."""
    load = Load(1, 1, at_once)
    (client,), (worker,) = load.clients, load.workers
    options = [schemas.encode_meta(schemas.RunOptions(p="p", enc=ENCODING_BYTES, key=f"key {key}")) for key in range(keys)]
    runs = [Template(packets.run(MARK, meta, PAYLOAD)) for meta in options]
    result = Template(packets.result(MARK, 1, PAYLOAD, ENCODING_BYTES))
    received = begun = 0

    def come(count: int) -> None:
        nonlocal begun
        client.say(b"".join([runs[(begun + number) % keys].of(load.cookie()) for number in range(count)]))
        begun += count

    come(QUEUED)

    def run(rounds: int) -> int:
        nonlocal received
        for _ in range(rounds):
            come(at_once)
            worker.say(b"".join([result.of(frame[8:24]) for frame in worker.take()]))
            received += sum(frame[4] == PacketType.RESULT for frame in client.take())
            client.say(packets.ack(received))
            load.passed()
        return rounds * at_once

    return run


def progress() -> Run:
    """Chunks of a job that is followed, which are credited as they are taken."""
    load = Load(1, 1, 1)
    (client,), (worker,) = load.clients, load.workers
    options = schemas.encode_meta(schemas.RunOptions(p="p", enc=ENCODING_BYTES, follow=True))
    cookie = load.cookie()
    client.say(packets.run(cookie, options, PAYLOAD))
    load.clear()
    sent = 0

    def run(rounds: int) -> int:
        nonlocal sent
        for _ in range(rounds):
            numbers = range(sent + 1, sent + CHUNKS + 1)
            worker.say(b"".join(packets.progress(cookie, 1, number, PAYLOAD, ENCODING_BYTES) for number in numbers))
            sent += CHUNKS
            taken = sum(frame[4] == PacketType.PROGRESS for frame in client.take())
            client.say(packets.credit(cookie, 0, taken))
            worker.take()
            load.passed()
        return rounds * CHUNKS

    return run


WORKLOADS: dict[str, tuple[Callable[[], Run], int]] = {
    "plain, 4 x 64": (lambda: plain(4, 64), 8),
    "its RUN": (runs_alone, 8),
    "its RESULT": (results_alone, 8),
    "plain, 1 x 1": (lambda: plain(1, 1), 1_000),
    "JSON, 4 x 32": (lambda: plain(4, 32, Dialect.JSON), 8),
    "that waits, 50 keys": (lambda: queued(KEYS, 8), 100),
    "that waits, in a rush": (lambda: queued(1, AT_ONCE), 8),
    "chunk of progress": (progress, 100),
}
"""What is counted, by name, and how many rounds are enough."""


def main(name: str, rounds: int) -> int:
    """Returns how many jobs were done."""
    run = WORKLOADS[name][0]()
    # All that is made once is made now: caches, tables of their final size, free lists.
    run(max(2, WORKLOADS[name][1] // 4))
    gc.collect()
    gc.freeze()
    gc.disable()
    return run(rounds)


if __name__ == "__main__":
    print(main(sys.argv[1], int(sys.argv[2])))
