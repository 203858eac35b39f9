"""What makes no sense: packets of an unknown type, of the wrong role, without what they need, too large, or that are none.

What must be seen: an answer that says so, or the end of the connection with its reason, and nothing else.
"""

from collections.abc import Callable

from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import encode
from reasonchip_broker.protocol.codes import NO_COOKIE, CloseReason, Code, PacketType
from reasonchip_broker.protocol.frames import UNKNOWN
from reasonchip_broker.testing.simulation.chooser import Chooser
from reasonchip_broker.testing.simulation.feature import Feature
from reasonchip_broker.testing.simulation.records import Client, End, Worker
from reasonchip_broker.testing.switchboard_driver import json_packet, oversized

BAD_META = b"\x81\xa1p\xc1"
STRANGE = b"k" * 16

Operation = tuple[object, ...]

REPLIES: list[tuple[bytes, int, Code]] = [
    (encode(99), 99, Code.UNSUPPORTED_PACKET_TYPE),
    (encode(PacketType.RESULT), PacketType.RESULT, Code.UNSUPPORTED_PACKET_TYPE),
    (packets.cancel(NO_COOKIE), PacketType.CANCEL, Code.BAD_PACKET),
    (encode(PacketType.RUN, cookie=STRANGE), PacketType.RUN, Code.BAD_PACKET),
]
WORKER_REPLIES: list[tuple[bytes, int, Code]] = [
    (encode(99), 99, Code.UNSUPPORTED_PACKET_TYPE),
    (encode(PacketType.REGISTER, meta=b"\x80"), PacketType.REGISTER, Code.BAD_PACKET),
    (encode(PacketType.RUN, cookie=STRANGE), PacketType.RUN, Code.BAD_PACKET),
]
JSON_BODIES: list[tuple[bytes, int, Code]] = [
    (json_packet("SHUTDOWN"), UNKNOWN, Code.UNSUPPORTED_PACKET_TYPE),
    (b"{}", PacketType.RUN, Code.BAD_PACKET),
    (b'{"packet_type":"RUN","cookie":null}', PacketType.RUN, Code.BAD_PACKET),
]


class Nonsense(Feature):
    """What no peer should send."""

    def operations(self) -> dict[str, Callable[..., None]]:
        return {"garbage": self.garbage, "oversized run": self.oversized_run}

    def garbage(self, id: int, choice: int) -> None:
        """A peer says what it should not; it is answered, or let go."""
        end = self.model.ends.get(id)
        if end is None or end.greeting_until is not None:
            return
        if isinstance(end, Worker) and not end.capacity:
            return
        if end.is_json:
            self._json_garbage(end, choice)
        elif choice % 3:
            replies = REPLIES if isinstance(end, Client) else WORKER_REPLIES
            frame, to, code = replies[choice % len(replies)]
            self.model.answer(end, to, frozenset({code}))
            self.world.send(end, frame)
        else:
            closes = [
                (packets.hello(schemas.HelloMeta()), CloseReason.PROTOCOL_ERROR),
                (
                    encode(PacketType.RUN if isinstance(end, Client) else PacketType.REGISTER, meta=BAD_META),
                    CloseReason.PROTOCOL_ERROR,
                ),
                (packets.goodbye(CloseReason.NORMAL, "bye"), CloseReason.NORMAL),
            ]
            frame, reason = closes[choice // 3 % len(closes)]
            self.model.step.closes[end.link.number] = reason
            self.world.send(end, frame)

    def oversized_run(self, id: int, cookie: bytes) -> None:
        """A RUN over the frame limit comes, of which there is only the cookie: whatever that is, only this RUN is refused."""
        end = self.world.speaker(id)
        if end is None or (end.is_json and isinstance(end, Worker)):
            return
        self.model.answer(end, PacketType.RUN, frozenset({Code.TOO_LARGE}))
        self.world.deliver(end, oversized(PacketType.RUN, cookie, 0 if end.is_json else 1))

    def _json_garbage(self, end: End, choice: int) -> None:
        body, to, code = JSON_BODIES[choice % len(JSON_BODIES)]
        if isinstance(end, Client):
            self.model.answer(end, to, frozenset({code}))
        self.driver.send_json(end.link, body)

    @staticmethod
    def choices(chooser: Chooser) -> list[tuple[int, Callable[[], Operation | None]]]:
        def oversized_run() -> Operation | None:
            ends = chooser.ends() if chooser.chance(0.1) else chooser.clients()
            return chooser.about("oversized run", ends, chooser.cookie()) if chooser.chance(0.5) else None

        return [
            (1, lambda: chooser.about("garbage", chooser.ends(), int(chooser.random() * 100))),
            (1, oversized_run),
        ]
