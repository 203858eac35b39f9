"""A connection that is only pretended: whatever a switchboard sends there is kept to be looked at."""

import json
from typing import Any

from reasonchip_broker.errors import InternalError
from reasonchip_broker.protocol import schemas
from reasonchip_broker.protocol.binary import Packet, decode
from reasonchip_broker.protocol.codes import CloseReason, Code, Dialect, PacketType, Role
from reasonchip_broker.protocol.json_v0 import to_binary, to_json
from reasonchip_broker.routing.effects import Close
from reasonchip_broker.routing.peers import Peer


class FakeLink:
    """A pretended connection: what was sent there, and how it ended."""

    __slots__ = ("close", "closed", "dialect", "kept", "number", "peer", "role", "unread", "wants_writable", "welcomed")

    def __init__(self, number: int, role: Role, dialect: Dialect) -> None:
        self.number = number
        self.role = role
        self.dialect = dialect
        self.peer: Peer
        """The switchboard's record of it."""
        self.unread: list[bytes] = []
        """Frames that no `take` has returned yet, as the switchboard sent them: a connection translates them for JSON peers."""
        self.welcomed = dialect == Dialect.JSON
        self.closed = False
        """Whether the connection is over, whoever ended it."""
        self.kept: list[tuple[bytes, int]] = []
        """Of what a worker said that it holds, what it was told that it keeps."""
        self.close: Close | None = None
        """Why the switchboard closed it, if it was the switchboard."""
        self.wants_writable = False
        """Whether the switchboard asked to be told when the outbox has room."""

    @property
    def id(self) -> bytes:
        """The connection's id."""
        return self.number.to_bytes(16, "big")

    @property
    def close_reason(self) -> CloseReason | None:
        """Why the switchboard closed it; None if it did not."""
        return self.close.reason if self.close is not None else None

    def take(self) -> list[Packet]:
        """Every packet that came since the last call."""
        taken = [decode(to_binary(frame, 1)) for frame in self.unread]
        self.unread.clear()
        return taken

    def take_json(self) -> list[dict[str, Any]]:
        """What a JSON peer was told since the last call: not every packet has a meaning there."""
        taken = [json.loads(body[4:]) for body in map(to_json, self.unread) if body]
        self.unread.clear()
        return taken

    def take_one(self, kind: PacketType) -> Packet:
        """The one packet that came, which is of this type. Raises InternalError if something else came, or not just one."""
        taken = self.take()
        if [packet.kind for packet in taken] != [kind]:
            raise InternalError(
                f"expected one {kind.name}, but link {self.number} was sent {[packet.kind for packet in taken]}"
            )
        return taken[0]

    def take_kinds(self, kind: PacketType) -> list[Packet]:
        """Every packet of this type that came since the last call of any `take`; the others are dropped."""
        return [packet for packet in self.take() if packet.kind == kind]

    def take_status(self) -> schemas.JobStatus:
        """The status in the one REPLY that came. Raises InternalError if there is none, else as `take_one` does."""
        status = schemas.reply_meta(self.take_one(PacketType.REPLY).meta).job
        if status is None:
            raise InternalError("a REPLY without the job's status")
        return status

    def take_reply(self) -> tuple[Code, str]:
        """The code and sentence of the one REPLY that came. Raises InternalError as `take_one` does."""
        packet = self.take_one(PacketType.REPLY)
        return Code(packet.code), schemas.reply_meta(packet.meta).msg

    def take_codes(self) -> list[tuple[PacketType, Code]]:
        """Type and code of every packet that came since the last call."""
        return [(PacketType(packet.kind), Code(packet.code)) for packet in self.take()]
