"""One connection's conversation with the broker, seen from the other end: greeting, heartbeat, farewell.

No I/O and no clock: frames and the present time come in, frames to send come out. Whoever owns the connection sends `opening()`,
hands every batch of frames to `receive`, and calls `check` at `check_at`, which tells a broker that fell silent from one that has
nothing to say.

    GREETING ──WELCOME──▶ WELCOMED ──GOODBYE──▶ (the broker closes)
        │                    │
        └─ no answer ────────┴─ silence ──▶ ConnectionLost from `check`
"""

from collections.abc import Set

from reasonchip_broker.errors import ConnectionLost, RemoteProtocolError
from reasonchip_broker.limits import HANDSHAKE_FRAME_BYTES_MAX, Limits
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import code_of, meta_of, number_of
from reasonchip_broker.protocol.codes import CloseReason, Code, PacketType, Role
from reasonchip_broker.protocol.frames import LENGTH_MIN, OVERSIZED, PREFACE, Frame

LATE_S = 1.0
"""A check that comes this much (or half a beat) too late means that this process stood still: silence does not count meanwhile."""

_SENT_TO: dict[Role, Set[int]] = {
    Role.CLIENT: {
        PacketType.REPLY,
        PacketType.RESULT,
        PacketType.RESULT + OVERSIZED,
        PacketType.PROGRESS,
        PacketType.PROGRESS + OVERSIZED,
        PacketType.CREDIT,
    },
    Role.WORKER: {
        PacketType.REPLY,
        PacketType.RUN,
        PacketType.RUN + OVERSIZED,
        PacketType.CANCEL,
        PacketType.DRAIN,
        PacketType.INPUT,
        PacketType.CREDIT,
        PacketType.RESUME,
        PacketType.ACK,
        PacketType.RESULT,
        PacketType.RESULT + OVERSIZED,
        PacketType.PROGRESS,
        PacketType.PROGRESS + OVERSIZED,
    },
}
"""What a broker may say to either role, besides what every session answers by itself."""


