"""A worker of nothing but frames in a process of its own: `python -m tests.process.row_worker JSON`.

The JSON object says `url`, `capacity`, `serves`, and where to write the side effects of jobs (`effects`: the cookie and attempt of each
job that is begun, a line each); also `name`, `instance` (hex) and `grace`, if it has a session. Jobs of a pipeline that begins with
"hold" are kept until it is told to `finish`; others are echoed. It has a session to keep, so it comes back at once when its connection
ends, says what it holds, and sends again what was not acknowledged; where it is refused, it waits for its end. It says each thing that
happens to it in a line of JSON: `["registered", [cookies confirmed]]`, `["held", count]`, `["finished", count]`, `["lost", farewell]`.
"""

import asyncio
import json
import os
import sys
from typing import Any

from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import meta_of
from reasonchip_broker.protocol.codes import CloseReason, PacketType
from reasonchip_broker.protocol.frames import PREFACE, Frame
from tests import attentive
from tests.raw_peers import RawWorker, connect, echoed


def say(*what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


class Hands:
    """What outlives a connection: jobs that are held, and RESULTs that are not acknowledged."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.given = given
        self.held: dict[bytes, Frame] = {}
        self.unacknowledged: dict[bytes, tuple[int, bytes]] = {}
        self.effects = os.open(given["effects"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.peer: Hand | None = None

    def begin(self, frame: Frame) -> None:
        os.write(self.effects, f"{frame[1].hex()} {frame[4]}\n".encode())
        pipeline = schemas.run_options(meta_of(frame[2])).p
        if pipeline.startswith("hold"):
            self.held[frame[1]] = frame
            say("held", len(self.held))
        else:
            self.end(frame)

    def end(self, frame: Frame) -> None:
        result = echoed(frame)
        if self.given.get("grace"):
            self.unacknowledged[frame[1]] = frame[4], result
        if self.peer is not None and not self.peer.is_lost:
            self.peer.send(result)

    def finish(self) -> None:
        held, self.held = self.held, {}
        for frame in held.values():
            self.end(frame)
        say("finished", len(held))

    def listed(self) -> list[tuple[bytes, int]]:
        """Every attempt that it holds, or whose RESULT may not have arrived."""
        running = [(cookie, frame[4]) for cookie, frame in self.held.items()]
        return running + [(cookie, attempt) for cookie, (attempt, _) in self.unacknowledged.items()]


class Hand(RawWorker):
    """One connection."""

    def __init__(self, hands: Hands) -> None:
        super().__init__()
        self._hands = hands
        self.acknowledged = 0

    def hears(self, frame: Frame) -> None:
        if frame[0] == PacketType.RUN:
            self._hands.begin(frame)
        elif frame[0] == PacketType.ACK:
            for cookie in list(self._hands.unacknowledged)[: frame[5] - self.acknowledged]:
                del self._hands.unacknowledged[cookie]
            self.acknowledged = frame[5]
        else:
            super().hears(frame)


async def serve(hands: Hands) -> None:
    """One connection, from its beginning to its end."""
    given = hands.given
    hand = await connect(given["url"], Hand(hands))
    who = schemas.HelloMeta(
        sw="raw",
        v="1",
        name=given.get("name"),
        inst=bytes.fromhex(given.get("instance", "")) or None,
        grace=given.get("grace", 0),
    )
    listed = hands.listed()
    register = schemas.RegisterMeta(cap=given["capacity"], serves=given["serves"], held=listed)
    hand.send(PREFACE, packets.hello(who), packets.register(register))
    answer = await hand.kind(PacketType.REPLY)
    confirmed = schemas.reply_meta(answer.meta).held
    hands.peer = hand
    # Also of what is not confirmed: its slot counts as taken until its RESULT has come.
    hand.send(*(frame for _, frame in hands.unacknowledged.values()))
    say("registered", [cookie.hex() for cookie, _ in confirmed])
    await attentive.until(lambda: hand.is_lost, "the connection lasted", 3600.0)
    said = hand.farewell()
    say("lost", said[0].name if said else "")
    if said is None or said[0] is not CloseReason.REPLACED:
        await serve(hands)


async def main() -> None:
    hands = Hands(json.loads(sys.argv[1]))
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    serving = loop.create_task(serve(hands))
    while (line := await reader.readline()) == b"finish\n":
        hands.finish()
    assert not line
    serving.cancel()


attentive.run(main())