class Session:
    """The conversation over one connection; a new connection needs a new session.

    `role` is this end's, `hello` what it says of itself, `limits` gives the handshake's time. Raises ValueError for a `hello` that no
    broker would take: a name with control characters, say, or a token that makes the frame larger than a handshake's may be.
    """

    __slots__ = ("_expected", "_floor", "_limits", "_opening", "check_at", "goodbye", "heard_at", "role", "welcome")

    def __init__(self, role: Role, hello: schemas.HelloMeta, limits: Limits) -> None:
        frame = packets.hello(hello)
        try:
            schemas.hello_meta(meta_of(frame))
        except (schemas.MetaInvalid, schemas.MetaUndecodable) as error:
            raise ValueError(f"HELLO: {error}") from error
        if len(frame) > HANDSHAKE_FRAME_BYTES_MAX:
            raise ValueError(f"HELLO is {len(frame)} bytes, and may be {HANDSHAKE_FRAME_BYTES_MAX}: is the token too long?")
        self.role = role
        self.welcome: schemas.WelcomeMeta | None = None
        """What the broker said first; None until then. Another `broker` than before means that it is another run of it."""
        self.goodbye: tuple[CloseReason, str] | None = None
        """Why the broker is about to close the connection, if it said so."""
        self.check_at = 0.0
        """When `check` is due. At once in the beginning, since the first check starts the handshake's time; WELCOME moves it."""
        self._opening = PREFACE + frame
        self._limits = limits
        self._expected = _SENT_TO[role]
        self.heard_at = 0.0
        """When the broker last said something."""
        self._floor = 0.0

    def opening(self) -> bytes:
        """What this end says first, to be sent as one piece."""
        return self._opening

    def receive(self, frames: list[Frame], now: float) -> tuple[list[bytes], list[Frame]]:
        """Take what the connection received (no frames: a part of one). Returns frames to send back, and those left for the owner.

        What is left is what a broker may say to this role: REPLY, RESULT, PROGRESS and CREDIT to a client; to a worker also RUN,
        CANCEL, DRAIN and the rest of what belongs to its jobs (RESULT, PROGRESS or RUN `+ OVERSIZED`: its header, when it was over
        this end's own frame limit). Any other packet is answered as unsupported. Raises RemoteProtocolError when what came makes
        no sense at this point: the connection is to be closed, with the error's `reason`.
        """
        self.heard_at = now
        answers: list[bytes] = []
        expected = self._expected
        if self.welcome is not None and self.goodbye is None:
            for frame in frames:
                if frame[0] not in expected:
                    break
            else:
                return answers, frames
        left: list[Frame] = []
        for frame in frames:
            if self.goodbye is not None:
                break  # What follows a farewell is not heard.
            if frame[0] in expected and self.welcome is not None:
                left.append(frame)
            else:
                self._converse(frame, answers, now)
        return answers, left

    def excuse(self, now: float) -> None:
        """The broker could not be heard until now, since this end did not read (its outbox was full): its silence does not count."""
        self.heard_at = now

    def check(self, now: float) -> bytes | None:
        """Look at how long the broker has been silent; to be called at `check_at`, which it moves on. Returns a PING to send, or None.

        Raises ConnectionLost with the reason HANDSHAKE_TIMEOUT or HEARTBEAT_TIMEOUT: the connection is of no use any more.
        """
        late_s = LATE_S if self.welcome is None else min(LATE_S, self.welcome.beat / 2000)
        if not self.check_at or now - self.check_at > late_s:
            self._floor = now
        silent_s = now - max(self.heard_at, self._floor)
        if self.welcome is None:
            limit_s = self._limits.handshake_s
            if silent_s >= limit_s:
                raise ConnectionLost(f"the broker did not answer HELLO within {limit_s:g} s", CloseReason.HANDSHAKE_TIMEOUT)
            self.check_at = now + limit_s - silent_s
            return None
        beat_s = self.welcome.beat / 1000
        dead_s = self.welcome.dead / 1000
        if silent_s >= dead_s:
            raise ConnectionLost(f"nothing was heard of the broker for {silent_s:.0f} s", CloseReason.HEARTBEAT_TIMEOUT)
        if silent_s >= beat_s or self._floor == now:
            # After a standstill of our own a sign of life is due as well: the broker may be about to give up on us.
            self.check_at = now + min(beat_s, dead_s - silent_s)
            return packets.ping()
        self.check_at = now + beat_s - silent_s
        return None

    def _converse(self, frame: Frame, answers: list[bytes], now: float) -> None:
        kind, cookie, data = frame[0], frame[1], frame[2]
        if kind == PacketType.GOODBYE:
            self.goodbye = _farewell(data)
        elif kind == PacketType.WELCOME:
            self._welcomed(data, now)
        elif self.welcome is None:
            raise RemoteProtocolError(f"the broker said packet type {data[4]} before WELCOME", CloseReason.PROTOCOL_ERROR)
        elif kind == PacketType.PING:
            answers.append(packets.pong(number_of(data)))
        elif kind != PacketType.PONG:
            sentence = f"Packet type not supported by a {self.role.name.lower()}"
            answers.append(
                packets.reply(data[4], Code.UNSUPPORTED_PACKET_TYPE, sentence, cookie=cookie, number=number_of(data))
            )

    def _welcomed(self, data: bytes, now: float) -> None:
        if self.welcome is not None:
            raise RemoteProtocolError("the broker said WELCOME twice", CloseReason.PROTOCOL_ERROR)
        try:
            welcome = schemas.welcome_meta(meta_of(data))
        except (schemas.MetaInvalid, schemas.MetaUndecodable) as error:
            raise RemoteProtocolError(f"WELCOME: {error}", CloseReason.PROTOCOL_ERROR) from error
        if not 0 < welcome.beat < welcome.dead or welcome.frame < LENGTH_MIN:
            sentence = f"WELCOME: limits that can't be kept: beat {welcome.beat}, dead {welcome.dead}, frame {welcome.frame}"
            raise RemoteProtocolError(sentence, CloseReason.PROTOCOL_ERROR)
        self.welcome = welcome
        self.check_at = now + welcome.beat / 1000


def _farewell(data: bytes) -> tuple[CloseReason, str]:
    """A GOODBYE's reason and sentence. It is the last word either way, so one that can't be read is taken as far as it can."""
    try:
        reason = CloseReason(code_of(data))
    except ValueError:
        reason = CloseReason.NORMAL
    try:
        return reason, schemas.goodbye_meta(meta_of(data)).msg
    except (schemas.MetaInvalid, schemas.MetaUndecodable):
        return reason, ""
